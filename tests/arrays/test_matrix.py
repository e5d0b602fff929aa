"""What can be given as a matrix, that it is not copied without need, and what is said of anything else."""

from __future__ import annotations

import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from scipy import sparse

from setclip_cli.arrays.errors import InputError
from setclip_cli.arrays.matrix import Matrix

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3) - 5


def column(kind: pa.DataType, rows: Any = ROWS) -> pa.Array:
    return pa.array(np.asarray(rows).tolist(), type=kind)


FIXED = pa.list_(pa.float32(), 3)
VECTOR_OF_3 = pl.Array(pl.Float32, 3)
SOURCES_OF_FLOAT32 = (
    "float32",
    "tensor",
    "Arrow fixed size list",
    "column of an Arrow table",
    "polars column of arrays",
)
FORMS: dict[str, Any] = {
    "float32": ROWS,
    "float64": ROWS.astype(np.float64),
    "float16": ROWS.astype(np.float16),
    "long double": ROWS.astype(np.longdouble),
    "int8": ROWS.astype(np.int8),
    "int64": ROWS.astype(np.int64),
    "big endian": ROWS.astype(">f4"),
    "big endian integers": ROWS.astype(">i2"),
    "Fortran order": np.asfortranarray(ROWS),
    "a step": np.repeat(ROWS, 2, axis=1)[:, ::2],
    "backwards": ROWS[::-1].copy()[::-1],
    "numpy.matrix": np.asmatrix(ROWS),
    "masked, no number masked": np.ma.masked_array(ROWS, mask=False),
    "nested lists": ROWS.tolist(),
    "list of arrays": list(ROWS),
    "list of tensors": list(torch.from_numpy(ROWS)),
    "tensor": torch.from_numpy(ROWS),
    "tensor with gradient": torch.from_numpy(ROWS.copy()).requires_grad_(),
    "bfloat16 tensor": torch.from_numpy(ROWS).bfloat16(),
    "float16 tensor": torch.from_numpy(ROWS).half(),
    "int64 tensor": torch.from_numpy(ROWS).long(),
    "transposed tensor": torch.from_numpy(ROWS.T.copy()).T,
    "Arrow list": column(pa.list_(pa.float32())),
    "Arrow large list": column(pa.large_list(pa.float64())),
    "Arrow fixed size list": column(FIXED),
    "Arrow float16": column(pa.list_(pa.float16(), 3)),
    "Arrow integers": column(pa.list_(pa.int16(), 3)),
    "Arrow slice": pa.concat_arrays([column(FIXED, ROWS[:2]), column(FIXED)])[2:],
    "Arrow slice of lists": pa.concat_arrays([column(pa.list_(pa.int8()), ROWS[:2]), column(pa.list_(pa.int8()))])[2:],
    "Arrow chunks": pa.chunked_array([column(FIXED, ROWS[:1]), column(FIXED, ROWS[1:])]),
    "Arrow chunks of lists, one empty": pa.chunked_array(
        [column(pa.list_(pa.float64()), ROWS[start:end]) for start, end in ((0, 3), (3, 3), (3, 4))]
    ),
    "Arrow tensors": pa.FixedShapeTensorArray.from_numpy_ndarray(ROWS),
    "column of an Arrow table": pa.table({"id": list("abcd"), "v": column(FIXED)})["v"],
    "Arrow table of numbers": pa.table({name: ROWS[:, place] for place, name in enumerate("abc")}),
    "pandas frame": pd.DataFrame(ROWS, columns=list("abc")),
    "pandas frame of two types": pd.DataFrame(ROWS, columns=list("abc")).astype({"a": np.int64}),
    "pandas column of lists": pd.Series(ROWS.tolist()),
    "pandas column of Arrow": pd.Series(column(FIXED), dtype=pd.ArrowDtype(FIXED)),
    "polars frame": pl.DataFrame(ROWS, schema=list("abc")),
    "polars column of arrays": pl.Series("v", ROWS.tolist(), dtype=VECTOR_OF_3),
    "polars column of lists": pl.Series("v", ROWS.tolist(), dtype=pl.List(pl.Float64)),
    "polars column in chunks": pl.concat(
        [pl.Series("v", part.tolist(), dtype=VECTOR_OF_3) for part in (ROWS[:3], ROWS[3:])], rechunk=False
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_as_the_same_float32_rows(form: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        matrix = Matrix(FORMS[form], "x")
        assert (len(matrix), matrix.width) == ROWS.shape
        whole = matrix.whole()
    assert whole.dtype == torch.float32
    assert whole.is_contiguous()
    np.testing.assert_array_equal(whole.numpy(), ROWS)
    np.testing.assert_array_equal(torch.cat([block for _, block in matrix.blocks()]).numpy(), ROWS)


@pytest.mark.parametrize("form", SOURCES_OF_FLOAT32)
def test_float32_is_used_where_it_is(form: str) -> None:
    source = FORMS[form]
    one, other = Matrix(source, "x").whole(), Matrix(source, "x").whole()
    assert one.data_ptr() == other.data_ptr()


def test_a_memory_map_is_neither_copied_nor_written(tmp_path: Path) -> None:
    """32 MiB; float16 is turned into float32, with no more than a block beside it."""
    path = tmp_path / "x.npy"
    np.save(path, np.ones((8192, 1024), np.float32))
    before = path.read_bytes()
    mapped = np.load(path, mmap_mode="r")
    tracemalloc.start()
    whole = Matrix(mapped, "x").whole()
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert whole.data_ptr() == mapped.ctypes.data
    assert path.read_bytes() == before


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8])
def test_blocks_of_other_types_are_read_one_after_another(tmp_path: Path, dtype: type) -> None:
    path = tmp_path / "x.npy"
    rows = np.arange(6_000_000).reshape(6000, 1000) % 100
    np.save(path, rows.astype(dtype))
    tracemalloc.start()
    sizes, sums = [], 0.0
    for start, block in Matrix(np.load(path, mmap_mode="r"), "x").blocks():
        assert start == sum(sizes)
        sizes.append(len(block))
        sums += float(block.double().sum())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(sizes) == 6000
    assert sums == rows.sum()
    assert len(sizes) > 1
    assert peak < 36 << 20  # two blocks of 16 MiB, not the 48 MiB of all rows


def test_a_bad_row_is_counted_over_blocks() -> None:
    rows = np.ones((5000, 2000), np.float32)
    rows[4321, 7] = np.inf
    for source in (rows, rows.astype(np.float64)):
        with pytest.raises(InputError, match="x: holds NaN or inf, first in row 4321"):
            Matrix(source, "x").whole()


BAD: list[tuple[Any, str]] = [
    ([1.0, 2.0], r"has the shape \(2,\)\n  fix: Reshape your data: x.reshape\(1, -1\)"),
    (3.0, r"has the shape \(\)"),
    (np.zeros((2, 3, 4)), r"has the shape \(2, 3, 4\)"),
    (np.zeros((0, 4)), r"has the shape \(0, 4\)"),
    (np.zeros((4, 0)), r"has the shape \(4, 0\)"),
    ([], r"has the shape \(0,\)"),
    ([[]], r"has the shape \(1, 0\)"),
    ([[1.0, 2.0], [1.0, 2.0], [1.0]], "row 0 has 2 numbers, and row 2 has 1"),
    ([np.ones(3), np.ones(2)], "row 0 has 3 numbers, and row 1 has 2"),
    ([[1.0, None]], "first that is not a number is 'None'"),
    (np.array([[1, "a"]], object), "first that is not a number is 'a'"),
    (np.array([[1, 2]], object), r"numbers as Python objects .*\n  fix: give x.astype\('float32'\)"),
    ([["a", "b"]], "has the type <U1"),
    (np.array([["2020-01-01"]], "M8[D]"), r"has the type datetime64\[D\]"),
    (np.zeros(3, [("a", "f4"), ("b", "f4")]), "has the type"),
    ([[1j]], "holds complex numbers"),
    (torch.ones(2, 2, dtype=torch.complex64), "holds complex numbers"),
    (torch.eye(3).to_sparse(), r"is a sparse tensor\n  fix: give x.to_dense\(\)"),
    (sparse.eye_array(3).tocsr(), r"is a sparse matrix\n  fix: give x.toarray\(\)"),
    (np.ma.masked_array(ROWS, mask=ROWS > 4), "2 of its numbers are masked"),
    ("x.npy", r"is text, .*\n  fix: .* numpy.load\('x.npy', mmap_mode='r'\)"),
    (Path("x.npy"), r"is text, .*numpy.load\('x.npy'"),
    (None, "it is a NoneType"),
    ({"a": [1.0]}, "it is a dict"),
    ((row for row in ROWS), "it is a generator"),
    (np.array([[1.0, np.nan]]), "holds NaN or inf, first in row 0"),
    (torch.tensor([[1.0], [-torch.inf]]), "holds NaN or inf, first in row 1"),
    (np.array([[1.0], [1e30]]), r"row 1 is too long for float32: it holds 1e\+30"),
    (np.array([[1.0], [-1e300]]), r"row 1 is too long for float32: it holds -1e\+300"),
    (torch.tensor([[1e300]], dtype=torch.float64), r"row 0 is too long for float32: it holds 1e\+300"),
    (column(pa.list_(pa.float32()), [[1.0], [2.0]])[:0], r"has the shape \(0, 0\)"),
    (pa.array([[1.0], None, [2.0]]), r"row 1 has no vector \(it is null\)"),
    (pa.array([[1.0, 2.0], [3.0, None]]), r"row 1 holds a missing number \(null\)"),
    (pa.array([[1.0], [2.0, 3.0]]), "rows have 1 to 2 numbers"),
    (pa.chunked_array([pa.array([[1.0]]), pa.array([[2.0, 3.0]])]), "rows have 1 to 2 numbers"),
    (pa.array([["a"]]), "holds vectors of string"),
    (pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((2, 3, 4))), r"a tensor of the shape \[3, 4\]"),
    (pa.array([1.0, 2.0]), r"has the shape \(2,\)"),
    (pa.table({"id": ["a"], "v": [[1.0]]}), r"it is a table with the columns id, v\)\n  fix: .* x\['v'\]"),
    (
        pd.DataFrame({"id": ["a"], "v": [1.0]}),
        r"with the columns id, v\)\n  fix: give the columns of numbers alone",
    ),
    (pl.DataFrame({"id": ["a"], "v": [[1.0, 2.0]]}), r"table with the columns id, v\)\n  fix: .* x\['v'\]"),
    (pd.DataFrame({"a": [1.0, None]}), "holds NaN or inf, first in row 1"),
]


@pytest.mark.parametrize(("values", "words"), BAD, ids=[words[:40] for _, words in BAD])
def test_anything_else_gets_one_message(values: Any, words: str) -> None:
    with pytest.raises(InputError, match=f"(?s)^x: .*{words}") as caught:
        Matrix(values, "x").whole()
    assert isinstance(caught.value, ValueError)
    assert str(caught.value).count("\n  fix: ") == 1


def test_a_column_of_arrays_says_how_to_stack_them() -> None:
    with pytest.raises(InputError, match=r"numpy.stack\(list\(x\)\)"):
        Matrix(np.array([np.ones(2), np.ones(3)], object), "x")


def test_rows_of_zeros_are_rows() -> None:
    assert not Matrix(np.zeros((2, 3)), "x").whole().any()
