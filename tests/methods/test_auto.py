"""The choice among methods, and the pairs that are held out for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from two_pools import pools

from setclip_cli.encoders import (
    Encoder,
    LinearMap,
)
from setclip_cli.errors import SetClipError
from setclip_cli.methods import auto
from setclip_cli.methods.auto import CANDIDATES, Choice, choose
from setclip_cli.methods.closed_form import fit_closed_form
from setclip_cli.methods.held_out import folds, partner_scores
from setclip_cli.recipe.recipe import Recipe


def test_auto_with_few_pairs_says_why_it_takes_the_default(recipe: Recipe) -> None:
    left, right = pools()
    choice = choose(recipe, left, right, torch.zeros(49, 2, dtype=torch.int64), _never)
    assert choice.recipe.method == "set-clip-plus"
    assert "49 pairs are too few" in choice.summary()
    assert choice.as_json()["scores"] == {}


def test_auto_takes_the_method_that_finds_held_out_partners_best(recipe: Recipe) -> None:
    left, right = pools()
    pairs = torch.arange(60).repeat(2, 1).T
    seen: list[set[int]] = []

    def fit(candidate: Recipe, x: Tensor, y: Tensor, known: Tensor) -> tuple[Encoder, Encoder]:
        seen.append(set(known[:, 0].tolist()))
        method = candidate.method if candidate.method == "ridge" else "wrong"
        if method == "ridge":
            return fit_closed_form("ridge", x, y, known)
        draw = torch.Generator().manual_seed(len(seen))
        return LinearMap(torch.randn(12, 4, generator=draw)), LinearMap(torch.randn(9, 4, generator=draw))

    choice: Choice = choose(recipe, left, right, pairs, fit)
    assert choice.recipe.method == "ridge"
    assert set(choice.scores) == set(CANDIDATES)
    assert choice.margin is not None
    assert choice.margin[0] > 0
    assert "ridge, by" in choice.summary()
    assert all(len(known) == 48 for known in seen)  # a fifth is held out each time


def test_auto_keeps_the_default_against_a_lead_within_its_standard_error(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = pools()
    pairs = torch.arange(60).repeat(2, 1).T
    same = (LinearMap(torch.eye(12)), LinearMap(torch.eye(9)))
    fitted: list[str] = []

    def fit(candidate: Recipe, *_: object) -> tuple[Encoder, Encoder]:
        fitted.append(candidate.method)
        return same

    def scores(*given: Tensor) -> Tensor:
        hidden = given[3][:, 0]
        noise = torch.where(hidden % 2 == 0, 0.2, -0.2)  # a lead of 0.01 on average, now above and now below
        return 0.5 + (torch.full((len(hidden),), gain) + noise if fitted[-1] == "cca" else torch.zeros(len(hidden)))

    monkeypatch.setattr(auto, "partner_scores", scores)
    gain = 0.01
    kept = choose(recipe, left, right, pairs, fit)
    assert kept.recipe.method == "set-clip-plus"
    assert kept.margin is not None
    assert kept.margin[0] == pytest.approx(-0.01, rel=1e-4)
    assert "the default, since cca leads it by 0.010 only, with a standard error of 0.026" in kept.summary()
    gain = 0.1
    taken = choose(recipe, left, right, pairs, fit)
    assert taken.recipe.method == "cca"
    assert "cca, by 0.100 ± 0.026 over set-clip-plus" in taken.summary()


@pytest.mark.parametrize(
    "error",
    [
        SetClipError("cannot be fitted", fix=""),
        torch.linalg.LinAlgError("the algorithm failed to converge"),
        np.linalg.LinAlgError("Singular matrix"),
    ],
)
@pytest.mark.parametrize("fold", [0, 4])
def test_auto_leaves_out_what_cannot_be_fitted(recipe: Recipe, error: Exception, fold: int) -> None:
    left, right = pools()
    pairs = torch.arange(60).repeat(2, 1).T
    calls: dict[str, int] = {}

    def fit(candidate: Recipe, x: Tensor, y: Tensor, known: Tensor) -> tuple[Encoder, Encoder]:
        number = calls[candidate.method] = calls.get(candidate.method, -1) + 1
        if candidate.method == "cca" and number == fold:
            raise error
        return fit_closed_form("ridge", x, y, known)

    choice = choose(recipe, left, right, pairs, fit)
    assert choice.recipe.method == "set-clip-plus"
    assert set(choice.scores) == set(CANDIDATES) - {"cca"}
    reason = choice.as_json()["left_out"]["cca"]
    assert reason == getattr(error, "problem", f"cannot be fitted ({error})")
    assert choice.summary().splitlines()[1:] == [f"auto: cca is left out: {reason}"]


@pytest.mark.parametrize("fitted", ["ridge", "set-clip-plus", ""])
def test_auto_takes_the_only_candidate_that_can_be_fitted(recipe: Recipe, fitted: str) -> None:
    left, right = pools()

    def fit(candidate: Recipe, x: Tensor, y: Tensor, known: Tensor) -> tuple[Encoder, Encoder]:
        if candidate.method != fitted:
            raise SetClipError("cannot be fitted", fix="")
        return fit_closed_form("ridge", x, y, known)

    choice = choose(recipe, left, right, torch.arange(60).repeat(2, 1).T, fit)
    assert choice.recipe.method == (fitted or "set-clip-plus")
    assert set(choice.left_out) == set(CANDIDATES) - {fitted}
    assert ("the only candidate" if fitted else "no candidate could be fitted") in choice.summary()


def test_auto_leaves_out_methods_that_the_recipe_cannot_have(recipe: Recipe) -> None:
    left, right = pools()
    tuned = recipe.model_dump(exclude_none=True)
    tuned["towers"]["image"]["trainable"] = "full"

    def fit(candidate: Recipe, x: Tensor, y: Tensor, known: Tensor) -> tuple[Encoder, Encoder]:
        return fit_closed_form("ridge", x, y, known)

    choice = choose(Recipe.model_validate(tuned), left, right, torch.arange(60).repeat(2, 1).T, fit)
    assert choice.recipe.method == "set-clip-plus"
    assert "all towers have to be frozen" in choice.left_out["cca"]


def test_auto_goes_on_where_the_items_of_the_pairs_do_not_differ(recipe: Recipe) -> None:
    """60 pairs of different items whose features are the same on the left."""
    left, right = pools()
    left = torch.cat([left, left[:1].expand(60, -1)])
    pairs = torch.stack([torch.arange(len(left) - 60, len(left)), torch.arange(60)], dim=1)

    def fit(candidate: Recipe, x: Tensor, y: Tensor, known: Tensor) -> tuple[Encoder, Encoder]:
        if candidate.method == "set-clip-plus":
            return LinearMap(torch.eye(12)[:, :4]), LinearMap(torch.eye(9)[:, :4])
        return fit_closed_form(candidate.method, x, y, known)

    choice = choose(recipe, left, right, pairs, fit)
    assert "cca" in choice.left_out
    assert "get an embedding that is zero" in choice.left_out["cca"]
    assert "set-clip-plus" in choice.scores


def test_pairs_that_share_an_item_are_held_out_together() -> None:
    pairs = torch.tensor([[image, 5 * image + caption] for image in range(20) for caption in range(5)])
    fold = folds(pairs, seed=0, items=torch.arange(len(pairs))).reshape(20, 5)
    assert (fold == fold[:, :1]).all()
    assert torch.bincount(fold[:, 0]).tolist() == [4] * 5
    chain = torch.tensor([[0, 0], [0, 1], [1, 1], [7, 9]])
    assert len(set(folds(chain, seed=0, items=torch.arange(4))[:3].tolist())) == 1


def test_pairs_of_one_item_are_held_out_together_and_other_rows_of_it_are_right_answers() -> None:
    pairs = torch.arange(60).repeat(2, 1).T
    items = torch.arange(60) // 3  # no row is in two pairs: their captions have one group
    fold = folds(pairs, 0, items).reshape(20, 3)
    assert (fold == fold[:, :1]).all()
    left, same, none = torch.eye(6), LinearMap(torch.eye(6)), pairs[:0]
    pairs = torch.stack([torch.arange(6), torch.arange(6) ^ 1], dim=1)  # each row's partner is the row beside its copy
    wrong = partner_scores((same, same), left, left, pairs, none, torch.arange(6))
    right = partner_scores((same, same), left, left, pairs, none, torch.arange(6) // 2)
    assert float(right.min()) > float(wrong.max())


def test_auto_counts_items_and_measures_its_lead_over_items(recipe: Recipe) -> None:
    left, right = pools()
    pairs = torch.arange(60).repeat(2, 1).T
    few = choose(recipe, left, right, pairs, _never, items=torch.arange(60) // 2)
    assert "auto: set-clip-plus, because 30 items with 60 pairs are too few" in few.summary()

    def fit(candidate: Recipe, x: Tensor, y: Tensor, known: Tensor) -> tuple[Encoder, Encoder]:
        return fit_closed_form("ridge" if candidate.method == "ridge" else "asif", x, y, known)

    single = choose(recipe, left, right, pairs, fit)
    doubled = choose(recipe, left, right, pairs.repeat(2, 1), fit, items=torch.arange(60).repeat(2))
    assert (doubled.pairs, doubled.items) == (120, 60)
    assert single.margin is not None
    assert doubled.margin is not None
    assert doubled.margin[1] == pytest.approx(single.margin[1], rel=0.2)  # a pair given twice is no second measurement


def test_auto_takes_the_default_when_all_pairs_share_an_item(recipe: Recipe) -> None:
    left, right = pools()
    pairs = torch.stack([torch.zeros(60, dtype=torch.int64), torch.arange(60)], dim=1)
    assert choose(recipe, left, right, pairs, _never).recipe.method == "set-clip-plus"


def test_partner_scores_are_one_for_the_nearest_and_small_for_the_farthest() -> None:
    left = torch.eye(6)
    same = LinearMap(torch.eye(6))
    pairs = torch.arange(6).repeat(2, 1).T
    none = torch.zeros(0, 2, dtype=torch.int64)
    found = partner_scores((same, same), left, left, pairs, none, pairs[:, 0])
    assert float(found.min()) > 0.75  # itself among the gallery ties with itself and counts half
    opposite = partner_scores((same, LinearMap(-torch.eye(6))), left, left, pairs, none, pairs[:, 0])
    assert float(opposite.max()) < 0.1


def test_rows_that_a_method_was_fitted_to_are_no_gallery_for_partners() -> None:
    left = torch.cat([torch.eye(3), torch.eye(3)])  # three known items, and three held out that look the same
    same = LinearMap(torch.eye(3))
    known, hidden = torch.arange(3).repeat(2, 1).T, torch.arange(3, 6).repeat(2, 1).T
    alone = partner_scores((same, same), left[3:], left[3:], known, known[:0], known[:, 0])
    assert torch.equal(partner_scores((same, same), left, left, hidden, known, hidden[:, 0]), alone)


def _never(*_: object) -> tuple[Encoder, Encoder]:
    raise AssertionError("nothing is fitted where there is nothing to compare")
