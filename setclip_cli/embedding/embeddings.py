"""EMBEDDINGS: one output shard for each input shard, and the index that is written last.

EMBEDDINGS/embeddings.json                      EmbeddingsIndex
EMBEDDINGS/<modality>/<split>-00000.parquet     id, embedding: fixed_size_list<float32>[dim], label, windows (proteins)
EMBEDDINGS/.finished/<modality>/<split>-00000.json   of a run that has not ended yet: what resuming may keep
"""

from __future__ import annotations

import errno
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from setclip_cli.dataset.dataset import Shard
from setclip_cli.dataset.modality import MODALITIES, Modality
from setclip_cli.errors import SetClipError, nearest
from setclip_cli.files import atomic

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

INDEX_NAME = "embeddings.json"
FINISHED = ".finished"
ROWS_PER_GROUP = 8192  # what a reader or writer must hold at once
Dtype = Literal["float32", "float16"]
Document = TypeVar("Document", bound=BaseModel)
_ARROW = {"float32": pa.float32(), "float16": pa.float16()}


class EmbeddedShard(Shard):
    """One finished output shard, and what happened to the rows on the way."""

    input_sha256: str  # of the DATASET's shard it was made from
    truncated: int = 0  # texts longer than the backbone reads
    windowed: int = 0  # proteins read in more than one window
    replaced_letters: int = 0  # residues read as X
    bad: dict[str, str] = Field(default_factory=dict)  # id -> why the row is absent


class EmbeddedTower(BaseModel):
    """Where the embeddings of one modality come from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    spec: str
    weights: str = "auto"
    pooling: str
    identity: str  # of the backbone: weights, preprocessing and pooling
    preprocessing: dict[str, Any] = Field(default_factory=dict)
    encoder: dict[str, Any] | None = None  # description of the RUN's encoder; None for raw features


class Making(BaseModel):
    """Everything the values depend on beside the rows: shards of another making are never mixed in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str  # sha256 of the RUN's model, or of the backbone for raw features
    method: str  # the RUN's, or "features"
    dim: int
    dtype: Dtype = "float32"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"


class EmbeddingsIndex(Making):
    """embeddings.json. Only a finished run writes it."""

    schema_version: Literal[1] = 1
    run: str | None = None  # where the RUN was, so that `search` can embed a query; None for raw features
    dataset: str  # where the DATASET was, so that `search` can show what it found
    towers: dict[Modality, EmbeddedTower]
    shards: list[EmbeddedShard]

    def making(self) -> Making:
        return Making(**{name: getattr(self, name) for name in Making.model_fields})


class FinishedShard(BaseModel):
    """The record beside a finished shard until the index is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    making: Making
    shard: EmbeddedShard


@dataclass(frozen=True)
class EmbeddingTable:
    """Attributes: ids; embeddings (n, d) float32; labels, for evaluation only."""

    ids: list[str]
    embeddings: np.ndarray[tuple[int, int], np.dtype[np.float32]]
    labels: list[str | None]


@dataclass(frozen=True)
class Embeddings:
    """A finished EMBEDDINGS folder."""

    root: Path
    index: EmbeddingsIndex

    def modalities(self) -> list[Modality]:
        return [modality for modality in MODALITIES if any(shard.modality == modality for shard in self.index.shards)]

    def shards(self, modality: Modality, split: str | None = None) -> list[EmbeddedShard]:
        """The shards of one modality and split (all when None), in the order of their names.

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
                f"{self.root}: no {modality} embeddings of split {split!r}{nearest(str(split), splits)}",
                fix=f"choose one of: {', '.join(splits)}",
            )
        return sorted(found, key=lambda shard: shard.path)

    def read(self, shard: EmbeddedShard, columns: Sequence[str] | None = None) -> pa.Table:
        """One shard's table.

        Raises:
            SetClipError: the file is missing or is no Parquet file any more.
        """
        with self._readable(shard) as path:
            return pq.read_table(path, columns=None if columns is None else list(columns))

    def blocks(self, shard: EmbeddedShard) -> Iterator[np.ndarray[Any, np.dtype[np.float32]]]:
        """The embeddings of one shard in blocks of some rows, in order.

        Raises:
            SetClipError: the file is missing or is no Parquet file any more.
        """
        with self._readable(shard) as path, pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS_PER_GROUP, columns=["embedding"]):
                yield matrix(pa.Table.from_batches([batch]))

    @contextmanager
    def _readable(self, shard: EmbeddedShard) -> Iterator[Path]:
        path = self.root / shard.path
        try:
            yield path
        except (OSError, pa.ArrowException) as error:
            raise SetClipError(
                f"{path}: cannot be read as the shard that {INDEX_NAME} lists ({error})",
                fix="run the `setclip embed` command again",
            ) from error

    def load(self, modality: Modality, split: str | None = None) -> EmbeddingTable:
        """All rows of one modality and split in memory, as float32."""
        ids: list[str] = []
        labels: list[str | None] = []
        parts = []
        for table in (self.read(shard) for shard in self.shards(modality, split)):
            ids += table["id"].to_pylist()
            labels += table["label"].to_pylist()
            parts.append(matrix(table))
        return EmbeddingTable(ids, np.concatenate(parts), labels)


def matrix(table: pa.Table) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """(n, d) float32 of a shard's embedding column; no copy when it is one float32 chunk."""
    column = table["embedding"]
    dim = column.type.list_size
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim) for chunk in column.chunks]
    joined = chunks[0] if len(chunks) == 1 else np.concatenate([np.empty((0, dim), "float32"), *chunks])
    return joined.astype(np.float32, copy=False)


def open_embeddings(root: Path) -> Embeddings:
    """Opens a finished EMBEDDINGS folder.

    Raises:
        SetClipError: none there, not finished, or an index this version cannot read.
    """
    path = root / INDEX_NAME
    if not path.exists():
        started = (root / FINISHED).is_dir()
        raise SetClipError(
            f"{root}: {'its embedding has not finished' if started else f'is no EMBEDDINGS folder (no {INDEX_NAME})'}",
            fix=f"setclip embed RUN DATASET --out {root}",
        )
    return Embeddings(root, _read(path, EmbeddingsIndex))


def write_embedding_shard(
    root: Path,
    relative: str,
    *,
    ids: Sequence[str],
    embeddings: np.ndarray[Any, Any],
    labels: Sequence[str | None],
    windows: Sequence[int] | None = None,
    dtype: Dtype = "float32",
) -> tuple[int, str]:
    """Writes one shard atomically; returns its bytes and sha256. Equal rows give equal bytes.

    Raises:
        ValueError: lengths differ, or a value is not finite in ``dtype``: NaN is never written.
        SetClipError: the disk is full.
    """
    values = np.ascontiguousarray(embeddings, dtype=dtype)
    if not (len(ids) == len(values) == len(labels)) or values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError(f"{relative}: needs (n, d) finite embeddings and as many ids and labels, got {values.shape}")
    columns = {
        "id": pa.array(ids, pa.string()),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), _ARROW[dtype]), values.shape[1]),
        "label": pa.array(labels, pa.string()),
    }
    if windows is not None:
        columns["windows"] = pa.array(windows, pa.int32())
    path = root / relative
    try:
        with atomic.atomic_path(path) as temporary:
            pq.write_table(
                pa.table(columns),
                temporary,
                compression="zstd",
                row_group_size=ROWS_PER_GROUP,
                use_dictionary=["label"],  # values that never repeat only cost it memory
            )
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise SetClipError(
            f"{path}: the disk is full", fix="free some space and run the same command again; finished shards are kept"
        ) from error
    return path.stat().st_size, atomic.sha256_file(path)


def record_finished(root: Path, making: Making, shard: EmbeddedShard) -> None:
    """Notes that a shard is whole, so that a run that is killed later need not repeat it."""
    atomic.write_json(_record_path(root, shard.path), FinishedShard(making=making, shard=shard).model_dump())


def finished_shards(root: Path, making: Making) -> dict[str, EmbeddedShard]:
    """What earlier runs into this folder finished, by path; shards are not opened or checked here.

    Raises:
        SetClipError: the folder was made by another model or with other settings.
    """
    found: dict[str, EmbeddedShard] = {}
    index_path = root / INDEX_NAME
    records = sorted((root / FINISHED).rglob("*.json")) if (root / FINISHED).is_dir() else []
    if index_path.exists():
        index = _read(index_path, EmbeddingsIndex)
        _require_same(root, index.making(), making)
        found = {shard.path: shard for shard in index.shards}
    for path in records:
        record = _read(path, FinishedShard)
        _require_same(root, record.making, making)
        found[record.shard.path] = record.shard
    return found


def write_index(root: Path, index: EmbeddingsIndex) -> None:
    """Writes embeddings.json if it changed, keeping the towers of earlier runs, then forgets the records of the run."""
    path = root / INDEX_NAME
    earlier = _read(path, EmbeddingsIndex) if path.exists() else None
    if earlier is not None:
        index = index.model_copy(update={"towers": {**earlier.towers, **index.towers}})
    if index != earlier:
        atomic.write_json(path, index.model_dump(mode="json"))
    for shard in index.shards:
        _record_path(root, shard.path).unlink(missing_ok=True)
    for folder in [*sorted((root / FINISHED).rglob("*"), reverse=True), root / FINISHED]:
        with suppress(OSError):  # not there, or records of shards that this run was not asked for
            folder.rmdir()


def is_whole(root: Path, shard: EmbeddedShard) -> bool:
    """Whether the shard's file is there with the very bytes that were written."""
    path = root / shard.path
    return path.is_file() and path.stat().st_size == shard.bytes and atomic.sha256_file(path) == shard.sha256


def _record_path(root: Path, relative: str) -> Path:
    return (root / FINISHED / relative).with_suffix(".json")


def _require_same(root: Path, found: Making, wanted: Making) -> None:
    different = [name for name in Making.model_fields if getattr(found, name) != getattr(wanted, name)]
    if different:
        name = different[0]
        raise SetClipError(
            f"{root}: was made with another {name} ({getattr(found, name)}, now {getattr(wanted, name)})",
            fix="choose another --out, or remove the folder first",
        )


def _read(path: Path, kind: type[Document]) -> Document:
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise SetClipError(
            f"{path}: {'.'.join(map(str, first['loc'])) or 'content'}: {first['msg']}",
            fix="remove the folder and embed again with this version of setclip",
        ) from error
