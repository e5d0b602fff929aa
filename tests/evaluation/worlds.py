"""Small DATASETs and EMBEDDINGS on disk, whose classes are known directions, for tests of reports."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from setclip_cli.dataset.dataset import Dataset, DatasetIndex, open_dataset, write_shard
from setclip_cli.dataset.modality import KINDS_OF_NAMES
from setclip_cli.dataset.schemas import PAIRS_SCHEMA, schema_of
from setclip_cli.embedding.codes import BitCode
from setclip_cli.embedding.embeddings import (
    EmbeddedShard,
    EmbeddedTower,
    EmbeddingsIndex,
    StoredBitCode,
)
from setclip_cli.embedding.options import Dtype
from setclip_cli.embedding.writing import write_embedding_shard, write_index
from setclip_cli.files import atomic

COLOURS = {"forest": (34, 102, 51), "desert": (214, 178, 112), "lake": (52, 98, 150), "snow": (236, 240, 243)}
CLASSES = tuple(COLOURS)
CODE = BitCode(np.zeros(8, np.float32), 8**-0.5)  # of ubinary rows of the default width


def dataset(root: Path, *, images: int = 48, captions: int = 60, pairs: list[tuple[str, str]] | None = None) -> Dataset:
    """Plain coloured images and one-line captions of four classes, all in the test split.

    Caption i describes image i % images; the rows of the two modalities are otherwise unpaired.
    """
    rng = np.random.default_rng(0)
    image_rows = [_image(f"{number:03}.jpg", CLASSES[number % 4], rng) for number in range(images)]
    caption_rows = [
        _row(f"c{number:03}", f"A {CLASSES[number % 4]} seen from above, view {number}.".encode(), CLASSES[number % 4])
        | {"text": f"A {CLASSES[number % 4]} seen from above, view {number}.", "group": f"{number % images:03}.jpg"}
        for number in range(captions)
    ]
    written = [
        write_shard(
            root,
            f"{modality}/test-00000.parquet",
            pa.Table.from_pylist(rows, schema=schema_of(KINDS_OF_NAMES[modality])),
            modality=modality,
            split="test",
        )
        for modality, rows in (("image", image_rows), ("caption", caption_rows))
    ]
    if pairs:
        rows = [
            {"left_modality": "image", "left_id": a, "right_modality": "caption", "right_id": b, "split": "test"}
            for a, b in pairs
        ]
        pq.write_table(pa.Table.from_pylist(rows, schema=PAIRS_SCHEMA), root / "pairs.parquet")
    atomic.write_json(root / "dataset.json", DatasetIndex(shards=written).model_dump(mode="json"))
    return open_dataset(root)


def relabel(data: Dataset, labels: Mapping[str, str | None], *, column: str = "label") -> Dataset:
    """The same dataset with other labels, or other values of another column, for some ids."""
    index = data.index
    for shard in index.shards:
        table = data.read(shard)
        rows = [row | {column: labels[row["id"]]} if row["id"] in labels else row for row in table.to_pylist()]
        again = pa.Table.from_pylist(rows, schema=table.schema)
        changed = write_shard(data.root, shard.path, again, modality=shard.modality, split=shard.split)
        index = index.model_copy(
            update={"shards": [changed if one.path == shard.path else one for one in index.shards]}
        )
    atomic.write_json(data.root / "dataset.json", index.model_dump(mode="json"))
    return open_dataset(data.root)


def embeddings(
    root: Path,
    data: Dataset,
    *,
    noise: float = 0.6,
    seed: int = 0,
    method: str = "set-clip-plus",
    widths: tuple[int, int] = (8, 8),
    spoil: dict[str, float] | None = None,
    encoder: bool = True,
    dtype: Dtype = "float32",
) -> Path:
    """EMBEDDINGS where a row is its class's direction plus noise; less noise is a better model.

    Args:
        spoil: Id -> the value of its whole embedding, put there after all checks, such as NaN.
        encoder: Whether they claim to come from a RUN's encoders rather than from raw backbones.
    """
    rng = np.random.default_rng(seed)
    model = hashlib.sha256(f"{method}{seed}{noise}".encode()).hexdigest()
    made = []
    for shard, width in zip(sorted(data.index.shards, key=lambda one: one.modality != "image"), widths, strict=True):
        table = data.read(shard, ["id", "label"])
        ids, labels = table["id"].to_pylist(), table["label"].to_pylist()
        directions = np.eye(width)[[CLASSES.index(label) if label in CLASSES else 5 for label in labels]]
        values = directions + noise * rng.normal(size=directions.shape)
        values = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)
        size, sha256 = write_embedding_shard(
            root, shard.path, ids=ids, embeddings=values, labels=labels, dtype=dtype, code=CODE
        )
        if spoil:
            size, sha256 = _spoil(root / shard.path, spoil)
        fields = shard.model_dump() | {"bytes": size, "sha256": sha256}
        made.append(EmbeddedShard(**fields, input_sha256=shard.sha256))
    bits = StoredBitCode(centre=CODE.centre.tolist(), spread=CODE.spread, rows=0) if dtype == "ubinary" else None
    tower = EmbeddedTower(
        spec="test:none", pooling="default", identity=model, encoder={} if encoder else None, bits=bits
    )
    towers = {"image": tower, "caption": tower}
    index = EmbeddingsIndex(
        model=model, method=method, dim=widths[0], dtype=dtype, dataset=str(data.root), towers=towers, shards=made
    )
    write_index(root, index)
    return root


def _spoil(path: Path, values: dict[str, float]) -> tuple[int, str]:
    table = pq.read_table(path)
    rows = table.to_pylist()
    for row in rows:
        if row["id"] in values:
            row["embedding"] = [values[row["id"]]] * len(row["embedding"])
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    return path.stat().st_size, atomic.sha256_file(path)


def _image(name: str, label: str, rng: np.random.Generator) -> dict[str, object]:
    pixels = np.clip(np.array(COLOURS[label]) + rng.normal(0, 14, size=(64, 64, 3)), 0, 255).astype(np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "JPEG")
    return _row(name, written.getvalue(), label) | {"image": written.getvalue(), "width": 64, "height": 64}


def _row(name: str, payload: bytes, label: str) -> dict[str, object]:
    return {
        "id": name,
        "split": "test",
        "source": "made for tests",
        "sha256": hashlib.sha256(payload).hexdigest(),
        "label": label,
    }
