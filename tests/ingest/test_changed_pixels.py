"""Pictures that are changed when they are read (samples of over 8 bits, other colours): only equal ones are repeats."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.ingest.dedup import DUPLICATE, SAME_PIXELS
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.near_duplicates import perceptual_hash
from setclip_cli.ingest.options import IngestOptions

Samples = np.ndarray[Any, Any]


def pil(kind: str, mode: str | None = None) -> Callable[[Samples], bytes]:
    def write(samples: Samples) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(samples, mode).save(stream, kind)
        return stream.getvalue()

    return write


def ppm(samples: Samples) -> bytes:
    height, width, _ = samples.shape
    return b"P6 %d %d 65535\n" % (width, height) + samples.astype(">u2").tobytes()


def constant(value: float, dtype: str) -> Samples:
    return np.full((24, 24), value, dtype)


def ramp(dtype: str, *shape: int, last: float = 60000) -> Samples:
    return np.linspace(0, last, int(np.prod(shape))).reshape(shape).astype(dtype)


WRITTEN: list[tuple[str, Callable[[Samples], bytes], list[Samples]]] = [
    ("constant floats", pil("TIFF"), [constant(value, "float32") for value in (-1, 0, 3, 7.5)]),
    ("constant 16-bit samples", pil("PNG"), [constant(value, "uint16") for value in (0, 10, 60, 100)]),
    ("constant 32-bit samples", pil("TIFF"), [constant(value, "int32") for value in (-5, 5, 90_000)]),
    ("one slope on two scales", pil("TIFF"), [ramp("float32", 24, 24), 2 * ramp("float32", 24, 24)]),
    ("low bits of 16", pil("PNG"), [ramp("uint16", 24, 24) // 257 * 257 + bits for bits in (0, 1)]),
    ("low bits of 16 in colour", ppm, [ramp("uint16", 8, 8, 3), ramp("uint16", 8, 8, 3) // 8 * 8]),
    ("ink that black hides", pil("TIFF", "CMYK"), [np.full((8, 8, 4), (ink, 0, 0, 255), "uint8") for ink in (0, 99)]),
]


def images(folder: Path, *contents: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(contents):
        (folder / f"{folder.name}-{number}.img").write_bytes(content)
    return folder


@pytest.mark.parametrize(("write", "pictures"), [each[1:] for each in WRITTEN], ids=[each[0] for each in WRITTEN])
def test_pictures_that_differ_are_all_taken_and_a_copy_of_one_is_a_repeat(
    tmp_path: Path, write: Callable[[Samples], bytes], pictures: list[Samples]
) -> None:
    contents = [write(picture) for picture in pictures]
    options = IngestOptions(modality="image", near_duplicates="flag", split="train=0.5,test=0.5")
    entry = ingest(images(tmp_path / "a", *contents, contents[-1]), tmp_path / "out", options).new[0]
    assert entry["rows"]["image"].keys() <= {"train", "test"}
    assert sum(entry["rows"]["image"].values()) == entry["distinct"] == len(pictures)
    assert entry["rejects"] == {DUPLICATE: 1}
    assert entry["repairs"].get(SAME_PIXELS, 0) == len(pictures) - 1  # all of these pictures become equal
    assert len(entry["rows"]["image"]) == 1  # what a model cannot tell apart is in one split
    again = ingest(images(tmp_path / "b", *contents), tmp_path / "out", options).new[0]
    assert again["rejects"] == {DUPLICATE: len(pictures)}
    assert not again["rows"]


def test_equal_samples_are_repeats_in_whatever_file_they_are(tmp_path: Path) -> None:
    samples = ramp("uint16", 24, 24)
    source = images(tmp_path / "a", pil("PNG")(samples), pil("TIFF")(samples), pil("TIFF")(samples.astype(">u2")))
    assert ingest(source, tmp_path / "out", IngestOptions(modality="image")).new[0]["rejects"] == {DUPLICATE: 2}


@pytest.mark.parametrize("first", ["float", "black"])
def test_a_black_picture_is_no_repeat_of_a_constant_one_that_became_black(tmp_path: Path, first: str) -> None:
    contents = {"float": pil("TIFF")(constant(3, "float32")), "black": pil("PNG")(constant(0, "uint8"))}
    order = [contents.pop(first), *contents.values()]
    entry = ingest(images(tmp_path / "a", *order, *order), tmp_path / "out", IngestOptions(modality="image")).new[0]
    assert sum(entry["rows"]["image"].values()) == 2
    assert entry["rejects"] == {DUPLICATE: 2}
    shas = open_dataset(tmp_path / "out").table("image", None, ["sha256"])["sha256"].to_pylist()
    assert len(set(shas)) == 1


def test_tiles_that_the_stretch_makes_equal_are_all_taken(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    scene = 1000 + ramp("uint16", 64, 64)
    scene[:32, :32], scene[:32, 32:], scene[32:, :32] = 1, 2, 1  # below what becomes black
    ground = rasterio.Affine(10, 0, 0, 0, -10, 0)
    profile = {"driver": "GTiff", "width": 64, "height": 64, "count": 1, "dtype": "uint16", "transform": ground}
    with rasterio.open(tmp_path / "scene.tif", "w", **profile) as out:
        out.write(scene, 1)
    options = IngestOptions(modality="image", tile=32, stretch="80,90")
    entry = ingest(tmp_path / "scene.tif", tmp_path / "out", options).new[0]
    assert entry["rejects"] == {DUPLICATE: 1}  # the two tiles of ones
    assert sum(entry["rows"]["image"].values()) == 3
    assert entry["repairs"][SAME_PIXELS] == 1
    rows = open_dataset(tmp_path / "out").table("image", None, ["transform", "original_sha256"]).to_pylist()
    assert all(row["transform"] and row["original_sha256"] for row in rows)


def grey(samples: Samples) -> bytes:
    return pil("PNG")(samples.astype("uint8"))


FLAT = {
    "one tone": np.full((72, 72), 100),
    "a little noise": 100 + np.kron(np.random.default_rng(0).integers(0, 4, (8, 9)), np.ones((9, 8), int)),
    "bands from side to side": np.repeat(np.linspace(0, 255, 72), 72).reshape(72, 72),
    "bands at random": np.repeat(np.random.default_rng(1).integers(0, 255, 8), 9 * 72).reshape(72, 72),
    "darker to the right": np.tile(np.linspace(255, 0, 72), 72).reshape(72, 72),
    "brighter to the right": np.tile(np.linspace(0, 255, 72), 72).reshape(72, 72),
    "a spot on black": np.pad(np.full((9, 8), 250), ((18, 45), (16, 48))),
    "another spot on black": np.pad(np.full((9, 8), 250), ((45, 18), (40, 24))),
}


@pytest.mark.parametrize("name", FLAT)
def test_a_picture_with_little_contrast_from_left_to_right_has_no_hash(name: str) -> None:
    assert perceptual_hash(grey(FLAT[name])) is None


def test_pictures_without_contrast_do_not_look_alike(tmp_path: Path) -> None:
    options = IngestOptions(modality="image", near_duplicates="drop")
    entry = ingest(images(tmp_path / "a", *map(grey, FLAT.values())), tmp_path / "out", options).new[0]
    assert entry["rejects"] == {}
    assert sum(entry["rows"]["image"].values()) == len(FLAT)
