"""The method that ``auto`` takes for a goal, and the pairs that are held out to find the goal."""

from __future__ import annotations

import pytest
import torch
from worlds import linear_world, pools

from setclip_cli.encoders import LinearMap
from setclip_cli.errors import SetClipError
from setclip_cli.methods import held_out as held
from setclip_cli.methods.auto import choose
from setclip_cli.methods.held_out import FOLDS, LEAST_ITEMS, folds, held_out, means_of_items, partner_scores
from setclip_cli.recipe.presets import GOAL_METHODS
from setclip_cli.recipe.recipe import Recipe, RecipeError
from setclip_cli.training.fit import fit

TWO = [(row, row) for row in range(10)]
TEN = list(range(10))


@pytest.mark.parametrize(
    ("labelled", "items", "goal", "reason"),
    [
        (True, 10, "kind", "both sides have labels"),
        (False, 10, "partner", "no labels on both sides"),
        (True, 5, "partner", "several partners of their own"),
        (False, 5, "partner", "several partners of their own"),
        (True, 9, "kind", "both sides have labels, and most known items have one partner"),  # two got one caption
        (False, 9, "partner", "no labels on both sides"),
        (True, 7, "kind", "most known items have one partner"),
        (True, 6, "partner", "most known items have several partners"),
    ],
)
def test_the_goal_is_what_the_data_can_answer(
    recipe: Recipe, labelled: bool, items: int, goal: str, reason: str
) -> None:
    choice = choose(recipe, TWO, [row % items for row in TEN], labelled=labelled)
    assert (choice.goal, choice.recipe.method) == (goal, GOAL_METHODS[goal])
    assert reason in choice.summary()
    assert choice.as_json() == {"method": choice.recipe.method, "goal": goal, "reason": choice.reason}


