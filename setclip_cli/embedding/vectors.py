"""The rows of EMBEDDINGS as unit vectors in one memory map, and exact search over it.

`encoders.neighbours` holds its pool in memory and may be approximate; this search does neither.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from setclip_cli.files import sealed
from setclip_cli.files.cache import cache_place, if_cache_takes_it

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from setclip_cli.dataset.modality import Modality
    from setclip_cli.embedding.embeddings import EmbeddedShard, Embeddings

Vectors: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
ROWS_PER_BLOCK = 65_536


def unit_vectors(
    embeddings: Embeddings, modality: Modality, split: str | None, *, cache_dir: Path | None = None
) -> Vectors:
    """(n, d) float32 rows of length 1, memory-mapped, in the order of the shards.

    Parquet cannot be mapped as plain numbers, so the first call writes the rows to the cache, block by block, under the
    hashes of the shards; if the cache takes nothing, to memory.

    Raises:
        SetClipError: there are no such rows, or a shard cannot be read.
    """
    shards = embeddings.shards(modality, split)
    key = hashlib.sha256("".join(shard.sha256 for shard in shards).encode()).hexdigest()
    path = cache_place("vectors", f"{key}.f32", cache_dir=cache_dir)
    rows, dim = sum(shard.rows for shard in shards), embeddings.index.dim
    if rows == 0:
        return np.zeros((0, dim), dtype=np.float32)
    for shard in shards:
        embeddings.require_unchanged(shard)
    size = rows * dim * np.dtype(np.float32).itemsize
    if not _is_whole(path, size):
        with if_cache_takes_it(), sealed.writing(path, needs=size) as temporary, temporary.open("wb") as file:
            for block in _unit_blocks(embeddings, shards):
                file.write(np.ascontiguousarray(block, dtype=np.float32).data)
    if _is_whole(path, size):
        return np.memmap(path, dtype=np.float32, mode="r", shape=(rows, dim))
    vectors, start = np.empty((rows, dim), dtype=np.float32), 0
    for block in _unit_blocks(embeddings, shards):
        vectors[start : start + len(block)] = block
        start += len(block)
    return vectors


def _unit_blocks(embeddings: Embeddings, shards: Sequence[EmbeddedShard]) -> Iterator[Vectors]:
    for values in (block for shard in shards for block in embeddings.blocks(shard)):
        yield values / np.linalg.norm(values, axis=1, keepdims=True)


def _is_whole(path: Path, size: int) -> bool:
    return sealed.is_whole(path) and path.stat().st_size == size


def nearest_rows(vectors: Vectors, query: Vectors, top: int) -> tuple[list[int], list[float]]:
    """The rows with the largest inner products, and these products, best first; of equal ones the earlier row first.

    Every row is compared, in blocks: memory does not grow with n.

    Args:
        vectors: (n, d).
        query: (d,).
        top: How many rows.

    Returns:
        min(top, n) row numbers, and as many products.

    Raises:
        ValueError: ``top`` is not positive, or the query has another width.
    """
    if top < 1 or query.shape != (vectors.shape[1],):
        raise ValueError(f"needs top > 0 and a query of ({vectors.shape[1]},), got {top} and {query.shape}")
    rows = np.empty(0, dtype=np.int64)
    scores = np.empty(0, dtype=np.float32)
    for start in range(0, len(vectors), ROWS_PER_BLOCK):
        block = np.asarray(vectors[start : start + ROWS_PER_BLOCK]) @ query
        if len(block) > top:
            at_least = np.partition(block, -top)[-top]
            chosen = np.flatnonzero(block >= at_least)
        else:
            chosen = np.arange(len(block))
        rows, scores = np.concatenate([rows, start + chosen]), np.concatenate([scores, block[chosen]])
        best = np.lexsort((rows, -scores))[:top]
        rows, scores = rows[best], scores[best]
    return rows.tolist(), scores.tolist()
