"""Vectors in .npz: one array (rows, width), or an array for each id. Members are read as streams."""

from __future__ import annotations

import zipfile
import zlib
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from setclip_cli.errors import SetClipError, argument, first_line, nearest
from setclip_cli.files.recognize import head_of, recognize
from setclip_cli.ingest.sources.members import MAX_EXPANSION
from setclip_cli.ingest.sources.streams import read_up_to
from setclip_cli.ingest.sources.vectors.blocks import Block, VectorFile, checked_dtype, checked_shape, cut_short
from setclip_cli.ingest.sources.vectors.named import NamedArrays, id_column_of, vector_of
from setclip_cli.ingest.sources.vectors.npy import Header, read_header

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FREE_BYTES = 64 << 20  # the limit of growth does not hold for a member this small
_DAMAGE = (zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError, zlib.error)


def open_npz(
    path: Path,
    *,
    column: str | None = None,
    id_column: str | None = None,
    scale: float | None = None,
    average: bool = False,
) -> VectorFile:
    """Chooses the array of vectors of an .npz: the named one, or the only one with two axes; or one array an id."""
    headers = _headers(path)
    ids = id_column_of(path, headers, id_column)
    others = {name: header for name, header in headers.items() if name != ids}
    if column is not None:
        if column not in headers:
            raise SetClipError(
                f"{path}: has no array {column!r}, only {', '.join(map(repr, list(headers)[:8]))}"
                f"{nearest(column, headers)}",
                fix=f"give the name of one of them with {argument('vector_column')}",
            )
        others = {column: headers[column]}
    matrices = [name for name, header in others.items() if len(header.shape) == 2 and header.shape[0] != 1]
    if len(others) == 1 or (len(matrices) == 1 and not average):
        return NpzFile(path, next(iter(matrices or others)), headers, ids=ids, scale=scale)
    widths = {header.shape[-1:] for header in others.values()}
    if (
        len(widths) == 1
        and all(len(header.shape) in (1, 2) for header in others.values())
        and (average or not matrices)
    ):
        return NpzNames(path, others, scale=scale, average=average)
    raise _several(path, others)


def _several(path: Path, headers: dict[str, Header]) -> SetClipError:
    shown = ", ".join(f"{name!r} {header.shape}" for name, header in list(headers.items())[:6])
    option, average = argument("vector_column"), argument("average")
    fix = f"say which one holds the vectors: {option} {next(iter(headers), 'NAME')}"
    if len({header.shape[-1:] for header in headers.values()}) == 1:
        fix += f"; if each array is of one id and its rows are to be averaged, {average}"
    return SetClipError(f"{path}: holds {len(headers):,} arrays: {shown or 'none'}", fix=fix)


class NpzFile(VectorFile):
    """One array (rows, width) of an .npz, and perhaps another one with the ids."""

    def __init__(
        self, path: Path, name: str, headers: dict[str, Header], *, ids: str | None, scale: float | None
    ) -> None:
        self._name, self._header, self._ids_name = name, headers[name], ids
        rows, width = checked_shape(path, self._header.shape, what=f"the array {name!r}")
        dtype = checked_dtype(path, self._header.dtype, scale=scale, what=f"the array {name!r}")
        super().__init__(path, width=width, dtype=dtype, rows=rows, has_ids=ids is not None)
        if self._header.fortran and rows > 1 and width > 1:
            raise SetClipError(
                f"{path}: the array {name!r} is in Fortran's order, of which a compressed stream gives no single rows",
                fix="write it again with np.ascontiguousarray(array), or as .npy",
            )
        if ids is not None and headers[ids].shape != (rows,):
            raise SetClipError(
                f"{path}: {rows:,} vectors in {name!r}, but the ids in {ids!r} have the shape {headers[ids].shape}",
                fix="write one id for each vector",
            )
        if len(headers) > 1:
            self.notes.append(f"the vectors are in {name!r}" + (f", the ids in {ids!r}" if ids else ""))

    def blocks(self, start: int = 0) -> Iterator[Block]:
        ids = _ids(self.path, self._ids_name) if self._ids_name is not None else None
        row_bytes = self.width * self.dtype.itemsize
        with _member(self.path, self._name) as file:
            read_header(self.path, file)
            _skip(self.path, file, start * row_bytes)
            for first in range(start, self.rows or 0, self.block_rows):
                count = min(self.block_rows, (self.rows or 0) - first)
                raw = read_exactly(self.path, file, count * row_bytes)
                values = np.frombuffer(raw, self.dtype).reshape(count, self.width)
                yield Block(values, None if ids is None else ids[first : first + count])


