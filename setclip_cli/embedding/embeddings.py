"""EMBEDDINGS: one shard for each shard of the DATASET, and an index.

EMBEDDINGS/embeddings.json                      EmbeddingsIndex, written last, with the hash of every file
EMBEDDINGS/<modality>/<split>-00000.parquet     id, embedding: fixed_size_list<float32>[dim], label, windows (proteins)

`codes` says what the embedding is in the other types.
"""

from __future__ import annotations

import shlex
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, model_validator

from setclip_cli.dataset.dataset import Shard, require_distinct_paths
from setclip_cli.dataset.modality import KINDS_OF_NAMES, Modality, RowKind, in_order, require_kind
from setclip_cli.embedding.codes import BitCode, decode
from setclip_cli.embedding.options import Dtype, Precision
from setclip_cli.errors import SetClipError, nearest, translated
from setclip_cli.files import hashes
from setclip_cli.files.documents import read_json
from setclip_cli.files.what_is import Kind, what_is
from setclip_cli.options import path_of
from setclip_cli.places import named
from setclip_cli.remote.arguments import takes_places
from setclip_cli.vectors import unusable_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

INDEX_NAME = "embeddings.json"
EMBED_AGAIN = "remove the folder and embed again with this version of setclip"
MAKE_SHARD_AGAIN = "run the same `setclip embed` command again: it makes this file anew"
FINISHED = ".finished"
ROWS_PER_GROUP = 8192  # rows that a reader or writer holds at once
Matrix: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.float32]]


class EmbeddedShard(Shard):
    """One shard of EMBEDDINGS, and what happened to its rows."""

    input_sha256: str  # of the shard of the DATASET that it was made from
    truncated: int = 0  # texts longer than the backbone reads
    windowed: int = 0  # proteins read in more than one window
    replaced_letters: int = 0  # residues read as X
    bad: dict[str, str] = Field(default_factory=dict)  # id -> why the row is absent


class StoredBitCode(BaseModel):
    """The `BitCode` of one modality, with which its bits are read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    centre: list[float]
    spread: float
    rows: int  # that it was fitted to

    def opened(self) -> BitCode:
        return BitCode(np.array(self.centre, np.float32), self.spread)


class EmbeddedTower(BaseModel):
    """Where the embeddings of one modality come from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: RowKind | None = None  # of its rows; None if the name of the modality says it
    spec: str
    weights: str = "auto"
    pooling: str
    identity: str  # of the backbone: weights, preprocessing and pooling
    preprocessing: dict[str, Any] = Field(default_factory=dict)
    encoder: dict[str, Any] | None = None  # description of the RUN's encoder; None for raw features
    bits: StoredBitCode | None = None  # of ubinary
    frames: int | None = Field(default=None, ge=1)  # at most, of each video


