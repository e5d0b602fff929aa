"""What can be given as pairs, and what is said of anything else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from setclip_cli.arrays.errors import InputError
from setclip_cli.arrays.pairs import rows_of_pairs

PAIRS = [[0, 2], [4, 1]]


@pytest.mark.parametrize(
    "given",
    [
        PAIRS,
        [(0, 2), (4, 1)],
        np.array(PAIRS, np.uint64),
        np.array(PAIRS, ">i2"),
        torch.tensor(PAIRS, dtype=torch.int32),
        pd.DataFrame(PAIRS, columns=["x", "y"]),
        pl.DataFrame(PAIRS, schema=["x", "y"], orient="row"),
        pa.table({"x": [0, 4], "y": [2, 1]}),
    ],
    ids=lambda given: type(given).__module__.partition(".")[0] + " " + type(given).__name__,
)
def test_every_form_is_read_as_row_numbers(given: Any) -> None:
    found = rows_of_pairs(given, 5, 3)
    assert found.dtype == torch.int64
    assert found.tolist() == PAIRS


@pytest.mark.parametrize("given", [None, (), [], np.zeros((0, 2)), torch.zeros(0, 2), [[]]])
def test_there_may_be_no_pairs(given: Any) -> None:
    assert rows_of_pairs(given, 5, 3).shape == (0, 2)


BAD: list[tuple[Any, str]] = [
    ([[0.0, 1.0]], r"type float64\n  fix: give row numbers as whole numbers: numpy.asarray\(pairs\).astype\(int\)"),
    (torch.tensor([[0.5, 1.0]]), r"type float32\n  fix: give whole numbers"),
    ([[True, False]], "the type bool"),
    (np.eye(5, 3, dtype=int), r"has the shape \(5, 3\)"),
    ([0, 1], r"has the shape \(2,\)"),
    ((np.arange(3), np.arange(3)), r"has the shape \(2, 3\) .*give numpy.transpose\(pairs\)"),
    ({0: 1, 2: 2}, r"is a dict\n  fix: give list\(pairs.items\(\)\)"),
    (zip([0], [1], strict=True), r"it is a zip\)\n  fix: give list\(pairs\)"),
    ("ab", "it is a str"),
    (3, "it is a int"),
    ([["P12345", "a caption"]], "holds ids, such as 'P12345', not row numbers\n  fix: look the rows up"),
    (pd.DataFrame({"left_id": ["P1"], "right_id": ["c1"]}), "holds ids, such as 'P1', not row numbers"),
    (pl.DataFrame({"row": [3], "id": ["c1"]}), "holds ids, such as 'c1', not row numbers"),
    ([[0, None]], "holds objects, such as '0', not row numbers"),
    ([[0, 1], [2]], "is not a matrix of numbers"),
    ([[5, 0]], r"1 of 1 name rows that are not there, the first \[5, 0\]; x has 5 rows and y has 3\n  fix: count rows"),
    ([[0, -1]], r"the first \[0, -1\]"),
    ([[0, 0], [2, 4], [1, 3]], r"2 of 3 .* the first \[2, 4\].*\n  fix: the columns may be swapped"),
    ([[1, 1], [5, 3]], r"1 of 2 .*\n  fix: count rows from 0: give pairs - 1"),
    (np.array([[2**63, 0]], np.uint64), "1 of 1 name rows that are not there"),
]


@pytest.mark.parametrize(("given", "words"), BAD, ids=[words[:40] for _, words in BAD])
def test_anything_else_gets_one_message(given: Any, words: str) -> None:
    with pytest.raises(InputError, match=f"(?s)^pairs: .*{words}"):
        rows_of_pairs(given, 5, 3)
