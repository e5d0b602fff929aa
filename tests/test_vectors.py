"""Claims about which vectors can be compared."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from setclip_cli.vectors import unusable_rows


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([0.0, 0.0], "is zero"),
        ([-0.0, 0.0], "is zero"),
        ([1e-20, 0.0], "is zero"),  # its square is 0 in float32, so a division by its length would blow it up
        ([1e25, 1.0], "is too long for float32"),  # its length is infinite in float32, so a division gives zeros
        ([float("nan"), 1.0], "is not finite"),
        ([float("-inf"), 1.0], "is not finite"),
    ],
)
def test_a_vector_without_a_direction_is_named_with_its_reason(row: list[float], reason: str) -> None:
    assert unusable_rows(np.array([[1.0, 2.0], row, [0.0, 3.0]], np.float32)) == {1: reason}


def test_float16_is_judged_by_the_values_that_are_written() -> None:
    with np.errstate(over="ignore"):
        written = np.array([[1.0, 70_000.0], [1e-9, 0.0], [6e-5, 0.0]], np.float32).astype(np.float16)
    assert unusable_rows(written) == {0: "is not finite", 1: "is zero"}


def test_no_rows_have_no_faults() -> None:
    assert unusable_rows(np.zeros((0, 4), np.float32)) == {}


@given(st.lists(st.floats(width=32), min_size=3, max_size=3))
def test_what_passes_has_length_one_after_normalising(row: list[float]) -> None:
    vectors = np.array([row], np.float32)
    if not unusable_rows(vectors):
        assert float(torch.nn.functional.normalize(torch.from_numpy(vectors), dim=1).norm()) == pytest.approx(
            1, abs=1e-3
        )
