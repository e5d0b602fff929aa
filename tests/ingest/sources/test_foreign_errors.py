"""Whatever Pillow, rasterio or numpy raises while an image is decoded becomes a reject of that image alone."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, UnidentifiedImageError

from setclip_cli.ingest.options import ReadOptions
from setclip_cli.ingest.sources import open_source
from setclip_cli.ingest.sources.base import Record, Reject
from setclip_cli.ingest.sources.check_image import UnusableImageError, check_image

ERRORS = [
    UnidentifiedImageError("x"),
    Image.DecompressionBombError("x"),
    Image.DecompressionBombWarning("x"),
    OSError("truncated"),
    EOFError("x"),
    SyntaxError("x"),
    struct.error("x"),
    zlib.error("x"),
    ValueError("x"),
    TypeError("x"),
    KeyError("x"),
    IndexError("x"),
    AttributeError("x"),
    OverflowError("x"),
    ZeroDivisionError("x"),
    NotImplementedError("x"),
    AssertionError("x"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"),
    RecursionError("x"),
    MemoryError(),
    RuntimeError("x"),
]


def picture(kind: str, mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(stream, kind)
    return stream.getvalue()


def raising(error: Exception) -> Any:
    def call(*_: object, **__: object) -> None:
        raise error

    return call


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("edge", ["open", "load", "save", "asarray"])
def test_each_error_of_pillow_or_numpy_is_a_reject_of_this_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edge: str, error: Exception
) -> None:
    (tmp_path / "a.jpg").write_bytes(picture("JPEG"))  # plain JPEG does not reach Pillow
    stream = io.BytesIO()
    Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16)).save(stream, "TIFF")
    (tmp_path / "b.tif").write_bytes(stream.getvalue())
    target: Any = {"open": Image, "load": ImageFile.ImageFile, "save": Image.Image, "asarray": np}[edge]
    monkeypatch.setattr(target, edge, raising(error))
    good, bad = open_source(tmp_path, ReadOptions(modality="image")).records(0, 1)
    assert isinstance(good, Record)
    assert isinstance(bad, Reject)
    assert bad.bad


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("edge", ["open", "read"])
def test_each_error_of_rasterio_is_a_reject_of_this_scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edge: str, error: Exception
) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra [geo] is not installed")
    (tmp_path / "a.jpg").write_bytes(picture("JPEG"))
    (tmp_path / "b.tif").write_bytes(picture("TIFF"))
    if edge == "open":
        monkeypatch.setattr(rasterio, "open", raising(error))
    else:
        opened = rasterio.open

        class Scene:
            def __init__(self, path: Path) -> None:
                self._scene = opened(path)

            def __enter__(self) -> Scene:
                return self

            def __exit__(self, *_: object) -> None:
                self._scene.close()

            def __getattr__(self, name: str) -> Any:
                return getattr(self._scene, name)

            read = staticmethod(raising(error))

        monkeypatch.setattr(rasterio, "open", Scene)
    good, bad = open_source(tmp_path, ReadOptions(modality="image", tile=8)).records(0, 1)
    assert isinstance(good, Record)
    assert isinstance(bad, Reject)
    assert bad.bad


def mutated(content: bytes, numbers: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(numbers.choice([1, 1, 2, 4])):
        place = numbers.randrange(min(len(changed), 120) if numbers.random() < 0.5 else len(changed))
        if numbers.random() < 0.6:
            changed[place] = numbers.randrange(256)
        elif numbers.random() < 0.6:
            changed[place : place + 4] = numbers.choice([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\1"])
        else:
            del changed[place : place + numbers.randrange(1, 40)]
    return bytes(changed)


@pytest.mark.parametrize(
    ("kind", "mode", "name"),
    [
        *(
            (kind, "RGB", "")
            for kind in ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "TIFF", "PPM", "JPEG2000", "ICO", "QOI")
        ),
        *(("SGI", "RGB", ""), ("GIF", "P", ""), ("TIFF", "1", ""), ("PNG", "P", "")),
        *(("TGA", "RGB", "a.tga"), ("PCX", "RGB", "a.pcx"), ("DIB", "RGB", "a.dib")),
    ],
)
@pytest.mark.parametrize("attempts", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_damaged_images_of_each_format_are_taken_or_refused(kind: str, mode: str, name: str, attempts: int) -> None:
    content, numbers = picture(kind, mode), random.Random(kind + mode)
    for _ in range(attempts):
        try:
            checked = check_image(mutated(content, numbers), name)
        except UnusableImageError as error:
            assert str(error)  # noqa: PT017
        else:
            assert checked.width * checked.height > 0
