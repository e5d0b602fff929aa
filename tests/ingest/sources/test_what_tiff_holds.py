"""What was decoded is compared with what the file says: bands, pages, frames, sample types."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from setclip_cli.errors import SetClipError
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions, ReadOptions
from setclip_cli.ingest.sources import open_source
from setclip_cli.ingest.sources.base import Record, Reject
from setclip_cli.ingest.sources.check_image import MORE_BANDS, UnusableImageError, check_image
from setclip_cli.ingest.sources.re_encode import OVER_EIGHT_BITS
from setclip_cli.pixels.tiff_header import BadTiffError, read_tiff_header

Tags = dict[int, tuple[int, tuple[int, ...] | bytes]]  # tag -> (type, values)
_TYPES = {2: "B", 3: "H", 4: "I", 16: "Q"}


def tiff(*pages: tuple[np.ndarray[Any, Any], Tags], order: str = "<", big: bool = False) -> bytes:
    """A TIFF of uncompressed pages, each (samples, further tags); one strip a page, or one a band if planar."""
    out = bytearray(b"II" if order == "<" else b"MM")
    out += struct.pack(f"{order}HHHQ", 43, 8, 0, 16) if big else struct.pack(f"{order}HI", 42, 8)
    word = "Q" if big else "I"
    for number, (samples, more) in enumerate(pages):
        bands = samples.shape[2] if samples.ndim == 3 else 1
        planar = more.get(284, (3, (1,)))[1][0] == 2
        planes = [samples[:, :, band] for band in range(bands)] if planar else [samples]
        strips = [np.ascontiguousarray(plane).astype(plane.dtype.newbyteorder(order)).tobytes() for plane in planes]
        bits, kind = 8 * samples.dtype.itemsize, {"u": 1, "i": 2, "f": 3, "c": 6}[samples.dtype.kind]
        tags: Tags = {
            256: (4, (samples.shape[1],)),
            257: (4, (samples.shape[0],)),
            258: (3, (bits,) * bands),
            259: (3, (1,)),
            262: (3, (1,)),
            277: (3, (bands,)),
            278: (4, (samples.shape[0],)),
            339: (3, (kind,) * bands),
            **more,
        }
        start = len(out)
        size = (8 if big else 2) + (len(tags) + 2) * (20 if big else 12) + (8 if big else 4)
        data = bytearray()
        base = start + size
        offsets = []
        for strip in strips:
            offsets.append(base + len(data))
            data += strip
        tags[273], tags[279] = (16 if big else 4, tuple(offsets)), (16 if big else 4, tuple(map(len, strips)))
        entries = bytearray(struct.pack(f"{order}{'Q' if big else 'H'}", len(tags)))
        for tag, (code, values) in sorted(tags.items()):
            raw = struct.pack(f"{order}{len(values)}{_TYPES[code]}", *values)
            entries += struct.pack(f"{order}HH{word}", tag, code, len(values))
            inline = 8 if big else 4
            if len(raw) > inline:
                entries += struct.pack(f"{order}{word}", base + len(data))
                data += raw + b"\0" * (len(raw) % 2)
            else:
                entries += raw.ljust(inline, b"\0")
        following = 0 if number == len(pages) - 1 else base + len(data) + len(data) % 2
        out += entries + struct.pack(f"{order}{word}", following) + data + b"\0" * (len(data) % 2)
    return bytes(out)


def noise(bands: int, dtype: str = "uint8", side: int = 8) -> np.ndarray[Any, Any]:
    shape = (side, side, bands) if bands > 1 else (side, side)
    return np.random.default_rng(bands).integers(0, 127, shape).astype(dtype)


def pixels(content: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(content)))


RGB: Tags = {262: (3, (2,))}
PLANAR: Tags = {284: (3, (2,))}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_the_header_is_read_in_both_byte_orders_and_as_big_tiff(order: str, big: bool) -> None:
    content = tiff((noise(13, "uint16"), {338: (3, (0,) * 12), 42113: (2, b"-9999\0")}), order=order, big=big)
    header = read_tiff_header(content)
    assert (header.page.layout, header.page.nodata, header.others) == ("13 bands of uint16", -9999.0, 0)


@pytest.mark.parametrize(
    ("bands", "dtype", "tags"),
    [
        (3, "uint16", {**PLANAR, 338: (3, (0, 0))}),
        (3, "uint8", {**PLANAR, 338: (3, (0, 0))}),
        (2, "uint8", {338: (3, (0,))}),
        (2, "uint8", {}),
        (13, "uint16", {338: (3, (0,) * 12)}),
        (13, "uint16", RGB),
        (3, "int16", {}),
        (3, "float32", RGB),
        (4, "uint8", {338: (3, (0, 0, 0))}),
        (1, "int64", {}),
    ],
)
def test_bands_that_a_picture_cannot_have_are_a_reject_that_names_the_option(
    bands: int, dtype: str, tags: Tags
) -> None:
    one = "1 band" if bands == 1 else f"{bands} bands"
    with pytest.raises(UnusableImageError, match=f"holds {one} of {dtype}: pass --bands .* --tile"):
        check_image(tiff((noise(bands, dtype), tags)))


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_samples_are_rejected_as_such(dtype: str) -> None:
    with pytest.raises(UnusableImageError, match=f"complex samples: 1 band of {dtype}"):
        check_image(tiff((noise(1, dtype), {})))


@pytest.mark.parametrize(
    ("bands", "tags", "mode", "repairs"),
    [
        (1, {}, "L", ()),
        (3, RGB, "RGB", ()),
        (3, {**RGB, **PLANAR}, "RGB", ()),
        (4, {**RGB, 338: (3, (2,))}, "RGBA", ()),
        (4, {**RGB, 338: (3, (0,))}, "RGB", (MORE_BANDS,)),
        (6, {**RGB, 338: (3, (0, 0, 0))}, "RGB", (MORE_BANDS,)),
        (2, {338: (3, (2,))}, "LA", ()),
        (4, {262: (3, (5,))}, "RGB", ()),
    ],
)
def test_bands_that_the_file_calls_colours_are_all_taken_and_others_counted(
    bands: int, tags: Tags, mode: str, repairs: tuple[str, ...]
) -> None:
    samples = noise(bands)
    checked = check_image(tiff((samples, tags)))
    assert checked.repairs == ("TIFF re-encoded as PNG", *repairs)
    image = Image.open(io.BytesIO(checked.content))
    assert image.mode == mode
    if tags.get(262) != (3, (5,)):  # CMYK becomes RGB
        np.testing.assert_array_equal(np.asarray(image), samples[:, :, : len(mode)] if bands > 1 else samples)


def test_sixteen_bit_colours_are_scaled_and_counted() -> None:
    samples = (noise(3, "uint16") * 500).astype("uint16")
    checked = check_image(tiff((samples, RGB)))
    assert OVER_EIGHT_BITS in checked.repairs
    np.testing.assert_allclose(pixels(checked.content), samples / 257, atol=1.01)


def test_nodata_is_black_and_left_out_of_the_stretch() -> None:
    samples = noise(1, "int16")
    samples[0, 0] = -9999
    taken = pixels(check_image(tiff((samples, {42113: (2, b"-9999\0")}))).content)
    assert taken[0, 0] == 0
    assert np.ptp(taken[1:]) > 200


def test_the_smallest_number_is_white_if_the_file_says_so() -> None:
    samples = np.array([[0, 65535]], dtype="uint16")
    np.testing.assert_array_equal(pixels(check_image(tiff((samples, {262: (3, (0,))}))).content), [[255, 0]])


REDUCED: Tags = {254: (4, (1,))}
MASK: Tags = {254: (4, (4,))}


def test_later_pages_are_counted_but_smaller_copies_and_masks_are_none() -> None:
    page = (noise(1), {})
    one = "only the first page of several used"
    assert one in check_image(tiff(page, (noise(1), {}))).repairs
    small, mask = (noise(1, side=4), REDUCED), (noise(1), MASK)
    assert one not in check_image(tiff(page, small, mask)).repairs
    assert one in check_image(tiff(page, small, (noise(1), {}))).repairs


def test_a_thumbnail_in_front_is_not_taken_for_the_picture() -> None:
    large = noise(1, side=16)
    checked = check_image(tiff((noise(1, side=4), REDUCED), (large, {})))
    np.testing.assert_array_equal(pixels(checked.content), large)
    with pytest.raises(UnusableImageError, match="only a thumbnail can be read"):
        check_image(tiff((noise(1, side=4), {**REDUCED, 330: (4, (8,))})))


def test_directories_in_a_circle_or_outside_the_file_end() -> None:
    content = bytearray(tiff((noise(1), {})))
    tags = struct.unpack_from("<H", content, 8)[0]
    content[10 + 12 * tags : 14 + 12 * tags] = struct.pack("<I", 8)
    assert read_tiff_header(bytes(content)).others == 0
    content[4:8] = struct.pack("<I", 1 << 30)
    with pytest.raises(BadTiffError, match="outside the file"):
        read_tiff_header(bytes(content))


def changed(content: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF with another first value of a tag of four bytes."""
    place = content.index(struct.pack("<HH", tag, 4))
    return content[: place + 8] + struct.pack("<I", value) + content[place + 12 :]


