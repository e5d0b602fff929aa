"""The objective: which terms count when, what each of them sees, and where the gradient comes from."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from setclip_cli import defaults
from setclip_cli.losses import (
    clip,
    log_density_ratios,
    neighbourhood,
    published,
    s_clip,
    sdd,
    self_supervised,
    teacher,
)
from setclip_cli.losses.objective import TrainingObjective, WeightedTerm, density_gap
from setclip_cli.losses.terms import (
    ClipTerm,
    MkMmdTerm,
    NeighbourhoodTerm,
    PublishedTerm,
    SClipTerm,
    SddTerm,
    SelfSupervisedTerm,
    StepSide,
    TeacherTerm,
)

BANDWIDTHS = (defaults.SDD_BANDWIDTH,)


def unit(n: int, d: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def side(seed: int, *, rows: int = 8, pairs: int = 4, grad: bool = False) -> StepSide:
    return StepSide(
        features=unit(rows, 5, seed),
        embeddings=unit(rows, 3, seed + 1).requires_grad_(grad),
        paired=unit(pairs, 3, seed + 2).requires_grad_(grad) if pairs else torch.empty(0, 3),
        paired_features=unit(pairs, 5, seed + 3) if pairs else torch.empty(0, 5),
        second_view=unit(rows, 3, seed + 4),
        teacher_coordinates=unit(rows, 2, seed + 5),
    )


EVERY: dict[str, nn.Module] = {
    "clip": ClipTerm(0.07),
    "mk_mmd": MkMmdTerm(),
    "sdd": SddTerm(BANDWIDTHS),
    "self_supervised": SelfSupervisedTerm(0.1),
    "neighbourhood": NeighbourhoodTerm(0.1, 0.1),
    "teacher": TeacherTerm(0.07, 0.05),
    "s_clip": SClipTerm(0.07, 0.1),
}


def test_the_total_is_the_weighted_sum_of_the_terms() -> None:
    objective = TrainingObjective(
        {name: WeightedTerm(loss, 0.1 * place + 0.1) for place, (name, loss) in enumerate(EVERY.items())}
    )
    value = objective(side(1), side(20), 0)
    assert list(value.terms) == list(EVERY)
    expected = sum(value.weights[name] * term for name, term in value.terms.items())
    torch.testing.assert_close(value.total, expected)


def test_each_term_is_its_loss_on_both_sides_with_its_own_settings() -> None:
    left, right = side(1), side(20)
    assert left.second_view is not None
    assert right.second_view is not None
    assert left.paired_features is not None
    assert right.paired_features is not None
    assert left.teacher_coordinates is not None
    assert right.teacher_coordinates is not None
    for found, expected in (
        (ClipTerm(0.3), clip(left.paired, right.paired, temperature=0.3)),
        (ClipTerm(1e-4), clip(left.paired, right.paired, temperature=0.01)),  # never sharper
        (
            SelfSupervisedTerm(0.3),
            self_supervised(left.embeddings, left.second_view, temperature=0.3)
            + self_supervised(right.embeddings, right.second_view, temperature=0.3),
        ),
        (
            NeighbourhoodTerm(0.3, 0.6),
            neighbourhood(left.features, left.embeddings, temperature=0.3, embedding_temperature=0.6)
            + neighbourhood(right.features, right.embeddings, temperature=0.3, embedding_temperature=0.6),
        ),
        (
            TeacherTerm(0.3, 0.6),
            teacher(
                left.embeddings,
                right.embeddings,
                left.teacher_coordinates,
                right.teacher_coordinates,
                temperature=0.3,
                sharpness=0.6,
            ),
        ),
        (
            SClipTerm(0.3, 0.6),
            s_clip(
                left.embeddings,
                right.paired,
                left.features,
                left.paired_features,
                temperature=0.3,
                regularisation=0.6,
            )
            + s_clip(
                right.embeddings,
                left.paired,
                right.features,
                right.paired_features,
                temperature=0.3,
                regularisation=0.6,
            ),
        ),
    ):
        torch.testing.assert_close(found(left, right), expected)


def test_a_term_outside_its_steps_is_not_computed() -> None:
    class Counting(nn.Module):
        calls = 0

        def forward(self, left: StepSide, right: StepSide) -> Tensor:
            type(self).calls += 1
            return left.embeddings.sum()

    objective = TrainingObjective(
        {"teacher": WeightedTerm(Counting(), 1.0, start_step=2, end_step=4), "sdd": WeightedTerm(Counting(), 0.0)}
    )
    active = [bool(objective(side(1), side(2), step).terms) for step in range(6)]
    assert active == [False, False, True, True, False, False]
    assert Counting.calls == 2


def test_the_warm_up_rises_linearly_and_is_full_at_its_last_step() -> None:
    term = WeightedTerm(SddTerm(BANDWIDTHS), 0.8, start_step=10, warmup_steps=4)
    assert [term.weight_at(step) for step in (9, 10, 11, 12, 13, 14)] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 0.8])


def test_unknown_terms_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown terms"):
        TrainingObjective({"contrast": WeightedTerm(ClipTerm(0.07), 1.0)})


@pytest.mark.parametrize("name", ["clip", "teacher", "s_clip"])
def test_terms_that_learn_from_pairs_are_zero_without_any(name: str) -> None:
    left, right = (
        StepSide(s.features, s.embeddings, s.paired, s.paired_features) for s in (side(1, pairs=0), side(9, pairs=0))
    )
    assert float(EVERY[name](left, right)) == 0


def test_pairs_that_share_an_item_are_positives_of_each_other() -> None:
    left, right = side(1), side(9)
    told = StepSide(left.features, left.embeddings, left.paired, paired_ids=torch.tensor([5, 5, 6, 7]))
    other = StepSide(right.features, right.embeddings, right.paired, paired_ids=torch.arange(4))
    targets = torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    torch.testing.assert_close(ClipTerm(0.07)(told, other), clip(left.paired, right.paired, targets=targets))


def test_the_temperature_learns_when_it_should() -> None:
    fixed, learnable = ClipTerm(0.07), ClipTerm(0.07, learnable_temperature=True)
    assert not list(fixed.parameters())
    learnable(side(1), side(9)).backward()
    (parameter,) = learnable.parameters()
    assert parameter.grad is not None
    assert float(parameter.grad.abs()) > 0


def test_the_queue_holds_the_last_rows_and_comes_back_from_its_state() -> None:
    term = SddTerm(BANDWIDTHS, queue=10)
    left, right = side(1, grad=True), side(9, grad=True)
    torch.testing.assert_close(term(left, right), sdd(left.embeddings, right.embeddings))
    second = term(side(2), right)
    expected = sdd(side(2).embeddings, right.embeddings, x_bank=left.embeddings, y_bank=right.embeddings)
    torch.testing.assert_close(second, expected)
    held = term.left_queue.rows()
    assert held is not None
    torch.testing.assert_close(held, torch.cat([left.embeddings.detach(), side(2).embeddings])[-10:])
    resumed = SddTerm(BANDWIDTHS, queue=10)
    resumed.load_state_dict(term.state_dict())
    torch.testing.assert_close(resumed(left, right), term(left, right))


def test_a_queue_shorter_than_a_batch_holds_its_last_rows() -> None:
    term, left = SddTerm(BANDWIDTHS, queue=5), side(1)
    term(left, side(9))
    held = term.left_queue.rows()
    assert held is not None
    torch.testing.assert_close(held, left.embeddings[-5:])


def test_the_density_gap_is_the_mean_size_of_the_log_ratios() -> None:
    x, others = unit(8, 3, 1), unit(2, 3, 2)
    y = torch.cat([x[:2], x[:2], others])  # denser than x itself at two rows of x
    over_x, over_y = (ratios[:, 0].tolist() for ratios in log_density_ratios(x, y))
    assert min(over_x) < 0 < max(over_x)
    expected = sum(abs(ratio) for ratio in over_x + over_y) / 14
    assert float(density_gap(x, y)) == pytest.approx(expected, rel=1e-5)


def test_the_density_gap_is_zero_for_equal_sets_and_needs_no_term() -> None:
    left = side(1)
    assert float(density_gap(left.embeddings, left.embeddings[torch.randperm(8)])) == pytest.approx(0, abs=1e-5)
    without = TrainingObjective({"clip": WeightedTerm(ClipTerm(0.07), 1.0)})(left, side(9), 0).density_gap
    settings = (
        SddTerm(BANDWIDTHS),
        SddTerm([0.05]),
        SddTerm(BANDWIDTHS, leave_one_out=True),
        SddTerm(BANDWIDTHS, queue=5),
    )
    for term in settings:  # they do not change the figure
        objective = TrainingObjective({"sdd": WeightedTerm(term, 1.0)})
        for step in range(2):  # in the second one the queue holds rows
            torch.testing.assert_close(objective(left, side(9), step).density_gap, without)


def test_published_terms_see_the_pairs_first_and_then_the_rest() -> None:
    left, right = side(1), side(9)
    x, y = (torch.cat([s.paired, s.embeddings]) for s in (left, right))
    torch.testing.assert_close(PublishedTerm("sdd")(left, right), published.sdd(x, y))
    torch.testing.assert_close(PublishedTerm("clip")(left, right), published.clip(x, y, 4))
    torch.testing.assert_close(PublishedTerm("mk_mmd")(left, right), published.mmd(x, y))
    with pytest.raises(ValueError, match="no published form"):
        PublishedTerm("neighbourhood")
