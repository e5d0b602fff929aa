"""Archives read in place; hostile ones do no harm."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from setclip_cli.errors import SetClipError
from setclip_cli.ingest.options import ReadOptions
from setclip_cli.ingest.sources import archive, open_source
from setclip_cli.ingest.sources.archive import CaptionArchive, ImageArchive
from setclip_cli.ingest.sources.base import Record, Reject


def png(shade: int, side: int = 4) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (side, side), (shade, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return path


def make_tar(path: Path, members: dict[str, bytes]) -> Path:
    mode = {".gz": "w:gz", ".tgz": "w:gz", ".bz2": "w:bz2"}.get(path.suffix, "w")
    with tarfile.open(path, mode) as file:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def make(path: Path, members: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        return make_zip(path, members)
    if path.suffix == ".zst":
        import pyarrow as pa

        plain = make_tar(path.with_suffix(""), members)
        with pa.output_stream(str(path), compression="zstd") as file:
            file.write(plain.read_bytes())
        return path
    return make_tar(path, members)


KINDS = ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.tar.bz2", "a.tar.zst"]


def records(items: list[Record | Reject]) -> list[Record]:
    return [item for item in items if isinstance(item, Record)]


def reasons(items: list[Record | Reject]) -> dict[str, str]:
    return {item.location: item.reason for item in items if isinstance(item, Reject) and item.listed}


@pytest.mark.parametrize("kind", KINDS)
def test_images_come_out_with_their_paths_and_class_folders(tmp_path: Path, kind: str) -> None:
    path = make(tmp_path / kind, {"lake/1.png": png(1), "field/2.png": png(2), "field/notes.md": b"x"})
    source = open_source(path, ReadOptions(modality="image"))
    items = list(source.records(0, 2))
    assert sorted((record.id, record.label, record.payload) for record in records(items)) == [
        ("field/2.png", "field", png(2)),
        ("lake/1.png", "lake", png(1)),
    ]
    assert reasons(items) == {"field/notes.md": "not an image: starts with 'x'"}
    assert list(source.records(1, 1)) == items[1:]


@pytest.mark.parametrize("kind", ["a.zip", "a.tar"])
def test_names_that_would_leave_the_folder_are_rejected(tmp_path: Path, kind: str) -> None:
    names = ["../up.png", "/etc/cron.png", "a/../../b.png", "C:\\x.png", "fine.png"]
    items = list(ImageArchive(make(tmp_path / kind, dict.fromkeys(names, png(1)))).records(0, 1))
    assert [record.id for record in records(items)] == ["fine.png"]
    assert set(reasons(items).values()) == {"absolute name in the archive", "'..' in the member's name"}
    assert len(reasons(items)) == 4


def test_links_and_devices_in_a_tar_are_rejected(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        for name, kind in (("s.png", tarfile.SYMTYPE), ("h.png", tarfile.LNKTYPE), ("d.png", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            file.addfile(info)
    items = list(ImageArchive(tmp_path / "a.tar").records(0, 1))
    assert reasons(items) == dict.fromkeys(["s.png", "h.png", "d.png"], "link or device in the archive")


def test_a_link_in_a_zip_is_rejected(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        info = zipfile.ZipInfo("link.png")
        info.external_attr = 0o120777 << 16
        file.writestr(info, "/etc/passwd")
    assert reasons(list(ImageArchive(tmp_path / "a.zip").records(0, 1))) == {"link.png": "link in the archive"}


def test_a_zip_bomb_is_rejected_from_its_directory(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"bomb.png": b"\0" * (20 << 20), "ok.png": png(1)})
    assert path.stat().st_size < 1 << 20
    items = list(ImageArchive(path).records(0, 1))
    assert "would expand to 20,971,520 bytes" in reasons(items)["bomb.png"]
    assert [record.id for record in records(items)] == ["ok.png"]


def test_a_zip_that_lies_about_its_sizes_is_read_to_the_cap_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_IMAGE_BYTES", 1000)
    path = make_zip(tmp_path / "a.zip", {"big.png": bytes(5000)})
    content = path.read_bytes().replace((5000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    path.write_bytes(content)
    assert len(reasons(list(ImageArchive(path).records(0, 1)))) == 1


def test_a_tar_header_that_claims_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 8 << 30
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    with pytest.raises(SetClipError, match="a header of 8,589,934,592 bytes"):
        list(ImageArchive(tmp_path / "a.tar").records(0, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_cut_short_is_one_clear_error(tmp_path: Path, kind: str) -> None:
    path = make(tmp_path / kind, {f"{number}.png": png(number, 60) for number in range(30)})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SetClipError, match="cut short or damaged"):
        list(open_source(path, ReadOptions(modality="image")).records(0, 1))


def test_an_encrypted_member_is_named(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"a.png": png(1)})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert reasons(list(ImageArchive(path).records(0, 1))) == {"a.png": "encrypted"}


def test_a_webdataset_shard_gives_images_labels_and_captions(tmp_path: Path) -> None:
    path = make(
        tmp_path / "shard-000.tar",
        {
            "001.png": png(1),
            "001.cls": b"lake\n",
            "001.txt": b"a lake",
            "002.png": png(2),
            "002.json": b'{"caption": "a field", "width": 4}',
            "003.json": b'{"width": 4}',
            "004.txt": b"caf\xe9",
        },
    )
    pictures = list(open_source(path, ReadOptions(modality="image")).records(0, 2))
    assert [(record.id, record.label) for record in records(pictures)] == [("001.png", "lake"), ("002.png", None)]
    assert reasons(pictures) == {}
    texts = list(CaptionArchive(path).records(0, 1))
    assert [(record.payload, record.group) for record in records(texts)] == [
        ("a lake", "001.png"),
        ("a field", "002.png"),
    ]
    assert reasons(texts) == {"004.txt": "not UTF-8"}


@pytest.mark.parametrize("kind", ["a.zip", "a.tar", "a.tar.gz"])
def test_a_member_without_an_image_suffix_is_known_by_its_first_bytes(tmp_path: Path, kind: str) -> None:
    members = {
        "1": png(1),
        "1.cls": b"lake",
        "1.txt": b"a lake",
        "two.dat": png(2),
        "two.caption": b"a field",
        "notes.md": b"# notes",
        "a.npy": b"\x93NUMPY\x01\0",
        "pointer.dat": b"version https://git-lfs.github.com/spec/v1\n",
        "empty": b"",
        "__MACOSX/1": png(3),
    }
    items = list(ImageArchive(make(tmp_path / kind, members)).records(0, 1))
    assert {record.id: record.label for record in records(items)} == {"1": "lake", "two.dat": None}
    assert reasons(items) == {
        "notes.md": "not an image: starts with '# notes'",
        "a.npy": "not an image: a NumPy file",
        "pointer.dat": "not an image: a Git LFS pointer, not the file itself",
        "empty": "not an image: an empty file",
    }
    assert len(items) == len(members)
    captions = records(list(CaptionArchive(tmp_path / kind).records(0, 1)))
    assert {record.payload: record.group for record in captions} == {"a lake": "1", "a field": "two.dat"}


@pytest.mark.parametrize("kind", ["a.zip", "a.tar"])
def test_the_folder_of_macos_makes_no_classes(tmp_path: Path, kind: str) -> None:
    """Two folders would be two classes, and the one folder of all images the label of each."""
    members = {"rs/1.png": png(1), "rs/2.png": png(2), "__MACOSX/rs/._1.png": b"x", "__MACOSX/rs/._2.png": b"x"}
    found = records(list(ImageArchive(make(tmp_path / kind, members)).records(0, 1)))
    assert [(record.id, record.label) for record in found] == [("rs/1.png", None), ("rs/2.png", None)]
