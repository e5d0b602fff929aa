"""How rows become the numbers in a shard, and back.

    float32, float16   the values
    int8               one byte a value: round(127 x / max |x|) of each row
    ubinary            one bit a value: on which side of the centre of all rows the turned row is

The two small types keep the direction of a row and not its length: a cosine needs no more. Each row of int8 has its own
largest value, so that it depends on no other row. The bits need the centre of the rows, see `BitCode`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from scipy import fft

if TYPE_CHECKING:
    from setclip_cli.embedding.options import Dtype

Values: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Rows: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.float32]]

_TURNS = 3  # rounds of random signs and a cosine transform: after two, any row is spread over all values


@dataclass(frozen=True)
class BitCode:
    """What turns the rows of one modality into bits, and bits into rows.

    A unit row x is turned, y = T x, and bit i says whether y_i > (T c)_i. The turn spreads a row evenly over its
    values, so that each bit says as much as the others; without the centre c, rows that have a direction in common
    would have equal bits. The row that bits b stand for is unit(c + s T⁻¹ (2b - 1)).

    Attributes:
        centre: (d,) float32: mean c of unit rows.
        spread: s, the mean distance of a turned value from that of the centre.

    Sources: the turn, Ailon & Chazelle 2009 (SIAM J. Comput. 39, 302-322); bits of turned and centred rows, and their
        comparison with a query in full, Gao & Long 2024, arXiv:2405.12497.
    """

    centre: np.ndarray[Any, np.dtype[np.float32]]
    spread: float

    @classmethod
    def fit(cls, rows: Rows) -> BitCode:
        """Fits centre and spread to (n, d) unit rows of a sample, n > 0."""
        centre = rows.mean(0, dtype=np.float64).astype(np.float32)
        return cls(centre, float(np.float32(np.abs(turned(rows) - turned(centre)).mean())))

    def bits(self, rows: Values) -> Values:
        """(n, d) rows of any length -> (n, ⌈d / 8⌉) uint8, the first value in the highest bit."""
        return np.packbits(turned(unit(rows)) > turned(self.centre), axis=1)

    def turned_rows(self, bits: Values) -> Rows:
        """(n, ⌈d / 8⌉) bits -> (n, d) float32 unit rows, turned: their products with a turned query are cosines."""
        dim = len(self.centre)
        signs = np.unpackbits(bits, axis=1, count=dim).astype(np.float32)
        signs *= 2 * self.spread
        signs += (turned(self.centre) - self.spread).astype(np.float32)
        return unit(signs)


def encode(rows: Values, dtype: Dtype, code: BitCode | None = None) -> Values:
    """(n, d) rows as a shard holds them: (n, d), or (n, ⌈d / 8⌉) bytes of bits.

    Args:
        code: Of ``ubinary``, which needs it.
    """
    if dtype == "int8":
        largest = np.abs(rows).max(axis=1, keepdims=True, initial=np.float32(1e-30))
        scaled: Values = np.rint(rows / largest * np.float32(127)).astype(np.int8)
        return scaled
    if dtype == "ubinary":
        return _needed(code).bits(rows)
    return np.ascontiguousarray(rows, dtype=dtype)


def decode(stored: Values, dtype: Dtype, code: BitCode | None = None) -> Rows:
    """The (n, d) float32 rows that a shard's numbers stand for; unit rows for ``int8`` and ``ubinary``."""
    if dtype == "int8":
        return unit(stored)
    if dtype == "ubinary":
        rows: Rows = unturned(_needed(code).turned_rows(stored)).astype(np.float32)
        return rows
    return stored.astype(np.float32, copy=False)


def unit(rows: Values) -> Rows:
    """(n, d) rows at length 1 in float32, a row of zeros as it is."""
    rows = rows.astype(np.float32, copy=False)
    found: Rows = rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), np.float32(1e-30))
    return found


def turned(rows: Values) -> Values:
    """Rows (..., d) in other axes of the same space, float64. Each row is computed alone: no other row changes it."""
    found = rows.astype(np.float64)
    for signs in _signs(rows.shape[-1]):
        found = fft.dct(found * signs, axis=-1, norm="ortho")
    return found


def unturned(rows: Values) -> Values:
    """What `turned` undoes."""
    found = rows.astype(np.float64)
    for signs in reversed(_signs(rows.shape[-1])):
        found = fft.idct(found, axis=-1, norm="ortho") * signs
    return found


@lru_cache(maxsize=8)
def _signs(dim: int) -> tuple[Values, ...]:
    """Signs for each round. They come from a hash, since the numbers of a generator may change with its library."""
    digest = np.frombuffer(hashlib.shake_256(f"setclip ubinary {dim}".encode()).digest(_TURNS * dim), np.uint8)
    return tuple(np.where(digest.reshape(_TURNS, dim) & 1, 1.0, -1.0))


def _needed(code: BitCode | None) -> BitCode:
    if code is None:
        raise ValueError("ubinary needs the code of the rows")
    return code
