"""Rows to check an export on: the first of a DATASET, or made-up ones."""

from __future__ import annotations

import io
import random
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.dataset.schemas import matrix_of
from setclip_cli.errors import SetClipError, argument

if TYPE_CHECKING:
    from pathlib import Path

    from setclip_cli.backbones.base import Backbone
    from setclip_cli.export.towers import Tower

ROWS = 12
_WORDS = ("a", "the", "harbour", "with", "boats", "forest", "near", "river", "protein", "kinase", "binds", "small")


def rows_of(tower: Tower, data: str | Path | None) -> list[Any]:
    """Items as the tower's backbone encodes them: texts, residues, bytes of images, vectors, frames of videos.

    All videos have as many frames, since a batch of a graph does: the first of each, as many as the shortest has.

    Raises:
        SetClipError: the DATASET has no rows that the tower reads.
    """
    if data is None:
        return _made(tower.backbone)
    dataset = open_dataset(data)
    if tower.modality not in dataset.modalities():
        raise SetClipError(
            f"{dataset.root}: holds no {tower.modality} rows, only {' and '.join(dataset.modalities())}",
            fix=f"give the DATASET that the RUN was trained on, or leave {argument('data')} out",
        )
    from setclip_cli.backbones.vector import rows_read_by

    dataset.require_rows(tower.modality, rows_read_by(tower.backbone))
    shard = dataset.shards(tower.modality)[0]
    column = dataset.read(shard, [tower.backbone.column])[tower.backbone.column].slice(0, ROWS)
    items: list[Any] = list(matrix_of(column)) if tower.backbone.kind == "vector" else column.to_pylist()
    failed = tower.backbone.encode(items).failed
    usable = [item for place, item in enumerate(items) if place not in failed]
    if tower.backbone.kind == "video" and usable:
        shortest = min(map(len, usable))
        usable = [frames[:shortest] for frames in usable]
    return usable or _made(tower.backbone)


def _made(backbone: Backbone) -> list[Any]:
    draw, noise = random.Random(0), np.random.default_rng(0)
    if backbone.kind == "vector":
        return list(noise.standard_normal((ROWS, backbone.dim)).astype(np.float32))
    if backbone.kind == "text":
        return [" ".join(draw.choices(_WORDS, k=3 + 4 * place)) for place in range(ROWS)]
    if backbone.kind == "protein":
        lengths = [5 + 30 * place for place in range(ROWS - 1)] + [1_300]  # the last takes several windows
        return ["".join(draw.choices("ACDEFGHIKLMNPQRSTVWY", k=length)) for length in lengths]
    if backbone.kind == "video":
        return [[_made_image(noise) for _ in range(3)] for _ in range(ROWS)]
    bands = getattr(backbone, "bands", None)
    return [_made_image(noise) if bands is None else _made_bands(noise, bands) for _ in range(ROWS)]


def _made_image(noise: np.random.Generator) -> bytes:
    pixels = Image.fromarray(noise.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    file = io.BytesIO()
    pixels.resize((320, 240), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def _made_bands(noise: np.random.Generator, bands: Any) -> bytes:
    from setclip_cli.pixels.bands import rasterio_needed
    from setclip_cli.pixels.quiet import quiet

    rasterio = rasterio_needed("images of bands")
    mean, std = np.array(bands.mean, np.float32), np.array(bands.std, np.float32)
    samples = mean[:, None, None] + std[:, None, None] * noise.standard_normal((len(mean), 40, 48)).astype(np.float32)
    with quiet(), rasterio.MemoryFile() as file:
        with file.open(driver="GTiff", width=48, height=40, count=len(mean), dtype="float32") as out:
            out.write(samples)
        content: bytes = file.read()
    return content
