"""Vectors in an EMBEDDINGS folder, as `setclip embed` writes it: the rows of one modality."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from setclip_cli.errors import SetClipError, argument
from setclip_cli.files import hashes
from setclip_cli.files.documents import read_json
from setclip_cli.ingest.sources.vectors.blocks import Block, Values, VectorFile
from setclip_cli.ingest.sources.vectors.parquet import ParquetVectors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

INDEX_NAME = "embeddings.json"
_FIX = "embed again with this version of setclip"


class _Shard(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    path: str
    modality: str
    split: str
    rows: int
    sha256: str


class _Index(BaseModel):
    """What is read of embeddings.json."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model: str
    method: str
    dim: int
    dtype: str = "float32"
    towers: dict[str, dict[str, Any]]
    shards: list[_Shard]


class EmbeddedVectors(VectorFile):
    """The rows of one modality of an EMBEDDINGS folder. Its shards say their splits."""

    def __init__(self, path: Path, *, modality: str | None) -> None:
        index = read_json(path / INDEX_NAME, _Index, fix=_FIX)
        modalities = list(dict.fromkeys(shard.modality for shard in index.shards))
        chosen = modality if modality in modalities else modalities[0] if len(modalities) == 1 else None
        if chosen is None:
            raise SetClipError(
                f"{path}: holds embeddings of {', '.join(modalities) or 'nothing'}",
                fix=f"say which ones to read: {argument('vector_column')} {next(iter(modalities), 'NAME')}",
            )
        self._shards = [shard for shard in index.shards if shard.modality == chosen]
        if index.dtype == "ubinary":
            raise _bits(path)
        self._of_bytes = index.dtype == "int8"
        dtype = np.dtype("<f2" if index.dtype == "float16" else "<f4")
        rows = sum(shard.rows for shard in self._shards)
        super().__init__(path, width=index.dim, dtype=dtype, rows=rows, has_ids=True)
        self.encoder = f"{index.towers.get(chosen, {}).get('spec', index.method)} {index.method} {index.model[:16]}"
        self.notes.append(f"the {chosen} rows of an EMBEDDINGS folder; its method is {index.method}")

    def blocks(self, start: int = 0) -> Iterator[Block]:
        row = 0
        for shard in self._shards:
            if row + shard.rows > start:
                path = self.path / shard.path
                hashes.require_unchanged(path, shard.sha256, since="embed", listed_in=INDEX_NAME, fix=_FIX)
                file = ParquetVectors(path, column="embedding", id_column="id", scale=1 if self._of_bytes else None)
                for block in file.blocks(max(start - row, 0)):
                    if self._of_bytes:
                        block = block._replace(values=_unit(block.values))
                    yield block._replace(splits=[shard.split] * len(block.values))
            row += shard.rows


def _bits(path: Path) -> SetClipError:
    return SetClipError(
        f"{path}: holds ubinary embeddings: one bit a value says too little to be aligned again",
        fix="embed the same DATASET with --dtype int8 or float32 into another folder, and ingest that one",
    )


def refuse_small_shard(path: Path) -> None:
    """Refuses a file of EMBEDDINGS whose bytes mean nothing without the folder: bits, and values with a scale a row."""
    root = path.absolute().parents[1]
    try:
        dtype = json.loads((root / INDEX_NAME).read_bytes())["dtype"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # it is no file of such a folder
    if dtype == "ubinary":
        raise _bits(path)
    if dtype == "int8":
        raise SetClipError(
            f"{path}: is a file of int8 EMBEDDINGS, in which each row has a scale of its own",
            fix=f"give the folder, {path.parent.parent}",
        )


def _unit(values: Values) -> Values:
    """Rows of int8, of which each has a length of its own, at length 1."""
    rows: Values = values.astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows
