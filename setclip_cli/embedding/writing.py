"""How EMBEDDINGS are written: whole shards, a record of each one, and the index at the end.

EMBEDDINGS/.finished/<modality>/<split>-00000.json   a shard that is whole; a run that was killed goes on from these
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from setclip_cli.console import note
from setclip_cli.dataset.modality import Modality
from setclip_cli.embedding.codes import encode
from setclip_cli.embedding.embeddings import (
    EMBED_AGAIN,
    FINISHED,
    INDEX_NAME,
    ROWS_PER_GROUP,
    EmbeddedShard,
    EmbeddingSettings,
    EmbeddingsIndex,
    StoredBitCode,
)
from setclip_cli.errors import SetClipError, argument
from setclip_cli.files import atomic, hashes
from setclip_cli.files.documents import read_json, write_document
from setclip_cli.vectors import unusable_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from setclip_cli.embedding.codes import BitCode
    from setclip_cli.embedding.options import Dtype

_ARROW = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8(), "ubinary": pa.uint8()}


class FinishedShard(BaseModel):
    """The record of a shard that is whole, until the index is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    settings: EmbeddingSettings = Field(alias="making")  # the key in the file
    shard: EmbeddedShard
    bits: StoredBitCode | None = None  # of ubinary


def write_embedding_shard(
    root: Path,
    relative: str,
    *,
    ids: Sequence[str],
    embeddings: np.ndarray[Any, Any],
    labels: Sequence[str | None],
    windows: Sequence[int] | None = None,
    dtype: Dtype = "float32",
    code: BitCode | None = None,
) -> tuple[int, str]:
    """Writes one shard whole or not at all. Equal rows give equal bytes.

    Args:
        root: The EMBEDDINGS folder.
        relative: The shard's path in it.
        ids: n ids.
        embeddings: (n, d), finite and no row of zeros.
        labels: n labels; None for a row without one.
        windows: n counts of windows, for proteins.
        dtype: Type of the written values.
        code: Of ``ubinary``.

    Returns:
        The file's size in bytes and its sha256.

    Raises:
        ValueError: lengths differ, or a row is zero or not finite in ``dtype``: such a row is never written.
        SetClipError: the file cannot be written.
    """
    fits = embeddings.ndim == 2 and len(ids) == len(embeddings) == len(labels)
    if not fits or unusable_rows(embeddings.astype("float16") if dtype == "float16" else embeddings):
        raise ValueError(f"{relative}: needs (n, d) embeddings, none zero or not finite, and as many ids and labels")
    values = encode(embeddings, dtype, code)
    columns = {
        "id": pa.array(ids, pa.string()),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), _ARROW[dtype]), values.shape[1]),
        "label": pa.array(labels, pa.string()),
    }
    if windows is not None:
        columns["windows"] = pa.array(windows, pa.int32())
    path = root / relative
    with atomic.atomic_path(path, needs=values.nbytes) as temporary:
        pq.write_table(
            pa.table(columns),
            temporary,
            compression="zstd",
            row_group_size=ROWS_PER_GROUP,
            use_dictionary=["label"],  # ids and embeddings do not repeat, and a dictionary of them takes memory
        )
    sha256 = atomic.sha256_file(path)
    hashes.remember(path, sha256)
    return path.stat().st_size, sha256


def record_finished(
    root: Path, settings: EmbeddingSettings, shard: EmbeddedShard, bits: StoredBitCode | None = None
) -> None:
    """Records that a shard is whole, so that the next run keeps it."""
    record = FinishedShard(making=settings, shard=shard, bits=bits)
    left_out = {"bits"} if bits is None else None
    write_document(_record_path(root, shard.path), record.model_dump(by_alias=True, exclude=left_out))


@dataclass(frozen=True)
class Finished:
    """What earlier runs finished in a folder. The files themselves are not checked.

    Attributes:
        shards: By path.
        bits: Modality -> the code of its shards, of ubinary.
    """

    shards: dict[str, EmbeddedShard]
    bits: dict[Modality, StoredBitCode]


def finished_shards(root: Path, settings: EmbeddingSettings) -> Finished:
    """What earlier runs finished in this folder.

    Raises:
        SetClipError: the folder was made by another model or with other settings.
    """
    found: dict[str, EmbeddedShard] = {}
    bits: dict[Modality, StoredBitCode] = {}
    index_path = root / INDEX_NAME
    records = sorted((root / FINISHED).rglob("*.json")) if (root / FINISHED).is_dir() else []
    if index_path.exists():
        index = read_json(index_path, EmbeddingsIndex, fix=EMBED_AGAIN)
        _require_same(root, index.settings(), settings)
        found = {shard.path: shard for shard in index.shards}
        bits = {name: tower.bits for name, tower in index.towers.items() if tower.bits is not None}
    for path in records:
        record = read_json(path, FinishedShard, fix="remove it, and run the same command again")
        _require_same(root, record.settings, settings)
        found[record.shard.path] = record.shard
        if record.bits is not None:
            bits.setdefault(record.shard.modality, record.bits)
    return Finished(found, bits)


def write_index(root: Path, index: EmbeddingsIndex, faiss: Mapping[str, str] | None = None) -> None:
    """Writes embeddings.json if it changed, with the towers of earlier runs; then removes the records of its shards.

    Args:
        faiss: Path -> sha256 of the FAISS indexes of this run; those of earlier runs that are still there stay listed.
    """
    path, files = root / INDEX_NAME, dict(faiss or {})
    earlier = read_json(path, EmbeddingsIndex, fix=EMBED_AGAIN) if path.exists() else None
    if earlier is not None:
        index = index.model_copy(update={"towers": {**earlier.towers, **index.towers}})
        files = {**{name: sha256 for name, sha256 in earlier.files.items() if (root / name).is_file()}, **files}
    index = index.model_copy(update={"files": files})
    if index != earlier:
        write_document(path, index.as_json())
    for shard in index.shards:
        atomic.remove_file(_record_path(root, shard.path))
    for folder in [*sorted((root / FINISHED).rglob("*"), reverse=True), root / FINISHED]:
        with suppress(OSError):  # it is missing, or holds records of shards that are not in the index
            folder.rmdir()


def is_whole(root: Path, shard: EmbeddedShard) -> bool:
    """Whether the shard's file holds the bytes that were written; a note says so if it does not."""
    path = root / shard.path
    if path.is_file() and path.stat().st_size == shard.bytes and hashes.is_unchanged(path, shard.sha256):
        return True
    note(f"note: {path}: has changed since embed wrote it; it is made again")
    return False


_CHOSEN = ("dtype", "width", "precision")  # settings that are options of the command


def record_name(shard: str) -> str:
    """The path, in the folder, of the record of a shard."""
    return f"{FINISHED}/{shard.removesuffix('.parquet')}.json"


def _record_path(root: Path, relative: str) -> Path:
    return root / record_name(relative)


def _require_same(root: Path, found: EmbeddingSettings, wanted: EmbeddingSettings) -> None:
    different = [name for name in EmbeddingSettings.model_fields if getattr(found, name) != getattr(wanted, name)]
    if different:
        name = "width" if "width" in different else different[0]
        before, now = (getattr(settings, name) for settings in (found, wanted))
        as_before = f"give {argument(name)} {before} to go on with it, or " if name in _CHOSEN and before else ""
        raise SetClipError(
            f"{root}: was made with another {name} ({before or 'whole rows'}, now {now or 'whole rows'})",
            fix=f"{as_before}choose another {argument('out')}, or remove the folder first",
        )
