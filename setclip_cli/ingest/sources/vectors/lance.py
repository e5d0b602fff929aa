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

_FIRST_ROWS = 64  # one of which says the width of lists


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
                first = dataset.head(_FIRST_ROWS, columns=self._columns.vectors).combine_chunks().to_batches()
                width = next((found for each in first if (found := width_of(each, self._columns))), 0)
        if not rows:
            raise SetClipError(f"{path}: has no rows", fix="check that this is the data set you meant")
        super().__init__(
            path, width=width or 0, dtype=self._columns.dtype, rows=rows, has_ids=self._columns.ids is not None
        )
        self.notes += self._columns.notes()

    def blocks(self, start: int = 0) -> Iterator[Block]:
        rows = self.rows or 0
        with _opened(self.path) as dataset:
            for first in range(start, rows, self.block_rows):
                # A scan would read far ahead: over a gigabyte, whatever its options say.
                places = list(range(first, min(first + self.block_rows, rows)))
                for batch in dataset.take(places, columns=self._columns.read()).combine_chunks().to_batches():
                    yield block_of(batch, self._columns, self.width)


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
