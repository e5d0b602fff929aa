"""Vectors in the columns of Arrow: one column of lists, or one column of numbers for each dimension."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from setclip_cli.errors import SetClipError, argument, nearest
from setclip_cli.ingest.sources.fields import id_of, label_of, split_of
from setclip_cli.ingest.sources.vectors.blocks import Block, Values, checked_dtype
from setclip_cli.ingest.sources.vectors.named import id_column_of, other_width

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

VECTOR_NAMES = ("vector", "vectors", "embedding", "embeddings", "emb", "features")
INDEX_NAME = "__index_level_0__"  # in which pandas keeps the index of a table
_OTHERS = ("group", "label", "split")
NULL = "null in place of a vector"
NULL_NUMBER = "null in its vector"


class Columns(NamedTuple):
    """Which columns of a table are read.

    Attributes:
        vectors: One column of lists, or the columns of all dimensions in their order.
        lists: Whether it is one column of lists.
        dtype: Type of the numbers.
        width: Numbers of a vector; None for lists of any length, of which the first row says it.
        ids: The column of the ids.
        others: group, label and split -> their column.
        left_out: The other columns.
    """

    vectors: list[str]
    lists: bool
    dtype: np.dtype[Any]
    width: int | None
    ids: str | None
    others: dict[str, str]
    left_out: list[str]

    def read(self) -> list[str]:
        return [*self.vectors, *([self.ids] if self.ids else []), *self.others.values()]

    def notes(self) -> list[str]:
        """What the summary says about the choice."""
        found = self.vectors
        named = repr(found[0]) if len(found) == 1 else f"{len(found):,} columns from {found[0]!r} to {found[-1]!r}"
        notes = [f"the vectors are in {named}" + (f", the ids in {self.ids!r}" if self.ids else "")]
        if self.left_out:
            notes.append(f"columns that are not read: {', '.join(map(repr, self.left_out[:8]))}")
        return notes


def choose_columns(
    path: Path, schema: pa.Schema, *, column: str | None, id_column: str | None, scale: float | None
) -> Columns:
    """Chooses the columns of a table.

    Args:
        column: The column of the vectors, or a pattern such as ``dim_*`` for one column a dimension.
        id_column: The column of the ids, if its name does not say so.

    Raises:
        SetClipError: there are no vectors, or several columns could be them.
    """
    names = list(schema.names)
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise SetClipError(f"{path}: has two columns {twice!r}", fix="give one of them another name")
    ids = id_column_of(path, names, id_column) or (
        INDEX_NAME if INDEX_NAME in names and _is_text(schema.field(INDEX_NAME).type) else None
    )
    by_lower_case = {name.lower(): name for name in reversed(names)}
    others = {name: by_lower_case[name] for name in _OTHERS if name in by_lower_case and by_lower_case[name] != ids}
    free = [name for name in names if name != ids and name not in others.values() and name != INDEX_NAME]
    types = {name: _bare(schema.field(name).type) for name in names}
    chosen = _chosen(path, names, column) if column is not None else _found(path, free, types)
    is_list = len(chosen) == 1 and _is_list(types[chosen[0]])
    wrong = [name for name in chosen if not (is_list or _is_number(types[name]))]
    if wrong:
        raise SetClipError(
            f"{path}: the column {wrong[0]!r} holds {types[wrong[0]]}, not a list of numbers or a number",
            fix=f"say which columns hold the vectors: {argument('vector_column')} NAME, or {argument('vector_column')} "
            "'PREFIX*' for one column a dimension",
        )
    of_numbers = [types[chosen[0]].value_type] if is_list else [types[name] for name in chosen]
    dtype = np.result_type(*{np.dtype(each.to_pandas_dtype()) for each in of_numbers})
    shown = f"the column {chosen[0]!r}"
    checked_dtype(path, dtype, scale=scale, what=shown)
    width = len(chosen) if not is_list else None
    if is_list and pa.types.is_fixed_size_list(types[chosen[0]]):
        width = types[chosen[0]].list_size
    left_out = [name for name in free if name not in chosen]
    return Columns(chosen, is_list, dtype, width, ids, others, left_out)


def _chosen(path: Path, names: list[str], column: str) -> list[str]:
    found = [name for name in names if name == column] or [name for name in names if fnmatchcase(name, column)]
    if not found:
        raise SetClipError(
            f"{path}: no column {column!r} among {', '.join(map(repr, names[:20]))}{nearest(column, names)}",
            fix=f"give the name of a column with {argument('vector_column')}, or a pattern such as 'dim_*'",
        )
    return found


def _found(path: Path, free: list[str], types: dict[str, pa.DataType]) -> list[str]:
    """The columns that hold the vectors, by their types and names."""
    lists = [name for name in free if _is_list(types[name]) and _is_number(types[name].value_type)]
    named = [name for name in lists if name.lower() in VECTOR_NAMES]
    if len(lists) == 1 or len(named) == 1:
        return lists if len(lists) == 1 else named
    if lists:
        raise SetClipError(
            f"{path}: {len(lists)} columns hold lists of numbers: {', '.join(map(repr, lists[:8]))}",
            fix=f"say which one holds the vectors: {argument('vector_column')} {lists[0]}",
        )
    numbers = [name for name in free if _is_number(types[name])]
    floats = [name for name in numbers if pa.types.is_floating(types[name])]
    if len(floats or numbers) < 2:
        raise SetClipError(
            f"{path}: no column holds lists of numbers, and there is no column for each dimension: its columns are "
            f"{', '.join(f'{name!r} ({types[name]})' for name in list(types)[:12]) or 'none'}",
            fix=f"write the vectors as a column of lists, or name them: {argument('vector_column')} NAME",
        )
    return floats or numbers


def _bare(kind: pa.DataType) -> pa.DataType:
    """The type below an extension type, such as that of tensors."""
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def width_of(batch: pa.RecordBatch, columns: Columns) -> int | None:
    """Numbers of the first vector of a batch that has some; None if none has."""
    if columns.width is not None:
        return columns.width
    lengths = _storage(batch[columns.vectors[0]]).value_lengths().to_numpy(zero_copy_only=False)
    lengths = lengths[np.nan_to_num(lengths.astype(np.float64)) > 0]
    return int(lengths[0]) if len(lengths) else None


def block_of(batch: pa.RecordBatch, columns: Columns, width: int) -> Block:
    """The rows of a batch; a vector of another width, or with a null, is one that could not be read."""
    unread: dict[int, str] = {}
    if columns.lists:
        values = _of_lists(_storage(batch[columns.vectors[0]]), width, unread)
    else:
        values = np.empty((batch.num_rows, width), columns.dtype)
        for place, name in enumerate(columns.vectors):
            column = _storage(batch[name])
            if column.null_count:
                unread.update(dict.fromkeys(np.flatnonzero(_nulls(column)).tolist(), NULL_NUMBER))
                column = column.fill_null(0)
            values[:, place] = column.to_numpy(zero_copy_only=False)
    ids: list[str | None] | None = None
    if columns.ids is not None:
        ids, problems = ids_of(batch[columns.ids].to_pylist())
        unread.update(problems)
    others = {name: batch[column].to_pylist() for name, column in columns.others.items()}
    return Block(
        values,
        ids,
        groups=[id_of(each)[0] for each in others["group"]] if "group" in others else None,
        labels=[label_of(each)[0] for each in others["label"]] if "label" in others else None,
        splits=[split_of(each) for each in others["split"]] if "split" in others else None,
        unread=unread,
    )


def ids_of(values: Sequence[Any]) -> tuple[list[str | None], dict[int, str]]:
    """Ids as text, and why a value cannot be one, by its place."""
    problems: dict[int, str] = {}
    ids: list[str | None] = []
    for place, value in enumerate(values):
        if value.__class__ is str:
            ids.append(value)
            continue
        if isinstance(value, float) and value == int(value):  # whole numbers of a column with gaps
            value = int(value)
        text, why = id_of(value)
        ids.append(text)
        if why is not None:
            problems[place] = why
    return ids, problems


def _storage(column: pa.Array) -> pa.Array:
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def _nulls(column: pa.Array) -> Values:
    nulls: Values = column.is_null().to_numpy(zero_copy_only=False)
    return nulls


def _of_lists(lists: pa.Array, width: int, unread: dict[int, str]) -> Values:
    """(n, width) numbers of a column of lists."""
    count = len(lists)
    if pa.types.is_fixed_size_list(lists.type):
        size = lists.type.list_size
        numbers = lists.values.slice(lists.offset * size, count * size)  # `flatten` would leave nulls out
        starts, lengths = np.arange(count) * size, np.full(count, size)
    else:
        offsets = lists.offsets.to_numpy()
        starts, lengths = offsets[:-1] - offsets[0], np.diff(offsets)
        numbers = lists.values.slice(offsets[0], offsets[-1] - offsets[0])
    if lists.null_count:
        unread.update(dict.fromkeys(np.flatnonzero(_nulls(lists)).tolist(), NULL))
    for row in np.flatnonzero(lengths != width).tolist():
        unread.setdefault(row, other_width(int(lengths[row]), width))
    if numbers.null_count:
        of_row = np.searchsorted(starts, np.flatnonzero(_nulls(numbers)), side="right") - 1
        for row in np.unique(of_row).tolist():
            unread.setdefault(row, NULL_NUMBER)
        numbers = numbers.fill_null(0)
    flat: Values = numbers.to_numpy(zero_copy_only=False)
    if (lengths == width).all():
        return flat.reshape(count, width)
    values = np.zeros((count, width), flat.dtype)
    for row in np.flatnonzero(lengths == width).tolist():
        values[row] = flat[starts[row] : starts[row] + width]
    return values
