"""Claims about nested widths: each width gives the loss of its own embeddings, and all weigh the same."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from test_objective import EVERY, side
from torch import nn

from setclip_cli import defaults
from setclip_cli.losses.nested import NestedTerm
from setclip_cli.losses.terms import ClipTerm, SddTerm, StepSide


def wide(seed: int, dim: int = 6, *, grad: bool = False) -> StepSide:
    def rows(count: int, at: int) -> torch.Tensor:
        drawn = torch.randn(count, dim, generator=torch.Generator().manual_seed(10 * seed + at))
        return F.normalize(drawn, dim=1).requires_grad_(grad)

    return replace(side(seed), embeddings=rows(8, 0), paired=rows(4, 1), second_view=rows(8, 2))


def infonce(left: list[list[float]], right: list[list[float]], temperature: float) -> float:
    """The contrastive loss of rows of any length, written as loops."""

    def cosine(a: list[float], b: list[float]) -> float:
        lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
        return sum(x * y for x, y in zip(a, b, strict=True)) / lengths

    def one_way(queries: list[list[float]], answers: list[list[float]]) -> float:
        total = 0.0
        for own, query in enumerate(queries):
            scores = [math.exp(cosine(query, answer) / temperature) for answer in answers]
            total -= math.log(scores[own] / sum(scores))
        return total / len(queries)

    return (one_way(left, right) + one_way(right, left)) / 2


def test_the_loss_is_the_mean_of_those_of_the_first_values_alone() -> None:
    """Equation 1 of arXiv:2205.13147 with equal importance, over the loops above."""
    left, right = (replace(wide(seed), paired_ids=torch.arange(4)) for seed in (1, 2))
    widths = (2, 3, 6)
    expected = [
        infonce([row[:width] for row in left.paired.tolist()], [row[:width] for row in right.paired.tolist()], 0.2)
        for width in widths
    ]
    assert float(NestedTerm(ClipTerm(0.2), widths)(left, right).detach()) == pytest.approx(sum(expected) / 3, abs=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_every_term_is_taken_at_every_width_and_the_last_is_the_term_itself(name: str) -> None:
    left, right = wide(1), wide(2)
    assert float(NestedTerm(EVERY[name], [6])(left, right)) == pytest.approx(float(EVERY[name](left, right)), abs=1e-5)

    def cut(one: StepSide, width: int) -> StepSide:
        def short(rows: torch.Tensor) -> torch.Tensor:
            return torch.stack([row[:width] / row[:width].norm() for row in rows])

        assert one.second_view is not None
        views = short(one.second_view)
        return replace(one, embeddings=short(one.embeddings), paired=short(one.paired), second_view=views)

    alone = [float(EVERY[name](cut(left, width), cut(right, width))) for width in (2, 4, 6)]
    assert float(NestedTerm(EVERY[name], [2, 4, 6])(left, right)) == pytest.approx(sum(alone) / 3, abs=1e-5)


def test_only_the_values_within_a_width_feel_it_and_the_first_feel_all() -> None:
    left, right = wide(1, grad=True), wide(2)
    (narrow,) = torch.autograd.grad(NestedTerm(EVERY["sdd"], [2])(left, right), [left.embeddings])
    assert bool((narrow[:, 2:] == 0).all())
    assert bool((narrow[:, :2] != 0).any())
    both = NestedTerm(EVERY["sdd"], [2, 6])(left, right)
    (found,) = torch.autograd.grad(both, [left.embeddings])
    (whole,) = torch.autograd.grad(EVERY["sdd"](left, right), [left.embeddings])
    torch.testing.assert_close(found, (narrow + whole) / 2, atol=1e-6, rtol=1e-4)


def test_each_width_learns_a_temperature_and_keeps_a_queue_of_its_own() -> None:
    term = NestedTerm(ClipTerm(0.2, learnable_temperature=True), [2, 6])
    term(wide(1), wide(2)).backward()
    gradients = [parameter.grad for parameter in term.parameters()]
    assert len(gradients) == 2
    assert all(gradient is not None for gradient in gradients)
    assert gradients[0] != gradients[1]
    queued = NestedTerm(SddTerm([defaults.SDD_BANDWIDTH], queue=20), [2, 6])
    for step in range(2):  # the second compares with what the first has pushed
        assert math.isfinite(float(queued(wide(step), wide(step + 5)).detach()))
    state = queued.state_dict()
    assert {name: tuple(rows.shape) for name, rows in state.items() if "left_queue" in name} == {
        "terms.0.left_queue.held": (16, 2),
        "terms.1.left_queue.held": (16, 6),
    }
    again = NestedTerm(SddTerm([defaults.SDD_BANDWIDTH], queue=20), [2, 6])
    again.load_state_dict(state)
    torch.testing.assert_close(again(wide(3), wide(4)), queued(wide(3), wide(4)))
    assert isinstance(again, nn.Module)
