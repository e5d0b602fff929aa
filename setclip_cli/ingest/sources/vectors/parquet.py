"""Vectors in Parquet, read in batches: a row group may be larger than the memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from setclip_cli.errors import SetClipError, first_line
from setclip_cli.files.recognize import head_of, recognize
from setclip_cli.ingest.sources.vectors.blocks import Block, VectorFile, rows_of_block
from setclip_cli.ingest.sources.vectors.columns import Columns, block_of, choose_columns, width_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BUFFER_BYTES = 1 << 20
_FIRST_ROWS = 64
_DAMAGE = (pa.ArrowException, OSError, ValueError, UnicodeDecodeError)


class ParquetVectors(VectorFile):
    """One Parquet file."""

    def __init__(
        self, path: Path, *, column: str | None = None, id_column: str | None = None, scale: float | None = None
    ) -> None:
        try:
            with _opened(path) as file:
                rows = file.metadata.num_rows
                self._columns = choose_columns(path, file.schema_arrow, column=column, id_column=id_column, scale=scale)
                width = _first_width(path, file, self._columns) if rows else 0
        except _DAMAGE as error:
            raise _not_parquet(path, error) from error
        if not rows:
            raise SetClipError(f"{path}: has no rows", fix="check that this is the file you meant")
        super().__init__(path, width=width, dtype=self._columns.dtype, rows=rows, has_ids=self._columns.ids is not None)
        self.notes += self._columns.notes()

    def blocks(self, start: int = 0) -> Iterator[Block]:
        row = 0
        try:
            with _opened(self.path) as file:
                groups = list(range(file.metadata.num_row_groups))
                while groups and row + (size := file.metadata.row_group(groups[0]).num_rows) <= start:
                    row += size
                    del groups[0]
                for batch in file.iter_batches(
                    self.block_rows, row_groups=groups, columns=self._columns.read(), use_threads=False
                ):
                    end = row + batch.num_rows
                    if end > start:
                        yield block_of(batch.slice(max(start - row, 0)), self._columns, self.width)
                    row = end
        except _DAMAGE as error:
            raise _not_parquet(self.path, error) from error
        if row != self.rows:
            raise _not_parquet(self.path, ValueError(f"it says {self.rows:,} rows, and has {row:,}"))


def _opened(path: Path) -> pq.ParquetFile:
    # With a buffer, the pages of a column are read one by one, and not the column of a whole row group.
    return pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False)


def _first_width(path: Path, file: pq.ParquetFile, columns: Columns) -> int:
    if columns.width is not None:
        return columns.width
    for batch in file.iter_batches(rows_of_block(1 << 16), columns=columns.vectors, use_threads=False):
        if (width := width_of(batch, columns)) is not None:
            return width
    raise SetClipError(
        f"{path}: the column {columns.vectors[0]!r} has no vectors: its lists are null or empty",
        fix="check that this is the column you meant, and write it again",
    )


def _not_parquet(path: Path, error: Exception) -> SetClipError:
    found = recognize(head_of(path)) if path.is_file() else None
    if found is not None and found.what != "a Parquet file":
        return SetClipError(f"{path}: is not a Parquet file: it is {found.what}", fix=found.fix)
    return SetClipError(
        f"{path}: is not a Parquet file that can be read ({first_line(error)})", fix="download or copy the file again"
    )
