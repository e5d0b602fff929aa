"""The rows of EMBEDDINGS in memory maps, and search over them.

`encoders.neighbours` holds its pool in memory and may be approximate; this search does neither, but for bits.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from setclip_cli.embedding.codes import turned, unit
from setclip_cli.files import sealed
from setclip_cli.files.cache import cache_place, if_cache_takes_it

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from setclip_cli.dataset.modality import Modality
    from setclip_cli.embedding.codes import BitCode
    from setclip_cli.embedding.embeddings import EmbeddedShard, Embeddings

Vectors: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
ROWS_PER_BLOCK = 65_536
INT8_ROWS_PER_BLOCK = 8192  # in float32 they fit in the processor's cache
SHORTLIST = 1000  # rows of bits that are compared with the whole query, at least
SHORTLIST_PER_HIT = 20


class Rows(ABC):
    """(n, d) rows as they are stored, which a query is compared with."""

    dim: int

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def cosines(self, query: Vectors) -> Iterator[tuple[int, Vectors]]:
        """The cosines of all rows with a unit query, in blocks, each with the number of its first row."""

    def nearest(self, query: Vectors, top: int) -> tuple[list[int], list[float]]:
        """The rows with the largest cosines, and these, best first; of equal ones the earlier row first.

        Every row is compared, in blocks: memory does not grow with n.

        Args:
            query: (d,) of length 1.
            top: How many rows.

        Returns:
            min(top, n) row numbers, and as many cosines.

        Raises:
            ValueError: ``top`` is not positive, or the query has another width.
        """
        if top < 1 or query.shape != (self.dim,):
            raise ValueError(f"needs top > 0 and a query of ({self.dim},), got {top} and {query.shape}")
        return self._nearest(query, top)

    def _nearest(self, query: Vectors, top: int) -> tuple[list[int], list[float]]:
        return _best(self.cosines(query), top)


class FloatRows(Rows):
    """Unit rows in full."""

    def __init__(self, vectors: Vectors) -> None:
        self._vectors, self.dim = vectors, vectors.shape[1]

    def __len__(self) -> int:
        return len(self._vectors)

    def cosines(self, query: Vectors) -> Iterator[tuple[int, Vectors]]:
        for start in range(0, len(self), ROWS_PER_BLOCK):
            yield start, np.asarray(self._vectors[start : start + ROWS_PER_BLOCK]) @ query


class Int8Rows(Rows):
    """Rows of int8, each of a length of its own."""

    def __init__(self, stored: np.ndarray[Any, np.dtype[np.int8]]) -> None:
        self._stored, self.dim = stored, stored.shape[1]

    def __len__(self) -> int:
        return len(self._stored)

    def cosines(self, query: Vectors) -> Iterator[tuple[int, Vectors]]:
        for start in range(0, len(self), INT8_ROWS_PER_BLOCK):
            block = self._stored[start : start + INT8_ROWS_PER_BLOCK].astype(np.float32)
            yield start, block @ query / np.sqrt(np.einsum("ij,ij->i", block, block))


class BitRows(Rows):
    """Rows of one bit a value. Their cosines are estimates: those of the rows that the bits stand for."""

    def __init__(self, stored: np.ndarray[Any, np.dtype[np.uint8]], code: BitCode) -> None:
        self._stored, self._code, self.dim = stored, code, len(code.centre)

    def __len__(self) -> int:
        return len(self._stored)

    def cosines(self, query: Vectors) -> Iterator[tuple[int, Vectors]]:
        return self._rescored(query, np.arange(len(self)))

    def _rescored(self, query: Vectors, rows: np.ndarray[Any, np.dtype[np.int64]]) -> Iterator[tuple[int, Vectors]]:
        """The cosines of some rows with the whole query, in blocks, each with the place of its first row."""
        whole = turned(query).astype(np.float32)
        for start in range(0, len(rows), INT8_ROWS_PER_BLOCK):
            bits = self._stored[rows[start : start + INT8_ROWS_PER_BLOCK]]
            yield start, self._code.turned_rows(bits) @ whole

    def _nearest(self, query: Vectors, top: int) -> tuple[list[int], list[float]]:
        """First the bits that differ from those of the query, of every row; then the whole query, of the nearest."""
        shortlist = self._shortlist(query, max(SHORTLIST, SHORTLIST_PER_HIT * top))
        places, scores = _best(self._rescored(query, shortlist), top)
        return shortlist[places].tolist(), scores

    def _shortlist(self, query: Vectors, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """At least ``count`` rows, in their order, and all that are as near as the last of them."""
        if len(self) <= count:
            return np.arange(len(self))
        own = self._code.bits(query[None])
        differ = np.empty(len(self), np.uint16 if self.dim < 1 << 16 else np.uint32)
        for start in range(0, len(self), ROWS_PER_BLOCK):
            block = self._stored[start : start + ROWS_PER_BLOCK] ^ own
            differ[start : start + ROWS_PER_BLOCK] = _ONES[block].sum(1, dtype=differ.dtype)
        return np.flatnonzero(differ <= np.partition(differ, count - 1)[count - 1])


def _best(blocks: Iterator[tuple[int, Vectors]], top: int) -> tuple[list[int], list[float]]:
    rows = np.empty(0, dtype=np.int64)
    scores = np.empty(0, dtype=np.float32)
    for start, block in blocks:
        if len(block) > top:
            at_least = np.partition(block, -top)[-top]
            chosen = np.flatnonzero(block >= at_least)
        else:
            chosen = np.arange(len(block))
        rows, scores = np.concatenate([rows, start + chosen]), np.concatenate([scores, block[chosen]])
        best = np.lexsort((rows, -scores))[:top]
        rows, scores = rows[best], scores[best]
    return rows.tolist(), scores.tolist()


_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)  # of each byte


def nearest_rows(vectors: Vectors, query: Vectors, top: int) -> tuple[list[int], list[float]]:
    """The same as `Rows.nearest` of (n, d) unit rows in memory."""
    return FloatRows(vectors).nearest(query, top)


def open_rows(embeddings: Embeddings, modality: Modality, split: str | None, *, cache_dir: Path | None = None) -> Rows:
    """The rows to search, memory-mapped as they are stored: int8 and bits stay as small as they are.

    Raises:
        SetClipError: there are no such rows, or a shard cannot be read.
    """
    dtype, dim = embeddings.index.dtype, embeddings.index.dim
    if dtype not in ("int8", "ubinary"):
        return FloatRows(unit_vectors(embeddings, modality, split, cache_dir=cache_dir))
    shards = embeddings.shards(modality, split)

    def blocks() -> Iterator[np.ndarray[Any, Any]]:
        return (block for shard in shards for block in embeddings.stored_blocks(shard))

    code = embeddings.bit_code(modality)
    if code is None:
        return Int8Rows(_mapped(embeddings, shards, blocks, (dim, np.dtype(np.int8)), "i8", cache_dir))
    return BitRows(_mapped(embeddings, shards, blocks, (-(-dim // 8), np.dtype(np.uint8)), "u8", cache_dir), code)


def unit_vectors(
    embeddings: Embeddings, modality: Modality, split: str | None, *, cache_dir: Path | None = None
) -> Vectors:
    """(n, d) float32 rows of length 1, memory-mapped, in the order of the shards, whatever the type of the shards.

    Raises:
        SetClipError: there are no such rows, or a shard cannot be read.
    """
    shards = embeddings.shards(modality, split)

    def blocks() -> Iterator[Vectors]:
        return (unit(values) for shard in shards for values in embeddings.blocks(shard))

    return _mapped(embeddings, shards, blocks, (embeddings.index.dim, np.dtype(np.float32)), "f32", cache_dir)


def _mapped(
    embeddings: Embeddings,
    shards: Sequence[EmbeddedShard],
    blocks: Callable[[], Iterator[np.ndarray[Any, Any]]],
    row: tuple[int, np.dtype[Any]],
    suffix: str,
    cache_dir: Path | None,
) -> np.ndarray[Any, Any]:
    """The rows of shards as a memory map.

    Parquet cannot be mapped as plain numbers, so the first call writes the rows to the cache, block by block, under the
    hashes of the shards; if the cache takes nothing, to memory.

    Args:
        row: Its numbers and their type.
    """
    named = [shard.sha256 for shard in shards]
    if suffix == "f32" and (code := embeddings.bit_code(shards[0].modality)):  # of the same bits it makes other rows
        named.append(f"{code.centre.tobytes().hex()} {code.spread}")
    path = cache_place(
        "vectors", f"{hashlib.sha256(''.join(named).encode()).hexdigest()}.{suffix}", cache_dir=cache_dir
    )
    rows, (width, dtype) = sum(shard.rows for shard in shards), row
    if rows == 0:
        return np.zeros((0, width), dtype)
    for shard in shards:
        embeddings.require_unchanged(shard)
    size = rows * width * dtype.itemsize
    if not _is_whole(path, size):
        with if_cache_takes_it(), sealed.writing(path, needs=size) as temporary, temporary.open("wb") as file:
            for block in blocks():
                file.write(np.ascontiguousarray(block, dtype=dtype).data)
    if _is_whole(path, size):
        return np.memmap(path, dtype=dtype, mode="r", shape=(rows, width))
    vectors, start = np.empty((rows, width), dtype), 0
    for block in blocks():
        vectors[start : start + len(block)] = block
        start += len(block)
    return vectors


def _is_whole(path: Path, size: int) -> bool:
    return sealed.is_whole(path) and path.stat().st_size == size