def test_the_goal_of_a_recipe_stands(recipe: Recipe) -> None:
    kind = choose(recipe.with_settings(goal="kind"), TWO, [row // 2 for row in TEN])
    assert kind.recipe.method == "set-clip-plus"
    partner = choose(recipe.with_settings(goal="partner"), TWO, TEN, labelled=True)
    assert partner.recipe.method == "transport"
    assert partner.recipe.projection.pca == 384  # the method's own preset


def test_a_goal_that_the_pairs_cannot_answer_is_refused(recipe: Recipe) -> None:
    with pytest.raises(SetClipError, match="'transport': learns from known pairs alone and needs 2 or more"):
        choose(recipe.with_settings(goal="partner"), TWO[:1], [0])
    with pytest.raises(RecipeError, match="goal = 'partner': with pairs = 0 nothing says which item is whose partner"):
        recipe.with_settings(goal="partner", pairs=0)
    with pytest.raises(RecipeError, match="goal = 'kind': method 'cca' is chosen already"):
        recipe.with_settings(goal="kind", method="cca")
    tuned = recipe.model_dump(exclude_none=True) | {"goal": "partner"}
    tuned["towers"]["image"]["trainable"] = "full"
    with pytest.raises(RecipeError, match=r"goal = 'partner': .* towers.image is tuned"):
        Recipe.model_validate(tuned)


@pytest.mark.parametrize("pairs", [[], TWO[:1], [(0, row) for row in TEN]])
def test_pairs_that_cannot_tell_partners_apart_leave_kinds(recipe: Recipe, pairs: list[tuple[int, int]]) -> None:
    choice = choose(recipe, pairs, TEN[: len(pairs)])
    assert (choice.recipe.method, choice.goal) == ("set-clip-plus", "kind")
    assert "cannot tell what makes a partner" in choice.summary()


def test_tuned_towers_are_trained(recipe: Recipe) -> None:
    tuned = recipe.model_dump(exclude_none=True)
    tuned["towers"]["image"]["trainable"] = "full"
    assert choose(Recipe.model_validate(tuned), TWO, TEN).recipe.method == "set-clip-plus"


def test_the_default_fits_what_it_chose(recipe: Recipe) -> None:
    x, y, pairs = pools(*linear_world(), known=60)
    fitted = fit(recipe, x, y, pairs)
    named = fit(recipe.with_settings(method="transport"), x, y, pairs)
    assert fitted.method == "transport"
    assert fitted.findings == named.findings
    assert torch.equal(fitted.encoders[0](x), named.encoders[0](x))


def test_pairs_that_share_an_item_are_held_out_together() -> None:
    pairs = torch.tensor([[image, 5 * image + caption] for image in range(20) for caption in range(5)])
    fold = folds(pairs, seed=0, items=torch.arange(len(pairs))).reshape(20, 5)
    assert (fold == fold[:, :1]).all()
    assert torch.bincount(fold[:, 0]).tolist() == [4] * 5
    chain = torch.tensor([[0, 0], [0, 1], [1, 1], [7, 9]])
    assert len(set(folds(chain, seed=0, items=torch.arange(4))[:3].tolist())) == 1


def test_folds_end_when_enough_items_were_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "ENOUGH_ITEMS", 40)
    pairs = torch.arange(100).repeat(2, 1).T
    found = list(held_out(pairs, 0, torch.arange(100)))
    assert [int(fold.hidden.sum()) for fold in found] == [20, 20]
    assert not bool((found[0].hidden & found[1].hidden).any())
    assert all(len(fold.known) == 80 for fold in found)
    assert len(list(held_out(pairs[:45], 0, torch.arange(45)))) == FOLDS
    assert not list(held_out(pairs[: LEAST_ITEMS - 1], 0, torch.arange(LEAST_ITEMS - 1)))
    shared = torch.stack([torch.zeros(60, dtype=torch.int64), torch.arange(60)], dim=1)
    assert not list(held_out(shared, 0, torch.arange(60)))


def test_means_are_over_items_that_were_held_out() -> None:
    scores = torch.tensor([0.2, 0.4, torch.nan, 0.9, torch.nan])
    assert means_of_items(scores, torch.tensor([7, 7, 7, 3, 5])).tolist() == pytest.approx([0.9, 0.3])


ONE = torch.ones(1, 1)


def test_pairs_of_one_item_are_held_out_together_and_other_rows_of_it_are_right_answers() -> None:
    pairs = torch.arange(60).repeat(2, 1).T
    items = torch.arange(60) // 3  # no row is in two pairs: their captions have one group
    fold = folds(pairs, 0, items).reshape(20, 3)
    assert (fold == fold[:, :1]).all()
    left, same, none = torch.eye(6), LinearMap(torch.eye(6)), pairs[:0]
    pairs = torch.stack([torch.arange(6), torch.arange(6) ^ 1], dim=1)  # each row's partner is the row beside its copy
    wrong = partner_scores([(same, same)], ONE, left, left, pairs, none, torch.arange(6))
    right = partner_scores([(same, same)], ONE, left, left, pairs, none, torch.arange(6) // 2)
    assert float(right.min()) > float(wrong.max())


def test_partner_scores_are_one_for_the_nearest_and_zero_for_the_farthest() -> None:
    left = torch.eye(6)
    same = LinearMap(torch.eye(6))
    pairs = torch.arange(6).repeat(2, 1).T
    none = torch.zeros(0, 2, dtype=torch.int64)
    found = partner_scores([(same, same)], ONE, left, left, pairs, none, pairs[:, 0])
    assert found.tolist() == [[1.0] * 6]
    opposite = partner_scores([(same, LinearMap(-torch.eye(6)))], ONE, left, left, pairs, none, pairs[:, 0])
    assert float(opposite.max()) < 0.1


def test_partner_scores_of_weighted_parts_are_those_of_the_weighted_cosine() -> None:
    draw = torch.Generator().manual_seed(0)
    left, right = torch.randn(50, 8, generator=draw), torch.randn(50, 7, generator=draw)
    parts = [
        (LinearMap(torch.randn(8, 4, generator=draw)), LinearMap(torch.randn(7, 4, generator=draw))) for _ in range(2)
    ]
    pairs, items = torch.arange(20).repeat(2, 1).T, torch.arange(20)
    known = torch.arange(20, 30).repeat(2, 1).T
    found = partner_scores(parts, torch.tensor([[1.0, 0.0], [0.3, 0.7]]), left, right, pairs, known, items)
    cosines = [a(left) @ b(right).T for a, b in parts]
    free = torch.tensor([row for row in range(50) if not 20 <= row < 30])
    for weight, scores in zip(((1.0, 0.0), (0.3, 0.7)), found, strict=True):
        mixed = weight[0] * cosines[0] + weight[1] * cosines[1]
        for row in range(20):
            ahead = [(side[row, free] > side[row, row]).sum() for side in (mixed, mixed.T)]
            expected = sum(1 - torch.log1p(count) / torch.log1p(torch.tensor(40.0)) for count in ahead) / 2
            assert float(scores[row]) == pytest.approx(float(expected), abs=1e-5)


def test_rows_that_a_method_was_fitted_to_are_no_gallery_for_partners() -> None:
    left = torch.cat([torch.eye(3), torch.eye(3)])  # three known items, and three held out that look the same
    same = LinearMap(torch.eye(3))
    known, hidden = torch.arange(3).repeat(2, 1).T, torch.arange(3, 6).repeat(2, 1).T
    alone = partner_scores([(same, same)], ONE, left[3:], left[3:], known, known[:0], known[:, 0])
    assert torch.equal(partner_scores([(same, same)], ONE, left, left, hidden, known, hidden[:, 0]), alone)
