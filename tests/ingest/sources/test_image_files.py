"""Images as people have them: every mode, cut short, far too large, lying on their side."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.errors import SetClipError
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions, ReadOptions
from setclip_cli.ingest.sources import open_source
from setclip_cli.ingest.sources.base import Record, Reject
from setclip_cli.ingest.sources.check_image import UnusableImageError, check_image
from setclip_cli.ingest.sources.image import ImageFolder
from setclip_cli.ingest.sources.threads import ordered_map


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(width: int = 24, height: int = 16, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
        *(("PNG", mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "1")),
        *(("WEBP", mode) for mode in ("RGB", "RGBA")),
    ],
)
def test_bytes_of_the_kept_formats_stay_untouched_in_every_mode(kind: str, mode: str) -> None:
    content = encoded(noise(mode=mode), kind)
    assert check_image(content) == (content, 24, 16, (), None)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True, "comment": b"x" * 999}])
def test_the_quick_jpeg_parse_agrees_with_pillow(options: dict[str, Any]) -> None:
    content = encoded(noise(301, 77), "JPEG", **options)
    assert check_image(content)[1:3] == Image.open(io.BytesIO(content)).size


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_an_image_cut_short_is_rejected(kind: str, kept: float) -> None:
    content = encoded(noise(64, 64), kind)
    with pytest.raises(UnusableImageError, match=r"cut short|damaged image"):
        check_image(content[: int(len(content) * kept)])


def test_a_jpeg_whose_thumbnail_is_whole_but_whose_scan_is_cut_is_rejected() -> None:
    thumbnail = encoded(noise(8, 8), "JPEG")
    plain = encoded(noise(64, 64), "JPEG")
    block = b"Exif\0\0" + b"II*\0\x08\0\0\0\0\0\0\0\0\0" + thumbnail
    content = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + plain[2:]
    assert check_image(content)[1:3] == (64, 64)
    with pytest.raises(UnusableImageError, match="cut short"):
        check_image(content[:-40])


def test_a_damaged_png_is_found_by_its_checksum() -> None:
    content = bytearray(encoded(noise(64, 64), "PNG"))
    content[len(content) // 2] ^= 1
    with pytest.raises(UnusableImageError, match="checksum"):
        check_image(bytes(content))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"<html>not found</html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a Git LFS pointer"),
        (b"some words\n", "no readable image: starts with 'some words"),
        (b"\0\1\2\3", "no readable image: starts with 00 01 02 03"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a format that is not read: HEIC"),
        (b"PK\x03\x04" + bytes(40), "a zip file"),
    ],
)
def test_what_is_no_image_is_named(content: bytes, reason: str) -> None:
    with pytest.raises(UnusableImageError, match=reason):
        check_image(content)


def test_an_image_bomb_is_refused_from_its_header() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    )
    with pytest.raises(UnusableImageError, match="over the cap of 100,000,000 pixels"):
        check_image(bomb)
    jpeg = bytearray(encoded(noise(), "JPEG"))
    place = jpeg.index(b"\xff\xc0") + 5
    jpeg[place : place + 4] = struct.pack(">HH", 60_000, 60_000)
    with pytest.raises(UnusableImageError, match="over the cap"):
        check_image(bytes(jpeg))


def test_sixteen_bit_samples_are_scaled_to_eight_and_counted() -> None:
    ramp = np.linspace(0, 65535, 16 * 24).reshape(16, 24).astype(np.uint16)
    checked = check_image(encoded(Image.fromarray(ramp), "PNG"))
    assert checked.repairs == ("samples over 8 bits scaled to 8",)
    with Image.open(io.BytesIO(checked.content)) as image:
        assert image.mode == "L"
        np.testing.assert_allclose(np.asarray(image), ramp / 257, atol=0.5)


@pytest.mark.parametrize("kind", ["TIFF", "BMP", "GIF"])
def test_other_formats_are_re_encoded_without_loss_and_counted(kind: str) -> None:
    original = noise(mode="P" if kind == "GIF" else "RGB")
    checked = check_image(encoded(original, kind))
    assert checked.repairs == (f"{kind} re-encoded as PNG",)
    with Image.open(io.BytesIO(checked.content)) as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), np.asarray(original.convert("RGB")))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_width_and_height_are_those_of_the_upright_image(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(noise(24, 16), "JPEG", exif=exif)
    assert check_image(content)[:3] == (content, *((16, 24) if orientation in (6, 8) else (24, 16)))


def folder(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(noise(8 + number, 8), "PNG") if name.endswith("png") else b"notes")
    return root


def test_a_folder_gives_paths_as_ids_and_its_sub_folders_as_labels(tmp_path: Path) -> None:
    source = ImageFolder(
        folder(tmp_path, "b/field/1.png", "b/lake/1.png", "b/lake/2.PNG.png", "b/readme.txt", ".x/3.png")
    )
    items = list(source.records(0, 2))
    assert [(i.id, i.label) for i in items if isinstance(i, Record)] == [
        ("b/field/1.png", "field"),
        ("b/lake/1.png", "lake"),
        ("b/lake/2.PNG.png", "lake"),
    ]
    assert [i for i in items if isinstance(i, Reject)] == [
        Reject("b/readme.txt", "not an image: starts with 'notes'", bad=False),
        Reject(".x", "hidden file or folder", bad=False, listed=False),
    ]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jfif", "JPEG"),
        ("a.avif", "AVIF"),
        ("a.tga", "TGA"),
        ("a.ico", "ICO"),
        ("a.j2k", "JPEG2000"),
        ("a.jpx", "JPEG2000"),
        ("a.pnm", "PPM"),
        ("a.pcx", "PCX"),
        ("a.dib", "DIB"),
        ("a.sgi", "SGI"),
        ("a.apng", "PNG"),
        ("noSuffix", "PNG"),
        ("a.dat", "JPEG"),
        ("a.png", "JPEG"),
        ("a.7", "TIFF"),
    ],
)
def test_what_can_be_read_is_read_whatever_its_suffix(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_bytes(encoded(noise(32, 32), kind))
    for source in (tmp_path, tmp_path / name):
        (item,) = open_source(source, ReadOptions(modality="image")).records(0, 1)
        assert isinstance(item, Record)
        assert item.columns == (32, 32)


def test_files_without_an_image_suffix_count_for_the_labels_of_folders(tmp_path: Path) -> None:
    for name in ("lake/1", "field/2"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(encoded(noise(len(name), 8), "PNG"))
    items = list(ImageFolder(tmp_path).records(0, 1))
    assert [item.label for item in items if isinstance(item, Record)] == ["field", "lake"]


def test_files_without_an_image_suffix_take_their_labels(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("one", "two.dat"):
        (tmp_path / "in" / name).write_bytes(encoded(noise(len(name), 8), "PNG"))
    (tmp_path / "labels.csv").write_text("id,label\none,lake\ntwo.dat,field\n")
    ingest(tmp_path / "in", tmp_path / "out", IngestOptions(modality="image", labels=tmp_path / "labels.csv"))
    rows = open_dataset(tmp_path / "out").table("image", None, ["id", "label"]).to_pylist()
    assert rows == [{"id": "one", "label": "lake"}, {"id": "two.dat", "label": "field"}]


def test_an_image_format_that_is_not_read_is_named_and_bad(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (tmp_path / "b.jxl").write_bytes(b"\xff\x0a" + bytes(30))
    (tmp_path / "c.svg").write_bytes(b"<svg xmlns='x'></svg>")
    (tmp_path / "d.csv").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "e.bin").write_bytes(b"")
    items = list(ImageFolder(tmp_path).records(0, 1))
    assert items == [
        Reject("a.heic", "a format that is not read: HEIC"),
        Reject("b.jxl", "a format that is not read: JPEG XL"),
        Reject("c.svg", "a format that is not read: SVG", bad=False),
        Reject("d.csv", "not an image: a Git LFS pointer, not the file itself", bad=False),
        Reject("e.bin", "not an image: an empty file", bad=False),
    ]


def test_images_that_are_git_lfs_pointers_give_the_advice_for_them(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(SetClipError, match=r"Git LFS pointer.*\n.*git lfs pull"):
        ingest(tmp_path / "in", tmp_path / "out", IngestOptions(modality="image"))


def test_filters_of_warnings_are_as_before_after_threads_decode(tmp_path: Path) -> None:
    before = list(warnings.filters)
    list(ImageFolder(folder(tmp_path, *(f"{number}.png" for number in range(200)))).records(0, 8))
    assert list(warnings.filters) == before


def test_one_folder_of_images_gives_no_labels(tmp_path: Path) -> None:
    items = list(ImageFolder(folder(tmp_path, "images/1.png", "images/2.png", "labels.csv")).records(0, 1))
    assert {item.label for item in items if isinstance(item, Record)} == {None}


def test_the_order_does_not_depend_on_the_workers_and_a_later_start_gives_the_rest(tmp_path: Path) -> None:
    source = ImageFolder(folder(tmp_path, *(f"{number:03d}.png" for number in range(100))))
    items = list(source.records(0, 1))
    assert list(source.records(0, 7)) == items
    assert list(source.records(33, 3)) == items[33:]


def test_ordered_map_stops_reading_ahead_when_nobody_takes_its_results() -> None:
    started: list[int] = []
    results = ordered_map(lambda n: started.append(n) or n, iter(range(100_000)), 2)
    assert next(results) == 0
    assert len(started) < 1000
    results.close()  # type: ignore[attr-defined]