class NpzNames(NamedArrays):
    """An array for each id."""

    def __init__(self, path: Path, headers: dict[str, Header], *, scale: float | None, average: bool) -> None:
        self._headers = headers
        first = next(iter(headers.values()))
        for name, header in headers.items():
            checked_dtype(path, header.dtype, scale=scale, what=f"the array {name!r}")
        dtype = np.result_type(*{header.dtype for header in headers.values()})
        super().__init__(path, len(headers), width=first.shape[-1], dtype=dtype, average=average, scale=scale)

    def names(self) -> list[str]:
        return list(self._headers)

    def vectors(self, names: list[str]) -> Iterator[Any]:
        with _archive(self.path) as archive:
            for name in names:
                header = self._headers[name]
                with archive.open(f"{name}.npy") as file:
                    read_header(self.path, file)
                    count = int(np.prod(header.shape))
                    raw = read_exactly(self.path, file, count * header.dtype.itemsize)
                    array = np.frombuffer(raw, header.dtype).reshape(header.shape, order="F" if header.fortran else "C")
                    yield vector_of(array, self.width, average=self.average)


def _headers(path: Path) -> dict[str, Header]:
    """The header of each array, compared with the size of its member."""
    headers: dict[str, Header] = {}
    with _archive(path) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            if not info.filename.endswith(".npy"):
                raise SetClipError(
                    f"{path}: holds {info.filename!r}, which is not an array",
                    fix="unzip it and give the file of the vectors, or write them with np.savez(path, vectors=array)",
                )
            name = info.filename.removesuffix(".npy")
            if info.file_size > max(_FREE_BYTES, MAX_EXPANSION * info.compress_size):
                raise SetClipError(
                    f"{path}: {name!r} would grow from {info.compress_size:,} to {info.file_size:,} bytes, over "
                    f"{MAX_EXPANSION}-fold (a zip bomb)",
                    fix="if the vectors are real, write them again with np.savez, which does not compress",
                )
            with archive.open(info) as file:
                header = read_header(path, file, what=f"the array {name!r}")
            needed = header.bytes + int(np.prod(header.shape, dtype=object)) * header.dtype.itemsize
            if needed > info.file_size:
                raise cut_short(path, f"the array {name!r}", needed, info.file_size)
            headers[name] = header
    return headers


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except _DAMAGE as error:
        found = recognize(head_of(path)) if path.is_file() else None
        if found is not None and not found.what.endswith("zip file"):
            raise SetClipError(f"{path}: is {found.what}, not an .npz", fix=found.fix) from error
        raise SetClipError(
            f"{path}: is cut short or damaged ({first_line(error)})", fix="download or copy it again"
        ) from error


@contextmanager
def _member(path: Path, name: str) -> Iterator[IO[bytes]]:
    with _archive(path) as archive, archive.open(f"{name}.npy") as file:
        yield file


def _ids(path: Path, name: str) -> list[str]:
    """All ids of an array of them: text, bytes or numbers."""
    with _member(path, name) as file:
        header = read_header(path, file, what=f"the array {name!r}")
        if header.dtype.kind not in "USiu":
            raise SetClipError(
                f"{path}: the ids in {name!r} are {header.dtype}, not text or whole numbers",
                fix="write them with np.array(ids, dtype='U'), or give them with " + argument("ids"),
            )
        needed = header.shape[0] * header.dtype.itemsize
        found = np.frombuffer(read_exactly(path, file, needed), header.dtype)
    if header.dtype.kind == "S":
        return [each.decode("utf-8", "surrogateescape") for each in found.tolist()]
    return [str(each) for each in found.tolist()]


def read_exactly(path: Path, file: IO[bytes], count: int) -> bytes:
    raw = read_up_to(file, count - 1) if count else b""
    if len(raw) < count:
        raise cut_short(path, "the next block", count, len(raw))
    return raw


def _skip(path: Path, file: IO[bytes], count: int) -> None:
    while count:
        part = file.read(min(count, 1 << 20))
        if not part:
            raise cut_short(path, "the array", count, 0)
        count -= len(part)
