"""Similarities of two sets in blocks of rows. Equal gallery rows score equal to the last bit."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from setclip_cli.evaluation.arrays import Embeddings, Ints


BLOCK_VALUES = 2**24  # scores in memory at a time: 64 MiB of float32


def unit_rows(rows: npt.NDArray[np.floating]) -> Embeddings:
    """Rows scaled to length 1; a row of zeros stays zero."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Embeddings = (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return scaled


def distinct_rows(rows: Embeddings) -> tuple[Ints, Ints]:
    """Finds equal rows.

    Returns:
        (first, inverse): ``rows[first]`` are the distinct rows in order of appearance; ``rows[first][inverse]`` equals
        ``rows``.
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


def similarity_blocks(queries: Embeddings, gallery: Embeddings) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """Yields (first query row, scores (b, n)) for successive blocks of queries; scores are dot products.

    A matrix product may round the same dot product differently in different columns. Then the place in the file would
    decide between equal captions. So the product is taken over distinct gallery rows, and its columns are copied.
    """
    first, inverse = distinct_rows(gallery)
    repeated = len(first) < len(gallery)
    columns = np.ascontiguousarray(gallery[first] if repeated else gallery).T
    step = max(1, BLOCK_VALUES // max(len(gallery), 1))
    for start in range(0, len(queries), step):
        scores = queries[start : start + step] @ columns
        yield start, scores[:, inverse] if repeated else scores
