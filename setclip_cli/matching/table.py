"""The table of matches: matches.parquet with the ids as they are, and matches.csv for a spreadsheet."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from setclip_cli.files import atomic

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from setclip_cli.dataset.modality import Modality

PARQUET_NAME, CSV_NAME = "matches.parquet", "matches.csv"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a spreadsheet would compute
_DIGITS = 6


@dataclass(frozen=True)
class Block:
    """Some answers: one line each.

    Attributes:
        query: The modality of the rows that were asked.
        left, right: Ids.
        rank: From 1, the nearest row.
        probability: That the answer is right; NaN if unknown.
        another: That another row of the pool is right.
        no_partner: That no row of the pool is right.
        in_set: 1 if the answer is in the conformal set of its query, 0 if not, -1 if unknown.
        set_size: Rows in that set; -1 if unknown.
        known: Whether it is a known pair of the DATASET.
    """

    query: Modality
    left: list[str]
    right: list[str]
    rank: npt.NDArray[np.int64]
    cosine: npt.NDArray[np.float64]
    probability: npt.NDArray[np.float64]
    another: npt.NDArray[np.float64]
    no_partner: npt.NDArray[np.float64]
    in_set: npt.NDArray[np.int64]
    set_size: npt.NDArray[np.int64]
    known: npt.NDArray[np.bool_]

    def table(self, names: tuple[Modality, Modality]) -> pa.Table:
        """The columns as they are written; what is unknown is null."""
        numbers = {
            name: pa.array(np.round(getattr(self, name), _DIGITS), pa.float64(), from_pandas=True)
            for name in ("cosine", "probability", "another", "no_partner")
        }
        unknown = self.set_size < 0
        return pa.table(
            {
                names[0]: pa.array(self.left, pa.string()),
                names[1]: pa.array(self.right, pa.string()),
                "query": pa.array([self.query] * len(self.left), pa.string()),
                "rank": pa.array(self.rank, pa.int64()),
                **numbers,
                "in_set": pa.array(self.in_set == 1, pa.bool_(), mask=self.in_set < 0),
                "set_size": pa.array(self.set_size, pa.int64(), mask=unknown),
                "known": pa.array(self.known, pa.bool_()),
            }
        )


def write_parquet(path: Path, blocks: Iterable[Block], names: tuple[Modality, Modality]) -> None:
    """Writes the blocks, one after another, as one file.

    Raises:
        WriteError: it cannot be written.
    """
    with atomic.atomic_path(path) as temporary:
        writer: pq.ParquetWriter | None = None
        try:
            for block in blocks:
                table = block.table(names)
                writer = writer or pq.ParquetWriter(temporary, table.schema, compression="zstd")
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()


def write_csv(path: Path, parquet: Path) -> int:
    """Writes the rows of a Parquet file as CSV, and returns how many cells were changed.

    A spreadsheet computes a cell that begins like a formula, so such an id gets a ' before it.

    Raises:
        WriteError: it cannot be written.
    """
    changed = 0
    with atomic.atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        source = pq.ParquetFile(parquet)
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([_safe(name) for name in source.schema_arrow.names])
        for batch in source.iter_batches():
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                cells = [_cell(value) for value in row]
                safe = [_safe(cell) if isinstance(value, str) else cell for cell, value in zip(cells, row, strict=True)]
                changed += sum(one != other for one, other in zip(cells, safe, strict=True))
                writer.writerow(safe)
    return changed


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else format(value, f".{_DIGITS}f") if isinstance(value, float) else str(value)


def _safe(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text
