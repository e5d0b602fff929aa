"""Pictures of more than 8 bits: the absolute scale where it shows something, else a stretch that the summary names."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions
from setclip_cli.ingest.sources.check_image import UnusableImageError, check_image
from setclip_cli.ingest.sources.re_encode import OVER_EIGHT_BITS, STRETCHED
from setclip_cli.pixels.rgb import open_rgb

Samples = np.ndarray[Any, Any]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png16(samples: Samples) -> bytes:
    """A PNG of 16-bit grey, colours, or colours and alpha."""
    height, width = samples.shape[:2]
    kind = {1: 0, 3: 2, 4: 6}[1 if samples.ndim == 2 else samples.shape[2]]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def tiff_of(**options: Any) -> Callable[[Samples], bytes]:
    def write(samples: Samples) -> bytes:
        rasterio = pytest.importorskip("rasterio", reason="the extra [geo] is not installed")
        bands = samples[None] if samples.ndim == 2 else np.moveaxis(samples, -1, 0)
        count, height, width = bands.shape
        profile = {"driver": "GTiff", "width": width, "height": height, "count": count, "dtype": samples.dtype}
        with rasterio.MemoryFile() as file:
            with file.open(**{**profile, **options}, transform=rasterio.Affine(10, 0, 0, 0, -10, 0)) as scene:
                scene.write(bands)
            content: bytes = file.read()
        return content

    return write


def reflectance(*shape: int, seed: int = 0) -> Samples:
    """As a satellite gives it: some thousands of 65,535."""
    return np.random.default_rng(seed).normal(1500, 500, shape).clip(1, 4000).astype("uint16")


COLOURS = reflectance(24, 32, 3)
GREY = reflectance(24, 32)
WITH_A_HOT_PIXEL = GREY.astype("float32") / 10_000
WITH_A_HOT_PIXEL[3, 4] = 1000.0
DARK: list[tuple[str, Callable[[Samples], bytes], Samples]] = [
    ("PNG in colour", png16, COLOURS),
    ("PNG in colour with alpha", png16, np.dstack([COLOURS, np.full((24, 32), 65535, "uint16")])),
    ("PNG in grey", png16, GREY),
    ("TIFF in colour", tiff_of(photometric="RGB"), COLOURS),
    ("TIFF in colour, compressed", tiff_of(photometric="RGB", compress="deflate", predictor=2), COLOURS),
    ("TIFF in grey", tiff_of(), GREY),
    ("TIFF in grey, 12 of 16 bits used", tiff_of(), (GREY // 4)),
    ("TIFF of floats with a hot pixel", tiff_of(), WITH_A_HOT_PIXEL),
    ("TIFF of int16 with a hot pixel", tiff_of(), np.where(GREY[0, 0] == GREY, 32000, GREY // 20 - 20).astype("int16")),
    ("values below 256", png16, (COLOURS // 20)),
]


@pytest.mark.parametrize(("write", "samples"), [each[1:] for each in DARK], ids=[each[0] for each in DARK])
def test_a_picture_that_would_be_nearly_black_is_stretched_in_the_dataset_and_as_a_query(
    write: Callable[[Samples], bytes], samples: Samples
) -> None:
    content = write(samples)
    checked = check_image(content, "x.png")
    assert STRETCHED in checked.repairs
    assert OVER_EIGHT_BITS not in checked.repairs
    assert checked.original is not None
    shown = np.asarray(Image.open(io.BytesIO(checked.content)))
    assert 80 < np.median(shown[..., :3]) < 180
    for band in range(3 if samples.ndim == 3 else 1):
        of_file = samples[:, :, band] if samples.ndim == 3 else samples
        low, high = np.percentile(of_file, (2, 98))
        expected = ((of_file.astype(float) - low) / (high - low)).clip(0, 1) * 255
        np.testing.assert_allclose(shown[:, :, band] if samples.ndim == 3 else shown, expected, atol=0.51)
    np.testing.assert_array_equal(np.asarray(open_rgb(content)), np.asarray(open_rgb(checked.content)))


BRIGHT = (COLOURS * 16).clip(0, 65535).astype("uint16")


def test_sixteen_bit_colours_that_are_not_dark_keep_their_bytes() -> None:
    content = png16(BRIGHT)
    assert check_image(content).content == content
    np.testing.assert_array_equal(np.asarray(open_rgb(content)), BRIGHT >> 8)


def test_one_dark_colour_of_a_bright_picture_stays_dark() -> None:
    samples = BRIGHT.copy()
    samples[:, :, 2] = GREY
    assert check_image(png16(samples)).content == png16(samples)


@pytest.mark.parametrize("value", [0, 7, 3000])
def test_one_tone_is_not_stretched(value: int) -> None:
    content = png16(np.full((8, 8, 3), value, "uint16"))
    assert check_image(content).content == content
    grey = check_image(png16(np.full((8, 8), value, "uint16")))
    assert grey.repairs == (OVER_EIGHT_BITS,)


def test_a_dark_picture_is_stretched_where_the_smallest_number_is_white() -> None:
    samples = 65535 - GREY
    shown = np.asarray(Image.open(io.BytesIO(check_image(tiff_of(photometric="MINISWHITE")(samples)).content)))
    assert 80 < np.median(shown) < 180
    assert shown[samples.argmin() // 32, samples.argmin() % 32] == 255


def test_nodata_is_left_out_of_the_percentiles_and_black() -> None:
    samples = WITH_A_HOT_PIXEL.copy()
    samples[:12] = -9999
    shown = np.asarray(Image.open(io.BytesIO(check_image(tiff_of(nodata=-9999)(samples)).content)))
    assert not shown[:12].any()
    assert 80 < np.median(shown[12:]) < 180


def test_planes_of_sixteen_bits_which_pillow_reads_as_eight_are_a_reject() -> None:
    with pytest.raises(UnusableImageError, match="pass --bands R,G,B"):
        check_image(tiff_of(photometric="RGB", interleave="band")(COLOURS))
    with pytest.raises(OSError, match="16-bit colours in planes"):
        open_rgb(tiff_of(photometric="RGB", interleave="band")(COLOURS))


def test_dark_jpeg_2000_of_sixteen_bit_colours_is_a_reject_that_names_the_option() -> None:
    with pytest.raises(UnusableImageError, match="holds 3 bands of uint16: pass --bands R,G,B"):
        check_image(tiff_of(driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")(COLOURS))


def test_the_summary_counts_stretched_and_scaled_pictures_and_names_the_percentiles(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for name, samples in (("dark", COLOURS), ("darker", COLOURS // 2), ("grey", GREY), ("bright", BRIGHT[:, :, 0])):
        (tmp_path / "pictures" / f"{name}.png").write_bytes(png16(samples))
    summary = ingest(tmp_path / "pictures", tmp_path / "out", IngestOptions(modality="image")).summary()
    assert "3 changed: samples over 8 bits stretched to 8: percentiles 2,98 of each picture" in summary
    assert "1 changed: samples over 8 bits scaled to 8" in summary


def test_a_scene_of_sixteen_bits_is_stretched_by_default_and_the_percentiles_are_printed(tmp_path: Path) -> None:
    scene = tmp_path / "scene.tif"
    scene.write_bytes(tiff_of()(reflectance(32, 32, 4)))
    for stretch, told in ((None, "2,98"), ("0,99.5", "0,99.5")):
        options = IngestOptions(modality="image", tile=16, stretch=stretch)
        result = ingest(scene, tmp_path / told, options)
        assert f"bands 1,2,3 of 4 taken and stretched to 8 bits: percentiles {told} of each band" in result.summary()