@pytest.mark.parametrize(
    ("tag", "value", "reason"),
    [
        (257, 9000, "1 of 1,125 parts are there"),
        (273, 0, "parts are left out"),
        (273, 1 << 20, "cut short"),
        (279, 40, "40 of 64 bytes are there"),
    ],
)
def test_a_file_with_less_data_than_it_says_is_not_filled_with_black(
    tmp_path: Path, tag: int, value: int, reason: str
) -> None:
    content = changed(tiff((noise(1), {})), tag, value)
    with pytest.raises(UnusableImageError, match=f"damaged TIFF: .*{reason}"):
        check_image(content)
    if value:  # GDAL leaves out parts without data on purpose
        pytest.importorskip("rasterio", reason="the extra [geo] is not installed")
        (tmp_path / "s.tif").write_bytes(content)
        (found,) = open_source(tmp_path / "s.tif", ReadOptions(modality="image", tile=4)).records(0, 1)
        assert isinstance(found, Reject)
        assert reason in found.reason


def test_tiles_are_counted_as_strips_are(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra [geo] is not installed")
    samples = noise(3, side=80).transpose(2, 0, 1)
    for number, options in enumerate(({}, {"compress": "jpeg", "photometric": "ycbcr"}, {"interleave": "band"})):
        path = tmp_path / f"{number}.tif"
        place = rasterio.Affine(10, 0, 0, 0, -10, 0)
        with rasterio.open(
            *(path, "w", "GTiff", 80, 80, 3),
            **{"dtype": "uint8", "transform": place, "tiled": True, "blockxsize": 32, "blockysize": 32, **options},
        ) as file:
            file.write(samples)
        assert check_image(path.read_bytes())[1:3] == (80, 80)


def animation(kind: str, frames: int = 3, **options: Any) -> bytes:
    stream = io.BytesIO()
    pictures = [Image.fromarray(noise(3, side=16) + np.uint8(40 * number)) for number in range(frames)]
    pictures[0].save(stream, kind, save_all=True, append_images=pictures[1:], **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("kind", "options", "repair"),
    [
        ("GIF", {}, "only the first frame of an animation used"),
        ("PNG", {}, "only the first frame of an animation used"),
        ("WEBP", {"lossless": True}, "only the first frame of an animation used"),
        ("AVIF", {}, "only the first frame of an animation used"),
        ("TIFF", {}, "only the first page of several used"),
        ("MPO", {}, "only the first picture of several used"),
    ],
)
def test_later_frames_are_counted(kind: str, options: dict[str, Any], repair: str) -> None:
    assert repair in check_image(animation(kind, **options)).repairs
    assert repair not in check_image(animation(kind, frames=1, **options)).repairs


def test_several_pictures_in_one_icon_or_ppm_are_counted() -> None:
    stream = io.BytesIO()
    Image.fromarray(noise(3, side=48)).save(stream, "ICO", sizes=[(16, 16), (48, 48)])
    checked = check_image(stream.getvalue())
    assert checked[1:3] == (48, 48)
    assert "only the largest picture of several used" in checked.repairs
    ppm = b"P6 2 1 255\n" + bytes(6)
    assert "only the first picture of several used" not in check_image(ppm).repairs
    assert "only the first picture of several used" in check_image(ppm + b"\n" + ppm).repairs


def test_the_error_of_a_source_gives_the_advice_of_this_case_and_the_taken_bands_are_in_the_summary(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rasterio", reason="the extra [geo] is not installed")
    scene, radar = tmp_path / "s.tif", tmp_path / "c.tif"
    scene.write_bytes(tiff((noise(13, "uint16", 32), {338: (3, (0,) * 12)})))
    radar.write_bytes(tiff((noise(1, "complex64", 32), {})))
    with pytest.raises(SetClipError, match=r"holds 13 bands of uint16.*\n.*bands R,G,B"):
        ingest(scene, tmp_path / "a", IngestOptions(modality="image"))
    with pytest.raises(SetClipError, match=r"complex samples.*\n.*amplitude"):
        ingest(radar, tmp_path / "b", IngestOptions(modality="image", tile=16))
    result = ingest(scene, tmp_path / "c", IngestOptions(modality="image", tile=16, bands="4,3,2"))
    assert "4 changed: bands 4,3,2 of 13 taken and stretched to 8 bits" in result.summary()
    assert "Warning" not in capfd.readouterr().err


def test_a_palette_scene_becomes_its_colours(tmp_path: Path) -> None:
    pytest.importorskip("rasterio", reason="the extra [geo] is not installed")
    numbers = (noise(1, side=16) % 3).astype("uint8")
    colours = np.zeros((3, 256), dtype="uint16")
    colours[:, :3] = [[65535, 0, 0], [0, 65535, 0], [0, 0, 65535]]
    (tmp_path / "p.tif").write_bytes(tiff((numbers, {262: (3, (3,)), 320: (3, tuple(colours.ravel().tolist()))})))
    (record,) = open_source(tmp_path / "p.tif", ReadOptions(modality="image", tile=16)).records(0, 1)
    assert isinstance(record, Record)
    assert isinstance(record.payload, bytes)
    expected = np.eye(3, dtype="uint8")[numbers] * 255
    np.testing.assert_array_equal(pixels(record.payload), expected)


def test_a_scene_that_is_something_else_is_named(tmp_path: Path) -> None:
    pytest.importorskip("rasterio", reason="the extra [geo] is not installed")
    (tmp_path / "s.tif").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (found,) = open_source(tmp_path / "s.tif", ReadOptions(modality="image", tile=16)).records(0, 1)
    assert isinstance(found, Reject)
    assert found.kind == "no readable scene, a Git LFS pointer, not the file itself"
