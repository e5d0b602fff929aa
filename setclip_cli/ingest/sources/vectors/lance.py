"""Vectors in a Lance data set, which is a folder."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from setclip_cli.errors import SetClipError, first_line
from setclip_cli.ingest.sources.vectors.blocks import Block, VectorFile, missing_package
from setclip_cli.ingest.sources.vectors.columns import block_of, choose_columns, width_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BUFFER_BYTES = 32 << 20  # of what is read ahead; the library's own limit is 2 GiB


class LanceVectors(VectorFile):
    """The newest version of one Lance data set."""

    def __init__(
        self, path: Path, *, column: str | None = None, id_column: str | None = None, scale: float | None = None
    ) -> None:
        with _opened(path) as dataset:
            rows = dataset.count_rows()
            self._columns = choose_columns(path, dataset.schema, column=column, id_column=id_column, scale=scale)
            width = self._columns.width
            if width is None and rows:
                first = dataset.scanner(columns=self._columns.vectors, batch_size=64, io_buffer_size=_BUFFER_BYTES)
                width = next((found for each in first.to_batches() if (found := width_of(each, self._columns))), 0)
        if not rows:
            raise SetClipError(f"{path}: has no rows", fix="check that this is the data set you meant")
        super().__init__(
            path, width=width or 0, dtype=self._columns.dtype, rows=rows, has_ids=self._columns.ids is not None
        )
        self.notes += self._columns.notes()

    def blocks(self, start: int = 0) -> Iterator[Block]:
        rows = start
        with _opened(self.path) as dataset:
            scanner = dataset.scanner(
                columns=self._columns.read(),
                offset=start,
                batch_size=self.block_rows,
                batch_readahead=1,
                fragment_readahead=1,
                io_buffer_size=_BUFFER_BYTES,
                scan_in_order=True,
            )
            for batch in scanner.to_batches():
                rows += batch.num_rows
                yield block_of(batch, self._columns, self.width)
        if rows != self.rows:
            raise SetClipError(
                f"{self.path}: says {self.rows:,} rows, and has {rows:,}", fix="write the data set again"
            )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import lance
    except ImportError as error:
        raise missing_package(path, "pylance", "lance", "a Lance data set") from error
    try:
        yield lance.dataset(str(path))
    except (OSError, ValueError, RuntimeError) as error:
        raise SetClipError(
            f"{path}: is not a Lance data set that can be read ({first_line(error)})", fix="copy or write it again"
        ) from error
