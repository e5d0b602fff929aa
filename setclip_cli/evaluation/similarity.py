"""Similarities of two sets in blocks of rows, with equal rows scoring equal to the last bit."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    Embeddings = npt.NDArray[np.float32]
    Ints = npt.NDArray[np.int64]

BLOCK_VALUES = 2**24  # 64 MiB of float32 scores at a time


def distinct_rows(rows: Embeddings) -> tuple[Ints, Ints]:
    """Finds equal rows.

    Returns:
        (first, inverse): ``rows[first]`` are the distinct rows in order of appearance; taking them at ``inverse`` gives
        ``rows`` back.
    """
    places: dict[bytes, int] = {}
    first: list[int] = []
    inverse = np.empty(len(rows), np.int64)
    for number, row in enumerate(np.ascontiguousarray(rows)):
        key = hashlib.blake2b(row.data, digest_size=16).digest()
        place = places.setdefault(key, len(places))
        if place == len(first):
            first.append(number)
        inverse[number] = place
    return np.array(first, np.int64), inverse


def blocks(queries: Embeddings, gallery: Embeddings) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """Yields (first query row, scores (b, n)) for successive blocks of queries; scores are dot products.

    A matrix product may round the same dot product differently in different columns, which would break ties between
    equal captions by their place in the file. So it is taken over distinct gallery rows and spread out afterwards.
    """
    first, inverse = distinct_rows(gallery)
    repeated = len(first) < len(gallery)
    columns = np.ascontiguousarray(gallery[first] if repeated else gallery).T
    step = max(1, BLOCK_VALUES // max(len(gallery), 1))
    for start in range(0, len(queries), step):
        scores = queries[start : start + step] @ columns
        yield start, scores[:, inverse] if repeated else scores
