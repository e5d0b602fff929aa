"""Rows of a source of vectors, in blocks: what `Record` and `Reject` are for other sources."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from setclip_cli.ingest.sources.base import Record, Reject

if TYPE_CHECKING:
    from collections.abc import Sequence

    from setclip_cli.ingest.sources.vectors.blocks import Values

DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class Rows:
    """Consecutive rows of a source of vectors: each is a record, or has a reason why it is none.

    Attributes:
        modality: Name of the modality.
        values: (n, d) float32 or float16, as a shard holds them.
        ids: n ids.
        digests: 32 bytes of sha256 a row, of the bytes in ``values``.
        labels, splits, groups: n values each, or None if no row has one.
        reasons: Place of a row -> why it is no record.
        places: Where each row is in the source; of a reject.
        made_up: Whether the program made the ids up.
    """

    modality: str
    values: Values
    ids: Sequence[str]
    digests: bytes
    labels: Sequence[str | None] | None
    splits: Sequence[str | None] | None
    groups: Sequence[str | None] | None
    reasons: dict[int, str]
    places: Sequence[str]
    made_up: bool

    def __len__(self) -> int:
        return len(self.ids)

    def cut(self, start: int, end: int) -> Rows:
        """The rows from ``start`` up to ``end``."""
        return replace(
            self,
            values=self.values[start:end],
            ids=self.ids[start:end],
            digests=self.digests[start * DIGEST_BYTES : end * DIGEST_BYTES],
            labels=None if self.labels is None else self.labels[start:end],
            splits=None if self.splits is None else self.splits[start:end],
            groups=None if self.groups is None else self.groups[start:end],
            reasons={row - start: why for row, why in self.reasons.items() if start <= row < end},
            places=self.places[start:end],
        )

    def one(self, row: int) -> Record | Reject:
        """One row as other sources give it."""
        if (reason := self.reasons.get(row)) is not None:
            return Reject(self.places[row], reason)
        return self.without_vector(row)._replace(
            payload=self.values[row].view(np.uint8).data,
            sha256=self.digests[row * DIGEST_BYTES : (row + 1) * DIGEST_BYTES].hex(),
        )

    def without_vector(self, row: int) -> Record:
        """What is known of a row beside its vector: enough to find its label or its split."""
        group = None if self.groups is None else self.groups[row]
        return Record(
            self.modality,
            self.ids[row],
            memoryview(b""),
            "",
            label=None if self.labels is None else self.labels[row],
            split=None if self.splits is None else self.splits[row],
            group=group,
            columns=(group,),
            made_up=self.made_up,
        )


def row_digests(values: Values) -> bytes:
    """The sha256 of the bytes of each row, one after the other."""
    if not len(values):
        return b""
    data, size = values.reshape(-1).view(np.uint8).data, values.shape[1] * values.itemsize
    sha256 = hashlib.sha256
    return b"".join([sha256(data[start : start + size]).digest() for start in range(0, len(data), size)])
