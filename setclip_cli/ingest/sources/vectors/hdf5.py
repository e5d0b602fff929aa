"""Vectors in HDF5: a data set for each id, as UniProt and bio_embeddings write them, or one matrix with its ids.

What leads out of the file is not followed: external links, external storage, virtual data sets.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from setclip_cli.errors import SetClipError, argument, first_line, nearest
from setclip_cli.files.recognize import head_of, recognize
from setclip_cli.ingest.sources.vectors.blocks import (
    BLOCK_BYTES,
    Block,
    Values,
    VectorFile,
    checked_dtype,
    checked_shape,
    missing_package,
)
from setclip_cli.ingest.sources.vectors.named import NamedArrays, id_column_of, why_no_vector

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ORIGINAL_ID = "original_id"  # the attribute in which bio_embeddings keeps the id
_MAX_CHUNK_BYTES = 256 << 20
_MAX_MATRIX_SETS = 16  # a file with more data sets has one for each id
_LEAST_CACHE_BYTES, _MOST_CACHE_BYTES = 8 << 20, 128 << 20  # the second is the library's own limit
_LOOKED_AT = 64  # data sets of a file with one for each id that are looked at before it is read
_DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError)


def open_hdf5(
    path: Path,
    *,
    column: str | None = None,
    id_column: str | None = None,
    scale: float | None = None,
    average: bool = False,
) -> VectorFile:
    """Chooses how an HDF5 file is read.

    Args:
        column: The data set with the vectors, or the group with a data set for each id.
        id_column: The data set with the ids of a matrix.
    """
    with _opened(path) as file:
        place = file if column is None else _named(path, file, column)
        if isinstance(place, _h5py(path).Dataset):
            where = place.parent
            return Hdf5Matrix(path, where, place.name, id_column=id_column, scale=scale)
        names = list(place)
        kinds = {name: _what_is(place, name) for name in names[: _MAX_MATRIX_SETS + 1]}
        if not names:
            raise SetClipError(
                f"{path}: {_shown(place)} holds no data sets", fix="check that this is the file you meant"
            )
        if all(kind == "group" for kind in kinds.values()):
            raise _groups(path, place, names)
        if len(names) <= _MAX_MATRIX_SETS:
            matrix = _matrix_among(path, place, [name for name in names if kinds[name] == "data set"], id_column)
            if matrix is not None:
                return Hdf5Matrix(path, place, matrix, id_column=id_column, scale=scale)
        return Hdf5Names(path, place, names, scale=scale, average=average)


def _matrix_among(path: Path, place: Any, names: list[str], id_column: str | None) -> str | None:
    """The name of the only matrix of several rows, if nothing else in the file can be the vectors."""
    ids = id_column_of(path, names, id_column)
    sets = {name: place[name] for name in names if name != ids}
    matrices = [name for name, each in sets.items() if each.ndim == 2 and each.dtype.kind in "fiu"]
    if ids is not None and len(matrices) == 1:
        return matrices[0]
    if len(sets) == 1 and sum(each.ndim == 2 and each.shape[0] > 1 for each in sets.values()) == 1:
        return next(iter(sets))
    lengths = {each.shape[:1] for each in sets.values()}
    if len(matrices) == 1 and len(sets) > 1 and len(lengths) == 1 and all(each.ndim for each in sets.values()):
        return matrices[0]
    return None


class Hdf5Matrix(VectorFile):
    """One data set (rows, width), and perhaps another one beside it with the ids."""

    def __init__(self, path: Path, place: Any, name: str, *, id_column: str | None, scale: float | None) -> None:
        dataset = place[name]
        self._name, shown = dataset.name, f"the data set {dataset.name!r}"
        _refuse_outside(path, dataset)
        rows, width = checked_shape(path, dataset.shape, what=shown)
        dtype = checked_dtype(path, dataset.dtype, scale=scale, what=shown)
        beside = [each for each in place if each != name and _what_is(place, each) == "data set"]
        ids = id_column_of(path, beside, id_column)
        super().__init__(path, width=width, dtype=dtype, rows=rows, has_ids=ids is not None)
        self._ids = None
        if ids is not None:
            self._ids, shape = place[ids].name, place[ids].shape
            if shape != (rows,):
                raise SetClipError(
                    f"{path}: {rows:,} vectors in {self._name!r}, but the ids in {self._ids!r} have the shape {shape}",
                    fix="write one id for each vector",
                )
            _refuse_outside(path, place[ids])
        _refuse_missing(path, dataset)
        self._step = self.block_rows
        if dataset.chunks is not None:
            high = dataset.chunks[0]
            if high * width * dtype.itemsize > _MAX_CHUNK_BYTES:
                raise SetClipError(
                    f"{path}: {shown} is in pieces of {high * width * dtype.itemsize:,} bytes, over the limit of "
                    f"{_MAX_CHUNK_BYTES:,}",
                    fix="write it again in smaller pieces: create_dataset(name, data=array, chunks=(1024, width))",
                )
            self._step = max(1, self._step // high) * high  # no piece is decompressed twice
        if len(beside):
            self.notes.append(f"the vectors are in {self._name!r}" + (f", the ids in {self._ids!r}" if ids else ""))

    def blocks(self, start: int = 0) -> Iterator[Block]:
        with _opened(self.path) as file:
            dataset, ids = file[self._name], file[self._ids] if self._ids is not None else None
            first = start
            while first < (self.rows or 0):
                end = min((first // self._step + 1) * self._step, self.rows or 0)
                yield Block(dataset[first:end], None if ids is None else _texts(ids, first, end))
                first = end


class Hdf5Names(NamedArrays):
    """A data set for each id: (width), (1, width), or (length, width) if the mean of these is asked for."""

    def __init__(self, path: Path, place: Any, names: list[str], *, scale: float | None, average: bool) -> None:
        self._place = place.name
        first = next((place[name] for name in names if _what_is(place, name) == "data set"), None)
        if first is None:
            raise SetClipError(
                f"{path}: {_shown(place)} holds no data sets, only links or types",
                fix="write the vectors into this file; links to other files are not followed",
            )
        shown = f"the data set {first.name!r}"
        dtype = checked_dtype(path, first.dtype, scale=scale, what=shown)
        self._has_original_ids = _ORIGINAL_ID in first.attrs
        long = next(
            (each for name in names[:_LOOKED_AT] if (each := _set(place, name)) and each.ndim == 2 and len(each) > 1),
            None,
        )
        if long is not None and not average:
            raise SetClipError(
                f"{path}: the data set {long.name!r} has the shape {long.shape}: several vectors, such as one for each "
                "residue",
                fix=f"{argument('average')} takes the mean of them; if its rows are the vectors of different things, "
                f"{argument('vector_column')} {long.name.lstrip('/')}; or get the file with one vector for each id",
            )
        if first.ndim not in (1, 2):
            checked_shape(path, first.shape, what=shown)
        super().__init__(path, len(names), width=first.shape[-1], dtype=dtype, average=average, scale=scale)
        if self._has_original_ids:
            self.notes.append(f"ids from the attribute {_ORIGINAL_ID!r}")

    def blocks(self, start: int = 0) -> Iterator[Block]:
        with _opened(self.path) as file:
            self._group = file[self._place]
            self._h5 = _h5py(self.path)
            yield from super().blocks(start)

    def names(self) -> list[str]:
        names = list(self._group)
        _fit_cache(self._group.file.id, sum(map(len, names)) + 24 * len(names))
        return names

    def vectors(self, names: list[str]) -> Iterator[Values | str]:
        h5, place = self._h5, self._group.id
        whole, numbers = h5.h5s.ALL, (h5.h5t.FLOAT, h5.h5t.INTEGER)
        hard, a_set = h5.h5l.TYPE_HARD, h5.h5o.TYPE_DATASET
        self._ids: list[str] = []
        for name in names:
            key = name.encode("utf-8", "surrogateescape")
            self._ids.append(name)
            try:
                if place.links.get_info(key).type != hard:
                    yield "link, not a data set: links are not followed"
                    continue
                if h5.h5o.get_info(place, key).type != a_set:
                    yield "group, not a data set"
                    continue
                found = h5.h5d.open(place, key)
                if found.get_type().get_class() not in numbers:
                    yield f"data set without numbers: its type is {found.dtype}"
                    continue
                if _outside(found):
                    yield "data set whose content is in another file"
                    continue
                if self._has_original_ids and h5.h5a.exists(found, _ORIGINAL_ID.encode()):
                    self._ids[-1] = _text(h5.Dataset(found).attrs[_ORIGINAL_ID])
                shape = found.shape
                if why := why_no_vector(shape, self.width, average=self.average):
                    yield why
                elif len(shape) == 2 and shape[0] > 1:
                    dataset = h5.Dataset(found)
                    why = _not_written(dataset)
                    yield f"array that was not written to its end: {why}" if why else _mean(dataset)
                else:
                    array = np.empty(self.width, self.read_dtype)
                    found.read(whole, whole, array.reshape(shape))
                    yield array
            except _DAMAGE as error:
                yield f"cannot be read: {first_line(error)}"

    def ids_of(self, names: list[str]) -> list[str]:
        return self._ids


def _fit_cache(file: Any, names_bytes: int) -> None:
    """Makes the library's cache as large as the names of all data sets need, and not much larger.

    Its own limit costs 140 MB of memory for 200,000 data sets. A cache that cannot hold the names makes it read all of
    them again for each data set, which takes 2 ms.
    """
    size = min(max(_LEAST_CACHE_BYTES, names_bytes * 3 // 2), _MOST_CACHE_BYTES)
    config = file.get_mdc_config()
    config.set_initial_size = True
    config.initial_size = config.min_size = config.max_size = size
    file.set_mdc_config(config)


def _mean(dataset: Any) -> Values:
    """The mean of the rows of (L, d), in float64, block by block."""
    rows, width = dataset.shape
    total = np.zeros(width, np.float64)
    step = max(1, BLOCK_BYTES // (width * 8))
    for first in range(0, rows, step):
        total += dataset[first : first + step].sum(axis=0, dtype=np.float64)
    mean: Values = total / rows
    return mean


def _h5py(path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise missing_package(path, "h5py", "hdf5", "an HDF5 file") from error
    return h5py


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    h5py = _h5py(path)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except _DAMAGE as error:
        found = recognize(head_of(path)) if path.is_file() else None
        if found is not None and found.what != "an HDF5 file":
            raise SetClipError(f"{path}: is {found.what}, not an HDF5 file", fix=found.fix) from error
        raise SetClipError(
            f"{path}: is cut short or damaged, or no HDF5 file ({first_line(error)})",
            fix="download or copy it again; if another program still writes to it, close that first",
        ) from error


def _named(path: Path, file: Any, name: str) -> Any:
    h5py = _h5py(path)
    at, parts = file, [part for part in name.split("/") if part]
    for part in parts:
        names = list(at) if isinstance(at, h5py.Group) else []
        if part not in names or _what_is(at, part) == "link":
            raise SetClipError(
                f"{path}: has no {name!r}; {_shown(at)} holds {', '.join(map(repr, names[:8])) or 'nothing'}"
                f"{nearest(part, names)}",
                fix=f"give the path of the data set, or of the group of data sets, with {argument('vector_column')}",
            )
        at = at[part]
    return at


def _what_is(place: Any, name: str) -> str:
    """'group', 'data set', or 'link' for what may lead out of the file."""
    import h5py

    key = name.encode("utf-8", "surrogateescape")
    if place.id.links.get_info(key).type != h5py.h5l.TYPE_HARD:
        return "link"
    kind = h5py.h5o.get_info(place.id, key).type
    return {h5py.h5o.TYPE_GROUP: "group", h5py.h5o.TYPE_DATASET: "data set"}.get(kind, "named type")


def _set(place: Any, name: str) -> Any:
    return place[name] if _what_is(place, name) == "data set" else None


def _groups(path: Path, place: Any, names: list[str]) -> SetClipError:
    inside = list(place[names[0]])
    holds = f"{_what_is(place[names[0]], inside[0])}s" if inside else "nothing"
    return SetClipError(
        f"{path}: {_shown(place)} holds groups ({', '.join(map(repr, names[:6]))}), not data sets; {names[0]!r} holds "
        f"{holds}",
        fix=f"name the group that holds a data set for each id, or one matrix: {argument('vector_column')} "
        f"{place.name.strip('/') + '/' if place.name != '/' else ''}{names[0]}",
    )


def _shown(place: Any) -> str:
    return "it" if place.name == "/" else f"the group {place.name!r}"


def _outside(dataset_id: Any) -> bool:
    """Whether the content of a data set is, or may be, in another file."""
    import h5py

    plan = dataset_id.get_create_plist()
    return bool(plan.get_layout() == h5py.h5d.VIRTUAL or plan.get_external_count())


def _refuse_outside(path: Path, dataset: Any) -> None:
    if _outside(dataset.id):
        raise SetClipError(
            f"{path}: the content of the data set {dataset.name!r} is in other files, which are not followed",
            fix="write the vectors into one file",
        )


def _not_written(dataset: Any) -> str | None:
    """What of a data set was never written, for which the library would give zeros; None if it is whole."""
    if dataset.chunks is None:
        needed = int(np.prod(dataset.shape, dtype=object)) * dataset.dtype.itemsize
        there = dataset.id.get_storage_size()
        return f"needs {needed:,} bytes, but {there:,} were written" if there < needed else None
    pairs = zip(dataset.shape, dataset.chunks, strict=True)
    needed = int(np.prod([-(-size // chunk) for size, chunk in pairs], dtype=object))
    there = dataset.id.get_num_chunks()
    return f"has {needed:,} pieces, but {there:,} were written" if there < needed else None


def _refuse_missing(path: Path, dataset: Any) -> None:
    if (told := _not_written(dataset)) is not None:
        raise SetClipError(
            f"{path}: the data set {dataset.name!r} of {dataset.shape[0]:,} x {dataset.shape[1]:,} {told}",
            fix="write it to its end; if it is larger than its content, resize it first",
        )


def _texts(ids: Any, first: int, end: int) -> list[str]:
    values = ids[first:end]
    return [_text(each) for each in values.tolist()]


def _text(value: Any) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
