"""Claims about budgets: every row once, never over the budget, smaller batches when memory runs out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from setclip_cli.backbones.batching import Budget


@given(
    lengths=st.lists(st.integers(0, 50), max_size=40),
    tokens=st.none() | st.integers(1, 200),
    rows=st.none() | st.integers(1, 9),
)
def test_every_row_is_in_one_batch_within_the_budget(lengths: list[int], tokens: int | None, rows: int | None) -> None:
    batches = [batch for batch, _ in Budget(tokens, rows).map(lengths, lambda batch: None)]
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[row] for row in batch)
        assert len(batch) == 1 or tokens is None or len(batch) * longest <= tokens
        assert rows is None or len(batch) <= rows


def test_longest_first_and_equal_lengths_in_order() -> None:
    assert [batch for batch, _ in Budget(rows=2).map([1, 3, 1, 3, 3], lambda batch: None)] == [[1, 3], [4, 0], [2]]


def test_out_of_memory_halves_the_batch_and_repeats_nothing_that_was_done(capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[int] = []

    def forward(batch: list[int]) -> list[int]:
        if len(batch) > 3:
            raise torch.OutOfMemoryError
        calls.extend(batch)
        return batch

    budget = Budget(tokens=80)
    done = [row for batch, _ in budget.map([10] * 20, forward) for row in batch]
    assert done == calls == list(range(20))
    assert budget.tokens == 20  # 8 rows, 4, then 2, which fit; the budget stays there for later calls
    assert "out of memory with 8 rows in a batch; going on with 4" in capsys.readouterr().err


def test_a_single_row_that_does_not_fit_is_an_error() -> None:
    def forward(batch: list[int]) -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        list(Budget(rows=4).map([1] * 4, forward))
