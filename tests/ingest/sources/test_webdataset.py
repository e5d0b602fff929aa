"""Files beside an image in an archive: pairs and labels where it is clear whose they are, rejects where it is not."""

from __future__ import annotations

import io
import json
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from setclip_cli.ingest.sources.archive import CaptionArchive, ImageArchive
from setclip_cli.ingest.sources.base import Record, Reject
from setclip_cli.ingest.sources.samples import Samples


def png(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def make(path: Path, *members: tuple[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members:
                archive.writestr(zipfile.ZipInfo(name), content)
        return path
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def captions(path: Path) -> tuple[list[tuple[str, str | None]], dict[str, str]]:
    """(text, group) of each caption, and the reason of each listed reject."""
    items = list(CaptionArchive(path).records(0, 1))
    taken = [(str(item.payload), item.group) for item in items if isinstance(item, Record)]
    return taken, {item.location: item.reason for item in items if isinstance(item, Reject) and item.listed}


def labels(path: Path) -> tuple[dict[str, str | None], dict[str, str]]:
    items = list(ImageArchive(path).records(0, 2))
    taken = {item.id: item.label for item in items if isinstance(item, Record)}
    return taken, {item.location: item.reason for item in items if isinstance(item, Reject) and item.listed}


@pytest.mark.parametrize(
    ("images", "files", "expected"),
    [
        (["22.05.jpg", "22.06.jpg"], ["22.05.txt", "22.06.txt"], {"22.05.txt": "22.05.jpg", "22.06.txt": "22.06.jpg"}),
        (["22.05.jpg", "22.06.jpg"], ["22.txt"], {"22.txt": "fits several images: 22.05.jpg, 22.06.jpg"}),
        (["22.05.jpg"], ["22.06.txt"], {"22.06.txt": None}),
        (["a.jpg", "a.seg.png"], ["a.txt", "a.cls"], {"a.txt": "a.jpg", "a.cls": "a.jpg"}),
        (["a.jpg", "a.png"], ["a.txt"], {"a.txt": "fits several images: a.jpg, a.png"}),
        (["a.rgb.jpg"], ["a.txt", "a.caption.json"], {"a.txt": "a.rgb.jpg", "a.caption.json": "a.rgb.jpg"}),
        (["a.rgb.jpg", "a.nir.jpg"], ["a.txt"], {"a.txt": "fits several images: a.rgb.jpg, a.nir.jpg"}),
        (["A.JPG"], ["A.TXT", "a.txt"], {"A.TXT": "A.JPG", "a.txt": None}),
        (["x/a.jpg", "y/a.jpg"], ["x/a.txt", "a.txt"], {"x/a.txt": "x/a.jpg", "a.txt": None}),
        (["a.jpg"], ["a.txt", "a.json", "a.caption"], {"a.txt": "a.jpg", "a.json": "a.jpg", "a.caption": "a.jpg"}),
        (["a.jpg"], ["a.txt", "a.en.txt"], {"a.txt": "a.jpg", "a.en.txt": "one of several files that fit one image"}),
        (["22.jpg"], ["22.05.txt", "22.06.txt"], dict.fromkeys(["22.05.txt", "22.06.txt"], "one of several files")),
        (["a.jpg", "a.jpg"], ["a.txt"], {"a.txt": "fits several images: a.jpg, a.jpg"}),
        (["a.jpg"], ["a.txt", "a.txt"], {"a.txt": "one of several files that fit one image: a.txt, a.txt"}),
        ([".jpg", "b"], [".txt", "b.txt"], {".txt": ".jpg", "b.txt": "b"}),
    ],
)
def test_a_file_belongs_to_the_image_with_the_longest_common_stem(
    images: list[str], files: list[str], expected: dict[str, str | None]
) -> None:
    samples = Samples(images, files)
    for file, wanted in expected.items():
        unclear = samples.unclear(file)
        if unclear is None:
            assert samples.image_of(file) == wanted
        else:
            assert wanted is not None
            assert unclear.startswith(wanted)
            assert samples.image_of(file) is None


@pytest.mark.parametrize("kind", ["a.tar", "a.zip"])
def test_dotted_names_pair_and_label_their_own_image(tmp_path: Path, kind: str) -> None:
    path = make(
        tmp_path / kind,
        ("22.05.png", png(1)),
        ("22.05.txt", b"five"),
        ("22.06.png", png(2)),
        ("22.06.txt", b"six"),
        ("22.06.cls", b"3.0"),
    )
    assert captions(path) == ([("five", "22.05.png"), ("six", "22.06.png")], {})
    assert labels(path) == ({"22.05.png": None, "22.06.png": "3"}, {})


@pytest.mark.parametrize("kind", ["a.tar", "a.zip"])
def test_what_fits_several_images_pairs_and_labels_none_and_is_listed(tmp_path: Path, kind: str) -> None:
    path = make(
        tmp_path / kind,
        ("a.jpg", png(1)),
        ("a.png", png(2)),
        ("a.cls", b"lake"),
        ("a.txt", b"words"),
        ("b.txt", b"more"),
    )
    assert captions(path) == ([("more", None)], {"a.txt": "fits several images: a.jpg, a.png"})
    assert labels(path) == (
        {"a.jpg": None, "a.png": None},
        {"a.cls": "label that fits several images: a.jpg, a.png"},
    )


def test_every_caption_of_a_list_in_json_is_taken(tmp_path: Path) -> None:
    fields: list[Any] = [
        {"caption": ["one", "two"]},
        {"captions": ["three"], "title": "metadata"},
        {"caption": "four", "label": 3},
        {"text": [{"raw": "five"}, 6]},
        ["seven", "eight"],
        {"caption": []},
        {"width": 3},
        {"caption": None},
        7,
    ]
    members = [(f"{number}.json", json.dumps(each).encode()) for number, each in enumerate(fields)]
    path = make(tmp_path / "a.tar", *members, ("0.png", png(1)), ("x.json", b"{"), ("y.json", b'{"text":1,"text":2}'))
    taken, reasons = captions(path)
    assert taken == [
        ("one", "0.png"),
        ("two", "0.png"),
        ("three", None),
        ("four", None),
        ("five", "3.json"),
        ("seven", "4.json"),
        ("eight", "4.json"),
    ]
    assert reasons == {
        "3.json, caption 2": "caption is no string: int",
        "8.json": "caption is no string: int",
        "x.json": "not JSON",
        "y.json": "JSON with one key twice: 'text'",
    }
    items = list(CaptionArchive(path).records(0, 1))
    counted = [(item.location, item.reason) for item in items if isinstance(item, Reject) and not item.listed]
    assert counted == [
        ("5.json", "empty list of captions"),
        ("6.json", "metadata without a caption"),
        ("7.json", "metadata without a caption"),
        ("0.png", "no caption"),
    ]
    for start in range(len(items)):
        assert list(CaptionArchive(path).records(start, 1)) == items[start:]


@pytest.mark.parametrize(
    ("content", "label", "reason"),
    [
        (b"lake\n", "lake", None),
        (b"3", "3", None),
        (b"3.0", "3", None),
        (b'"lake"', "lake", None),
        (b"", None, None),
        (b"[1, 2]", None, "label not used: its type is list"),
        (b'{"id": 1}', None, "label not used: its type is dict"),
        (b"caf\xe9", None, "label that is not UTF-8"),
        (b"x" * 300, None, "label longer than 256 bytes"),
    ],
)
def test_labels_in_cls_members(tmp_path: Path, content: bytes, label: str | None, reason: str | None) -> None:
    path = make(tmp_path / "a.tar", ("1.png", png(1)), ("1.cls", content))
    assert labels(path) == ({"1.png": label}, {} if reason is None else {"1.cls": reason})


def test_labels_in_json_members_and_labels_that_differ(tmp_path: Path) -> None:
    path = make(
        tmp_path / "a.tar",
        *((f"{number}.png", png(number)) for number in range(4)),
        ("0.json", b'{"label": 3.0}'),
        ("1.json", b'{"cls": "lake"}'),
        ("2.json", b'{"label": "lake"}'),
        ("2.cls", b"forest"),
        ("3.json", b'{"label": ["lake"]}'),
    )
    found, reasons = labels(path)
    assert found == {"0.png": "3", "1.png": "lake", "2.png": None, "3.png": None}
    assert reasons == {
        "2.json": "one of several labels: 2.png",
        "2.cls": "one of several labels: 2.png",
        "3.json": "label not used: its type is list",
    }


def test_other_members_are_listed_or_counted(tmp_path: Path) -> None:
    path = make(
        tmp_path / "a.zip",
        ("a/", b""),
        ("a/1.png", png(1)),
        ("a/1.npy", b"x"),
        ("a/inner.tar", b"x"),
        ("a/1.txt", b"words"),
        ("a/empty.png", b""),
        ("__MACOSX/a/._1.png", b"x"),
        ("a/.DS_Store", b"x"),
    )
    items = list(ImageArchive(path).records(0, 1))
    assert sorted((item.location, item.reason, item.bad) for item in items if isinstance(item, Reject)) == [
        ("__MACOSX/a/._1.png", "hidden file of another system", False),
        ("a/.DS_Store", "hidden file of another system", False),
        ("a/1.npy", "not an image: starts with 'x'", False),
        ("a/1.txt", "label, caption or metadata of an image", False),
        ("a/empty.png", "empty file", True),
        ("a/inner.tar", "not an image: starts with 'x'", False),
    ]
    assert captions(path) == (
        [("words", "a/1.png")],
        {"a/1.npy": "no caption suffix", "a/inner.tar": "no caption suffix"},
    )


def linked_tar(path: Path, **links: tuple[bytes, str]) -> Path:
    """A tar with links before and after two images, ``b.png`` and ``x/c.png``."""
    with tarfile.open(path, "w") as tar:
        for name, (kind, target) in links.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
        for name, content in (("b.png", png(1)), ("x/c.png", png(2)), ("b.txt", b"words")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


SYMBOLIC, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE


def test_links_to_members_of_a_tar_are_followed_and_others_are_rejects(tmp_path: Path) -> None:
    path = linked_tar(
        tmp_path / "a.tar",
        **{
            "hard.png": (HARD, "b.png"),
            "x/up.png": (SYMBOLIC, "../b.png"),
            "chain.png": (SYMBOLIC, "x/up.png"),
            "x/same.png": (SYMBOLIC, "c.png"),
            "hard.txt": (HARD, "b.txt"),
            "circle.png": (SYMBOLIC, "circle.png"),
            "out.png": (SYMBOLIC, "../../etc/passwd"),
            "absolute.png": (SYMBOLIC, "/etc/passwd"),
            "nowhere.png": (HARD, "no.png"),
            "folder.png": (SYMBOLIC, "x"),
        },
    )
    items = list(ImageArchive(path).records(0, 1))
    assert {item.id: item.payload for item in items if isinstance(item, Record)} == {
        "b.png": png(1),
        "x/c.png": png(2),
        "hard.png": png(1),
        "x/up.png": png(1),
        "chain.png": png(1),
        "x/same.png": png(2),
    }
    rejected = {item.location for item in items if isinstance(item, Reject) and item.listed}
    assert rejected == {"circle.png", "out.png", "absolute.png", "nowhere.png", "folder.png"}
    assert len(items) == 13
    assert captions(path)[0] == [("words", "b.png"), ("words", "hard.png")]
    for start in range(len(items)):
        assert list(ImageArchive(path).records(start, 2)) == items[start:]


def test_a_link_to_a_name_that_is_there_twice_is_not_followed(tmp_path: Path) -> None:
    path = linked_tar(tmp_path / "a.tar", **{"l.png": (HARD, "b.png")})
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("b.png")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    items = list(ImageArchive(path).records(0, 1))
    assert [item.location for item in items if isinstance(item, Reject) and item.listed] == ["l.png", "b.png"]


def test_links_to_members_of_a_zip_are_followed(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zip", ("x/b.png", png(1)))
    with zipfile.ZipFile(path, "a") as archive:
        for name, target in (("x/l.png", "b.png"), ("m.png", "x/l.png"), ("out.png", "/etc/passwd")):
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o120777 << 16
            archive.writestr(info, target)
    found, reasons = labels(path)
    assert set(found) == {"x/b.png", "x/l.png", "m.png"}
    assert reasons == {"out.png": "link in the archive"}


def test_links_that_would_give_far_more_than_the_archive_holds_are_rejects(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo("b.png")
        info.size = 400_000
        tar.addfile(info, io.BytesIO(bytes(info.size)))
        for number in range(5):
            link = tarfile.TarInfo(f"{number}.png")
            link.type, link.linkname = HARD, "b.png"
            tar.addfile(link)
    _, reasons = labels(path)
    assert [name for name, reason in reasons.items() if "too many links" in reason] == ["2.png", "3.png", "4.png"]


@pytest.mark.parametrize("kind", ["a.tar", "a.zip"])
def test_a_member_that_is_there_twice_is_met_twice(tmp_path: Path, kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of the second name
        path = make(tmp_path / kind, ("a.png", png(1)), ("a.png", png(2)), ("a.txt", b"words"))
    items = list(ImageArchive(path).records(0, 1))
    assert [item.payload for item in items if isinstance(item, Record)] == [png(1), png(2)]
    assert captions(path) == ([], {"a.txt": "fits several images: a.png, a.png"})
