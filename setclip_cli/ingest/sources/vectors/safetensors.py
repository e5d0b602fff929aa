"""Vectors in safetensors: one tensor (rows, width), or a tensor for each id. bfloat16 is read as float32."""

from __future__ import annotations

import json
import math
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from setclip_cli.errors import SetClipError, argument, first_line, nearest, translated
from setclip_cli.files.recognize import head_of, recognize
from setclip_cli.ingest.sources.vectors.blocks import (
    Block,
    Values,
    VectorFile,
    bfloat16_as_float32,
    checked_dtype,
    checked_shape,
    cut_short,
)
from setclip_cli.ingest.sources.vectors.named import NamedArrays, vector_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_DTYPES = {
    **{"F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2", "I8": "i1", "U8": "u1"},
    **{"I16": "<i2", "U16": "<u2", "I32": "<i4", "U32": "<u4", "I64": "<i8", "U64": "<u8"},
}
_MAX_HEADER_BYTES = 100 << 20  # as the library itself has it


class Tensor(NamedTuple):
    name: str
    dtype: str  # as the header says it
    shape: tuple[int, ...]
    start: int  # in the file

    @property
    def numpy(self) -> np.dtype[Any]:
        return np.dtype(_DTYPES[self.dtype])

    @property
    def given(self) -> np.dtype[Any]:
        """The type of the numbers that `numbers` gives."""
        return np.dtype("<f4") if self.dtype == "BF16" else self.numpy


def open_safetensors(
    path: Path, *, column: str | None = None, scale: float | None = None, average: bool = False
) -> VectorFile:
    """Chooses the tensor of vectors of a safetensors file: the named one, or the only one; or one tensor an id."""
    tensors = _tensors(path)
    if column is not None:
        if column not in tensors:
            raise SetClipError(
                f"{path}: has no tensor {column!r}, only {', '.join(map(repr, list(tensors)[:8]))}"
                f"{nearest(column, tensors)}",
                fix=f"give the name of one of them with {argument('vector_column')}",
            )
        return SafetensorsFile(path, tensors[column], scale=scale)
    if len(tensors) == 1 and (
        len((only := next(iter(tensors.values()))).shape) != 1 and (not average or only.shape[0] > 1)
    ):
        return SafetensorsFile(path, only, scale=scale)
    if tensors and len({each.shape[-1:] for each in tensors.values()}) == 1:
        long = next((each for each in tensors.values() if len(each.shape) != 1 and each.shape[:-1] != (1,)), None)
        if long is None or (average and len(long.shape) == 2):
            return SafetensorsNames(path, tensors, scale=scale, average=average)
    shown = ", ".join(f"{each.name!r} {each.shape}" for each in list(tensors.values())[:6])
    fix = f"say which one holds the vectors: {argument('vector_column')} {next(iter(tensors), 'NAME')}"
    if len({each.shape[-1:] for each in tensors.values()}) == 1:
        fix += f"; if each tensor is of one id and its rows are to be averaged, {argument('average')}"
    raise SetClipError(f"{path}: holds {len(tensors):,} tensors: {shown or 'none'}", fix=fix)


class SafetensorsFile(VectorFile):
    """One tensor (rows, width)."""

    def __init__(self, path: Path, tensor: Tensor, *, scale: float | None) -> None:
        self._tensor, shown = tensor, f"the tensor {tensor.name!r}"
        rows, width = checked_shape(path, tensor.shape, what=shown)
        checked_dtype(path, tensor.given, scale=scale, what=shown)
        super().__init__(path, width=width, dtype=tensor.given, rows=rows)

    def blocks(self, start: int = 0) -> Iterator[Block]:
        with translated(self.path, OSError, found="cannot be read", fix="check the disk"), self.path.open("rb") as file:
            for first in range(start, self.rows or 0, self.block_rows):
                count = min(self.block_rows, (self.rows or 0) - first)
                flat = _numbers(self.path, file, self._tensor, first * self.width, count * self.width)
                yield Block(flat.reshape(count, self.width))


class SafetensorsNames(NamedArrays):
    """A tensor for each id."""

    def __init__(self, path: Path, tensors: dict[str, Tensor], *, scale: float | None, average: bool) -> None:
        self._tensors = tensors
        for each in tensors.values():
            checked_dtype(path, each.given, scale=scale, what=f"the tensor {each.name!r}")
        first = next(iter(tensors.values()))
        dtype = np.result_type(*{each.given for each in tensors.values()})
        super().__init__(path, len(tensors), width=first.shape[-1], dtype=dtype, average=average, scale=scale)

    def names(self) -> list[str]:
        return list(self._tensors)

    def vectors(self, names: list[str]) -> Iterator[Values | str]:
        with translated(self.path, OSError, found="cannot be read", fix="check the disk"), self.path.open("rb") as file:
            for name in names:
                tensor = self._tensors[name]
                flat = _numbers(self.path, file, tensor, 0, math.prod(tensor.shape))
                yield vector_of(flat.reshape(tensor.shape), self.width, average=self.average)


def _numbers(path: Path, file: IO[bytes], tensor: Tensor, first: int, count: int) -> Values:
    """Consecutive numbers of a tensor."""
    found = np.empty(count, tensor.numpy)
    file.seek(tensor.start + first * found.itemsize)
    there = file.readinto(found.view(np.uint8).data)  # type: ignore[attr-defined]
    if there < found.nbytes:
        raise cut_short(path, "the next block", found.nbytes, there)
    return bfloat16_as_float32(found) if tensor.dtype == "BF16" else found


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors by the header, in the order of the file; each is compared with the size of the file."""
    with translated(path, OSError, found="cannot be read", fix="check the path"), path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
            raise _not_safetensors(path, f"its header would have {length:,} bytes, and the file has {size:,}")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        tensors = [
            Tensor(name, str(each["dtype"]), tuple(map(int, each["shape"])), 8 + length + int(each["data_offsets"][0]))
            for name, each in header.items()
            if name != "__metadata__"
        ]
        ends = {
            name: 8 + length + int(each["data_offsets"][1]) for name, each in header.items() if name != "__metadata__"
        }
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise _not_safetensors(path, f"its header cannot be read: {first_line(error)}") from error
    for each in tensors:
        if each.dtype not in _DTYPES:
            raise SetClipError(
                f"{path}: the tensor {each.name!r} holds {each.dtype}, which is not read",
                fix="write it as F32, F16 or BF16",
            )
        needed = math.prod(each.shape) * each.numpy.itemsize
        if min(each.shape, default=1) < 0 or each.start < 8 + length or ends[each.name] - each.start != needed:
            raise _not_safetensors(path, f"the place of the tensor {each.name!r} does not fit its shape {each.shape}")
        if ends[each.name] > size:
            raise cut_short(path, f"the tensor {each.name!r}", ends[each.name], size)
    return {each.name: each for each in sorted(tensors, key=lambda each: each.start)}


def _not_safetensors(path: Path, why: str) -> SetClipError:
    found = recognize(head_of(path))
    if found is not None:
        return SetClipError(f"{path}: is {found.what}, not safetensors", fix=found.fix)
    return SetClipError(f"{path}: is not safetensors, or is damaged: {why}", fix="download or copy it again")