class EmbeddingSettings(BaseModel):
    """All that the values depend on apart from the rows. A folder never mixes shards of different settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str  # sha256 of the RUN's model, or of the backbone for raw features
    method: str  # the RUN's, or "features"
    dim: int
    dtype: Dtype = "float32"
    width: int | None = None  # that nested embeddings were cut to, if they were
    precision: Precision = "float32"


class EmbeddingsIndex(EmbeddingSettings):
    """The content of embeddings.json, which is written when all shards are finished."""

    schema_version: Literal[1] = 1
    run: str | None = None  # path of the RUN, with which `search` embeds a query; None for raw features
    dataset: str  # path of the DATASET, from which `search` shows what it found
    towers: dict[Modality, EmbeddedTower]
    shards: list[EmbeddedShard]
    files: dict[str, str] = {}  # sha256 of the FAISS indexes

    @model_validator(mode="after")
    def _check(self) -> Self:
        require_distinct_paths(self.shards)
        for name, tower in self.towers.items():
            require_kind(name, tower.kind)
            if (tower.bits is None) == (self.dtype == "ubinary") or (tower.bits and len(tower.bits.centre) != self.dim):
                raise ValueError(f"towers.{name}.bits: does not fit {self.dtype} rows of {self.dim} values")
        known = {f"{shard.modality}/{shard.split}.faiss" for shard in self.shards}
        if unknown := sorted(set(self.files) - known):
            raise ValueError(f"files: {unknown[0]!r} is not the FAISS index of a modality and split of the shards")
        return self

    def as_json(self) -> dict[str, Any]:
        """What embeddings.json holds: without what a tower does not have, as in earlier versions."""
        content = self.model_dump(mode="json")
        if self.width is None:
            del content["width"]
        for tower in content["towers"].values():
            for name in ("kind", "bits", "frames"):
                if tower[name] is None:
                    del tower[name]
        return content

    def settings(self) -> EmbeddingSettings:
        return EmbeddingSettings(**{name: getattr(self, name) for name in EmbeddingSettings.model_fields})


@dataclass(frozen=True)
class EmbeddingTable:
    """Rows in memory.

    Attributes:
        ids: n ids.
        embeddings: (n, d) float32.
        labels: n labels, for evaluation only; None for a row without one.
    """

    ids: list[str]
    embeddings: Matrix
    labels: list[str | None]


@dataclass(frozen=True)
class Embeddings:
    """A finished EMBEDDINGS folder."""

    root: Path
    index: EmbeddingsIndex

    def command(self, *more: str) -> str:
        """The command that goes on with this folder, with ``more`` options."""
        index = self.index
        settings = [] if index.dtype == "float32" else ["--dtype", index.dtype]
        settings += [] if index.width is None else ["--width", str(index.width)]
        words = ["setclip", "embed", index.run or "RUN", index.dataset, "--out", named(self.root), *settings, *more]
        return shlex.join(words)

    def kinds(self) -> dict[Modality, RowKind]:
        """The kind of rows of each tower."""
        return {name: tower.kind or KINDS_OF_NAMES[name] for name, tower in self.index.towers.items()}

    def modalities(self) -> list[Modality]:
        return in_order(shard.modality for shard in self.index.shards)

    def shards(self, modality: Modality, split: str | None = None) -> list[EmbeddedShard]:
        """The shards of one modality and split (all splits if None), in the order of their names.

        Raises:
            SetClipError: there are none.
        """
        of_modality = [shard for shard in self.index.shards if shard.modality == modality]
        if not of_modality:
            raise SetClipError(
                f"{self.root}: holds no {modality} embeddings, only {', '.join(self.modalities())}",
                fix=f"setclip embed RUN DATASET --modality {modality} --out {self.root}",
            )
        found = [shard for shard in of_modality if split in (None, shard.split)]
        if not found:
            splits = sorted({shard.split for shard in of_modality})
            raise SetClipError(
                f"{self.root}: holds no {modality} embeddings of split {split!r}{nearest(str(split), splits)}",
                fix=f"choose one of: {', '.join(splits)}",
            )
        return sorted(found, key=lambda shard: shard.path)

    def read(self, shard: EmbeddedShard, columns: Sequence[str] | None = None) -> pa.Table:
        """One shard's table; `matrix` reads its embeddings.

        Raises:
            SetClipError: the file is missing or has changed, or is not a Parquet file.
        """
        with self._readable(shard) as path:
            return pq.read_table(path, columns=None if columns is None else list(columns))

    def blocks(self, shard: EmbeddedShard) -> Iterator[Matrix]:
        """The embeddings of one shard, in order, as (b, d) float32 blocks of at most ``ROWS_PER_GROUP`` rows.

        Raises:
            SetClipError: the file is missing or no Parquet file, or holds a row that is zero or not finite.
        """
        for stored in self.stored_blocks(shard):
            yield self._decoded(shard, stored)

    def stored_blocks(self, shard: EmbeddedShard) -> Iterator[np.ndarray[Any, Any]]:
        """The same as they are in the file: `codes` says what they mean.

        Raises:
            SetClipError: the file is missing or no Parquet file.
        """
        with self._readable(shard) as path, pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS_PER_GROUP, columns=["embedding"]):
                yield stored_matrix(pa.Table.from_batches([batch]))

    def bit_code(self, modality: Modality) -> BitCode | None:
        """What the bits of ``ubinary`` mean; None for the other types."""
        stored = self.index.towers[modality].bits
        return None if stored is None else stored.opened()

    def _decoded(self, shard: EmbeddedShard, stored: np.ndarray[Any, Any]) -> Matrix:
        return self._usable(shard, decode(stored, self.index.dtype, self.bit_code(shard.modality)))

    def _usable(self, shard: EmbeddedShard, values: Matrix) -> Matrix:
        """The values. Raises SetClipError if a row is zero or not finite: an early version wrote such rows."""
        if bad := unusable_rows(values):
            raise SetClipError(
                f"{self.root / shard.path}: {len(bad)} of its rows have an embedding that {next(iter(bad.values()))}",
                fix="embed again into another folder; rows without an embedding are then left out and counted",
            )
        return values

    @contextmanager
    def _readable(self, shard: EmbeddedShard) -> Iterator[Path]:
        self.require_unchanged(shard)
        path = self.root / shard.path
        with translated(
            path,
            OSError,
            pa.ArrowException,
            found=f"cannot be read as the shard that {INDEX_NAME} lists",
            fix=MAKE_SHARD_AGAIN,
        ):
            yield path

    def require_unchanged(self, shard: EmbeddedShard) -> None:
        """Checks that a shard holds the bytes that were written.

        Raises:
            SetClipError: the file is missing or has changed.
        """
        path = self.root / shard.path
        hashes.require_unchanged(path, shard.sha256, since="embed", listed_in=INDEX_NAME, fix=MAKE_SHARD_AGAIN)

    def load(self, modality: Modality, split: str | None = None) -> EmbeddingTable:
        """All rows of one modality and split (all splits if None), in memory.

        Raises:
            SetClipError: as ``shards`` and ``read`` do.
        """
        ids: list[str] = []
        labels: list[str | None] = []
        parts = []
        for shard in self.shards(modality, split):
            table = self.read(shard)
            ids += table["id"].to_pylist()
            labels += table["label"].to_pylist()
            parts.append(self._decoded(shard, stored_matrix(table)))
        return EmbeddingTable(ids, np.concatenate(parts), labels)


def stored_matrix(table: pa.Table) -> np.ndarray[Any, Any]:
    """(n, k) numbers of a shard's embedding column, in its type; not a copy if it is one chunk."""
    column = table["embedding"]
    width, dtype = column.type.list_size, column.type.value_type.to_pandas_dtype()
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, width) for chunk in column.chunks]
    return chunks[0] if len(chunks) == 1 else np.concatenate([np.empty((0, width), dtype), *chunks])


