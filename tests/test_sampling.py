"""Claims about which rows a step sees."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from setclip_cli.sampling import generator, sample


@given(rows=st.integers(1, 40), batch=st.integers(1, 50), seed=st.integers(0, 2**40))
def test_every_row_comes_up_once_an_epoch(rows: int, batch: int, seed: int) -> None:
    batch = min(batch, rows)
    drawn = torch.cat([sample(rows, batch, step, seed=seed, stream="image") for step in range(rows)])
    assert torch.equal(drawn.bincount(minlength=rows), torch.full((rows,), batch))


def test_every_epoch_has_an_order_of_its_own() -> None:
    epochs = [
        torch.cat([sample(60, 20, step, seed=3, stream="image") for step in range(3 * epoch, 3 * epoch + 3)])
        for epoch in range(4)
    ]
    assert all(sorted(order.tolist()) == list(range(60)) for order in epochs)
    assert len({tuple(order.tolist()) for order in epochs}) == 4


def test_a_step_depends_on_nothing_that_was_drawn_before() -> None:
    late = sample(100, 7, 500, seed=3, stream="image")
    for step in range(20):
        sample(100, 7, step, seed=3, stream="image")
    assert torch.equal(late, sample(100, 7, 500, seed=3, stream="image"))


def test_streams_and_seeds_give_different_orders() -> None:
    orders = [
        sample(1000, 50, 0, seed=seed, stream=stream).tolist() for seed in (0, 1) for stream in ("image", "caption")
    ]
    assert len({tuple(order) for order in orders}) == 4


def test_generator_tells_apart_names_that_join_alike() -> None:
    assert generator(0, "a", 12).initial_seed() != generator(0, "a1", 2).initial_seed()


def test_a_batch_larger_than_the_pool_sees_every_row() -> None:
    assert sample(5, 9, 3, seed=0, stream="pairs").tolist() == [0, 1, 2, 3, 4]


def test_weighted_rows_come_up_in_proportion_and_never_twice_in_a_step() -> None:
    weights = torch.tensor([4.0, 2.0, 1.0, 1.0]).repeat(250)
    drawn = [sample(1000, 20, step, seed=1, stream="image", weights=weights) for step in range(500)]
    assert all(len(set(rows.tolist())) == 20 for rows in drawn)
    often = torch.bincount(torch.cat(drawn) % 4, minlength=4) / 10_000
    torch.testing.assert_close(often, torch.tensor([0.5, 0.25, 0.125, 0.125]), atol=0.02, rtol=0)
    assert torch.equal(drawn[7], sample(1000, 20, 7, seed=1, stream="image", weights=weights))
    assert not torch.equal(drawn[7], sample(1000, 20, 7, seed=2, stream="image", weights=weights))


def test_nothing_to_draw_from_is_an_error() -> None:
    with pytest.raises(ValueError, match="rows=0"):
        sample(0, 4, 0, seed=0, stream="image")
