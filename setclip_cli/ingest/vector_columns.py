"""The columns of the next shard of vectors. The vectors are copied once, to where the shard is written from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from setclip_cli.ingest.dedup import ID_IN_SOURCE
from setclip_cli.ingest.sources.vectors.rows import DIGEST_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from setclip_cli.ingest.dedup import Kept
    from setclip_cli.ingest.sources.vectors.blocks import Values
    from setclip_cli.ingest.vector_rows import KeptRows


class VectorColumns:
    """Rows of one modality and split.

    Args:
        schema: Of the shards, without optional columns.
        most: A shard holds at most this many rows. Memory is used for those that there are.
        spare: Memory for the vectors of a shard, which no shard uses.
    """

    def __init__(self, schema: pa.Schema, most: int, spare: list[Values]) -> None:
        self._schema, self._spare, kind = schema, spare, schema.field("vector").type
        # Memory that a written shard has used is used again: fresh memory must be filled with zeros by the system.
        self._values = spare.pop() if spare else np.empty((most, kind.list_size), kind.value_type.to_pandas_dtype())
        self._digests = bytearray()
        self.ids: list[str] = []
        self._labels: list[str | None] = []
        self._groups: list[str | None] = []
        self._ids_in_source: list[str | None] = []

    def __len__(self) -> int:
        return len(self.ids)

    def release(self) -> None:
        """Gives the memory back. The table must not be used after that."""
        self._spare.append(self._values)

    def add(self, kept: Kept) -> None:
        """Adds one row."""
        record, place = kept.record, len(self)
        assert isinstance(record.payload, memoryview)
        self._values[place] = np.frombuffer(record.payload, self._values.dtype)
        self._digests += bytes.fromhex(record.sha256)
        in_source = (record.extra or {}).get(ID_IN_SOURCE)
        self._add([record.id], [record.label], [record.group], [str(in_source) if in_source is not None else None])

    def add_rows(self, kept: KeptRows, places: Sequence[int] | None) -> None:
        """Adds rows, those at the places or all of them."""
        rows, ids, digests = kept.rows, kept.ids, kept.rows.digests
        values: Values = rows.values
        labels, groups = rows.labels or [None] * len(rows), rows.groups or [None] * len(rows)
        short: Sequence[str] = rows.ids
        if places is not None:
            values = values[places]
            digests = b"".join(digests[place * DIGEST_BYTES : (place + 1) * DIGEST_BYTES] for place in places)
            ids, short = [ids[place] for place in places], [short[place] for place in places]
            labels, groups = [labels[place] for place in places], [groups[place] for place in places]
        self._values[len(self) : len(self) + len(values)] = values
        self._digests += digests
        changed = [old if old != new else None for old, new in zip(short, ids, strict=True)]
        self._add(ids, labels, groups, changed)

    def _add(
        self,
        ids: Sequence[str],
        labels: Sequence[str | None],
        groups: Sequence[str | None],
        in_source: Sequence[str | None],
    ) -> None:
        self.ids += ids
        self._labels += labels
        self._groups += groups
        self._ids_in_source += in_source

    def table(self, split: str, source: str) -> pa.Table:
        """The rows as a table."""
        schema, count = self._schema, len(self)
        kind = schema.field("vector").type
        buffers = [None, pa.py_buffer(self._values[:count])]
        numbers = pa.Array.from_buffers(kind.value_type, count * kind.list_size, buffers)  # `pa.array` imports pandas
        columns: dict[str, pa.Array] = {
            "id": pa.array(self.ids, pa.string()),
            "split": pa.repeat(pa.scalar(split), count),
            "source": pa.repeat(pa.scalar(source), count),
            "sha256": _hexadecimal(bytes(self._digests)),
            "label": pa.array(self._labels, pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(numbers, type=kind),
            "group": pa.array(self._groups, pa.string()),
        }
        if any(self._ids_in_source):
            schema = schema.append(pa.field(ID_IN_SOURCE, pa.string()))
            columns[ID_IN_SOURCE] = pa.array(self._ids_in_source, pa.string())
        return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def _hexadecimal(digests: bytes) -> pa.Array:
    """The digests as text, made in one step."""
    count = len(digests) // DIGEST_BYTES
    offsets = np.arange(count + 1, dtype=np.int32) * (2 * DIGEST_BYTES)
    text = pa.py_buffer(digests.hex().encode())
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), text)