@takes_places("root")
def open_embeddings(root: str | Path, *, of_backbone: str | None = None) -> Embeddings:
    """Opens a finished EMBEDDINGS folder.

    Args:
        of_backbone: A DATASET, if the features of a backbone for its rows are wanted: the fix of an error then says
            how these are made, and not the embeddings of a RUN.

    Raises:
        SetClipError: it is not an EMBEDDINGS folder, is not finished, or has an index that this version cannot read.
    """
    root = path_of(root, "embeddings")
    path = root / INDEX_NAME
    with translated(root, found="cannot be looked at", fix="check the path"):
        there = path.exists()
    if not there:
        found = what_is(root)
        raw = None if of_backbone is None else f"setclip embed --backbone BACKBONE {of_backbone}"
        again = f"{raw or 'setclip embed RUN DATASET'} --out {root}"
        if found.kind == "embeddings":
            raise SetClipError(f"{root}: its embedding has not finished", fix=again)
        then = "--out EMBEDDINGS; then give these EMBEDDINGS"
        fixes: dict[Kind, str] = {
            "run": f"{raw or f'setclip embed {root} DATASET'} {then}",
            "dataset": f"{raw or f'setclip embed RUN {root}'} {then}",
            "quickstart": f"give the EMBEDDINGS in it: {root / 'embeddings'}",
            "missing": again,
            "empty": again,
        }
        fix = fixes.get(found.kind, f"{raw or 'setclip embed RUN DATASET'} {then}")  # embed refuses a folder in use
        if raw is not None and found.kind == "quickstart":  # its embeddings are those of a RUN
            fix = f"{raw} {then}"
        with translated(root, found="cannot be looked at", fix="check the path"):
            if (root.parent / INDEX_NAME).is_file():
                fix = f"give {root.parent}, the EMBEDDINGS that it is in"
        raise SetClipError(f"{root}: is not an EMBEDDINGS folder (it has no {INDEX_NAME}): it {found.words}", fix=fix)
    return Embeddings(root, read_json(path, EmbeddingsIndex, fix=EMBED_AGAIN))
