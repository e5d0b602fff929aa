"""A DATASET of two pools of vectors whose true partners are known: row n of both sides is one item."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from setclip_cli.dataset.dataset import INDEX_NAME, PAIRS_NAME, DatasetIndex, write_shard
from setclip_cli.dataset.schemas import PAIRS_SCHEMA, ModalityInfo, schema_of
from setclip_cli.files import atomic
from setclip_cli.ingest.batches import write_table

NAMES = ("audio", "words")


def views(rows: int, seed: int, noise: float) -> list[np.ndarray]:
    """Two noisy linear views of the same hidden factors."""
    draw = torch.Generator().manual_seed(0)
    maps = [torch.linalg.qr(torch.randn(width, 12, generator=draw))[0] for width in (20, 16)]
    draw = torch.Generator().manual_seed(seed)
    factors = torch.randn(rows, 12, generator=draw)
    return [(factors @ one.T + noise * torch.randn(rows, len(one), generator=draw)).numpy() for one in maps]


def write_pools(
    root: Path,
    *,
    rows: int = 200,
    known: int = 60,
    noise: float = 0.3,
    ids: tuple[str, str] = ("a{}", "w{}"),
    splits: tuple[str, ...] = ("train",),
    lonely: int = 0,
) -> Path:
    """Writes the DATASET; the first ``known`` items of each split are pairs. The right rows are in turned order.

    Args:
        lonely: So many of the last left rows are of a kind of their own, and the right side lacks them.
    """
    infos = {
        name: ModalityInfo(kind="vector", width=width, dtype="float32")
        for name, width in zip(NAMES, (20, 16), strict=True)
    }
    shards, pairs = [], []
    for number, split in enumerate(splits):
        for side, (name, values) in enumerate(zip(NAMES, views(rows, 1 + number, noise), strict=True)):
            if side == 0 and lonely:
                values[-lonely:] += 4 * np.ones(values.shape[1], np.float32)
            order = range(rows) if side == 0 else range(rows - lonely)[::-1]
            values = values[list(order)]
            names = [ids[side].format(row) if number == 0 else f"{split}-{ids[side].format(row)}" for row in order]
            columns = {
                "id": names,
                "split": [split] * len(order),
                "source": ["made"] * len(order),
                "sha256": [atomic.sha256_bytes(row.tobytes()) for row in values],
                "label": [None] * len(order),
                "group": [None] * len(order),
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1]),
            }
            schema = schema_of("vector", infos[name])
            arrays = [
                one if isinstance(one := columns[field.name], pa.Array) else pa.array(one, field.type)
                for field in schema
            ]
            table = pa.Table.from_arrays(arrays, schema=schema)
            shards.append(write_shard(root, f"{name}/{split}-00000.parquet", table, modality=name, split=split))
        prefix = "" if number == 0 else f"{split}-"
        pairs += [
            {"left_modality": NAMES[0], "left_id": prefix + ids[0].format(row), "right_modality": NAMES[1]}
            | {"right_id": prefix + ids[1].format(row), "split": split}
            for row in range(known)
        ]
    files = {}
    if pairs:
        write_table(root / PAIRS_NAME, pa.Table.from_pylist(pairs, schema=PAIRS_SCHEMA))
        files = {PAIRS_NAME: atomic.sha256_file(root / PAIRS_NAME)}
    atomic.write_json(root / INDEX_NAME, DatasetIndex(shards=shards, modalities=infos, files=files).as_json())
    return root


def write_recipe(folder: Path, extra: str = "", method: str = "transport") -> Path:
    path = folder / f"{method}.toml"
    towers = "".join(f'[towers.{name}]\nbackbone = "vector"\n' for name in NAMES)
    path.write_text(f'schema_version = 2\nmethod = "{method}"\n{extra}\n{towers}', encoding="utf-8")
    return path
