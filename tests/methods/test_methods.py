"""Baselines, extra encoders, matching without pairs and the choice among methods, on pools whose truth is known."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from setclip_cli.encoders import (
    Composed,
    Concatenated,
    Encoder,
    FeatureTransform,
    LinearMap,
    MeanShift,
    ProjectionHead,
    encoder_from_description,
    graph,
)
from setclip_cli.errors import SetClipError, UsageError
from setclip_cli.methods import auto, closed_form, extra_encoders, no_pairs
from setclip_cli.methods.auto import CANDIDATES, Choice, choose
from setclip_cli.methods.closed_form import fit_closed_form
from setclip_cli.methods.extra_encoders import FULL_SHARE_AT_PAIRS, with_extra_encoders, without_extra_encoders
from setclip_cli.methods.held_out import folds, partner_scores
from setclip_cli.recipe.recipe import Recipe, load_recipe
from setclip_cli.training.objective import build_objective
from setclip_cli.vectors import unusable_rows


def pools(clusters: int = 4, left_rows: int = 80, right_rows: int = 120, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two pools of the same clusters seen through different linear maps; row i is of cluster i % clusters."""
    draw = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(clusters, 8, generator=draw)
    maps = (
        torch.linalg.qr(torch.randn(12, 8, generator=draw))[0].T,
        torch.linalg.qr(torch.randn(9, 8, generator=draw))[0].T,
    )
    left, right = (
        (centres[torch.arange(rows) % clusters] + torch.randn(rows, 8, generator=draw)) @ mapping
        for rows, mapping in zip((left_rows, right_rows), maps, strict=True)
    )
    return left, right


def accuracy(encoders: tuple[Encoder, Encoder], left: Tensor, right: Tensor, clusters: int = 4) -> float:
    with torch.no_grad():
        nearest = (encoders[0](left) @ encoders[1](right).T).argmax(1) % clusters
    return float((nearest == torch.arange(len(left)) % clusters).float().mean())


@pytest.mark.parametrize(("pairs", "weight"), [(0, 0.3), (7, 0.3), (210, 0.3), (350, 0.5), (700, 1.0), (5000, 1.0)])
def test_pairs_weigh_in_proportion_to_their_number_where_the_recipe_says_so(
    recipe: Recipe, pairs: int, weight: float
) -> None:
    def weight_of(recipe: Recipe) -> float:
        return build_objective(recipe.objective, pairs=pairs).terms["clip"].weight

    few_weigh_less = recipe.with_settings(method="set-clip-plus")
    assert weight_of(few_weigh_less) == pytest.approx(weight)
    assert weight_of(few_weigh_less.with_settings(method="clip")) == 1.0


@pytest.mark.parametrize("method", closed_form.METHODS)
def test_every_baseline_aligns_clusters_and_survives_a_round_trip(method: str) -> None:
    left, right = pools()
    pairs = torch.arange(16).repeat(2, 1).T
    encoders = fit_closed_form(method, left, right, pairs)
    assert accuracy(encoders, left, right) > 0.8
    for encoder, pool in zip(encoders, (left, right), strict=True):
        loaded = encoder_from_description(encoder.describe())
        loaded.load_state_dict(encoder.state_dict())
        assert torch.equal(loaded(pool), encoder(pool))


@pytest.mark.parametrize("method", closed_form.METHODS)
def test_two_pairs_are_enough_and_fewer_are_refused(method: str) -> None:
    left, right = pools()
    two = fit_closed_form(method, left, right, torch.tensor([[0, 0], [1, 1]]))
    for encoder, pool in zip(two, (left, right), strict=True):
        assert not unusable_rows(encoder(pool).numpy())
    for few in ([[0, 0]], [[0, 0], [0, 0]], [[0, 0], [0, 1]], [[0, 1], [1, 1]]):  # the last three: one item on a side
        with pytest.raises(UsageError, match=f"method '{method}': .* needs 2 or more of different items"):
            fit_closed_form(method, left, right, torch.tensor(few))


def test_pairs_of_items_that_do_not_differ_are_refused_by_a_map_that_compares_them() -> None:
    left, right = pools()
    left[:3], right[:3] = left[0], right[0]  # the pools differ and the paired items do not
    with pytest.raises(SetClipError, match=r"method 'cca' on 3 pairs: .* 80 get an embedding that is zero") as caught:
        fit_closed_form("cca", left, right, torch.tensor([[0, 0], [1, 1], [2, 2]]))
    assert "of items whose features differ" in caught.value.fix


def test_procrustes_says_nothing_of_axes_that_no_pair_tells_of() -> None:
    left, right = pools()
    pairs = torch.arange(4).repeat(2, 1).T
    one = fit_closed_form("procrustes", left, right, pairs)
    other = fit_closed_form("procrustes", left, right, pairs.flip(0))  # rounds elsewhere, and means the same
    cosines = [a(left) @ b(right).T for a, b in (one, other)]
    assert tuple(one[0](left).shape) == (len(left), 4)
    torch.testing.assert_close(cosines[0], cosines[1], atol=1e-5, rtol=0)


def test_procrustes_recovers_a_rotation() -> None:
    left = F.normalize(torch.randn(60, 5, generator=torch.Generator().manual_seed(3)), dim=1)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(4)))[0]
    right = left @ rotation
    a, b = fit_closed_form("procrustes", left, right, torch.arange(30).repeat(2, 1).T)
    torch.testing.assert_close(a(left), b(right), atol=1e-4, rtol=0)


def test_each_coordinate_of_asif_belongs_to_one_pair() -> None:
    left, right = pools()
    pairs = torch.stack([torch.arange(16), torch.arange(16) + 40], dim=1)
    for encoder, pool, rows in zip(fit_closed_form("asif", left, right, pairs), (left, right), pairs.T, strict=True):
        assert torch.equal(encoder(pool[rows]).argmax(1), torch.arange(16))


def test_ridge_solves_the_regularised_normal_equations() -> None:
    left, right = pools()
    pairs = torch.arange(30).repeat(2, 1).T
    x, y = (FeatureTransform.fit(pool, 64)(pool)[:30].double() for pool in (left, right))
    ridge = 0.1 * float((x**2).sum()) / x.shape[1]  # a tenth of the mean eigenvalue of x'x
    expected = torch.linalg.solve(x.T @ x + ridge * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)
    found = fit_closed_form("ridge", left, right, pairs)
    torch.testing.assert_close(found[0](left[:30]).double(), F.normalize(x @ expected, dim=1), atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1](right[:30]).double(), F.normalize(y, dim=1), atol=1e-5, rtol=0)


def test_cca_maximises_the_regularised_correlation_and_weighs_each_direction_by_it() -> None:
    left, right = pools()
    pairs = torch.arange(40).repeat(2, 1).T
    x, y = ((rows := FeatureTransform.fit(pool, 64)(pool)[:40].double()) - rows.mean(0) for pool in (left, right))
    a, b = (side.T @ side / 40 for side in (x, y))
    a, b = (matrix + float(matrix.diagonal().mean()) * torch.eye(len(matrix), dtype=x.dtype) for matrix in (a, b))
    cross = x.T @ y / 40
    # the squared correlations are eigenvalues of A^-1 C B^-1 C', their vectors the directions of the left side
    values, vectors = np.linalg.eig((torch.linalg.solve(a, cross) @ torch.linalg.solve(b, cross.T)).numpy())
    order = np.argsort(-values.real)[: min(x.shape[1], y.shape[1])]
    directions = torch.from_numpy(vectors.real[:, order])
    directions = directions / (directions * (a @ directions)).sum(0).sqrt()
    expected = F.normalize(x @ (directions * torch.from_numpy(values.real[order]).clamp_min(0).sqrt()), dim=1)
    found = fit_closed_form("cca", left, right, pairs)[0](left[:40]).double()
    torch.testing.assert_close(found @ found.T, expected @ expected.T, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("method", "pairs", "words"),
    [
        ("ridgy", torch.tensor([[0, 0]]), "did you mean 'ridge'"),
        ("cca", torch.empty(0, 2, dtype=torch.int64), "there are none"),
        ("cca", torch.tensor([[0, 0], [0, 120]]), r"1 of 2 name rows that are not there, first \[0, 120\]"),
        ("asif", torch.tensor([[-1, 0]]), r"first \[-1, 0\]"),
    ],
)
def test_what_cannot_be_fitted_is_said(method: str, pairs: Tensor, words: str) -> None:
    with pytest.raises(SetClipError, match=words):
        fit_closed_form(method, *pools(), pairs)


def trained_on(left: Tensor, right: Tensor) -> tuple[tuple[Composed, Composed], tuple[Tensor, Tensor]]:
    """Untrained heads behind their transforms, and the pools transformed."""
    transforms = FeatureTransform.fit(left, 6), FeatureTransform.fit(right, 6)
    heads = tuple(Composed(transform, ProjectionHead(6, 5)) for transform in transforms)
    return (heads[0], heads[1]), (transforms[0](left), transforms[1](right))


def test_the_linear_map_gains_with_the_pairs_up_to_enough_and_the_diffused_one_loses_beyond() -> None:
    left, right = pools()
    trained, transformed = trained_on(left, right)
    for count, factor, beyond in ((7, 7 / FULL_SHARE_AT_PAIRS, 1.0), (FULL_SHARE_AT_PAIRS, 1.0, 1.0), (280, 1.0, 0.5)):
        pairs = torch.arange(count).repeat(2, 1).T % len(left)
        joined = with_extra_encoders(trained, transformed, pairs, linear=0.2, diffused=0.5, shifted=0, seed=0)
        wanted = torch.tensor([1.0, 0.2 * factor, 0.5 * beyond * (1 + 0.2 * factor)])
        for encoder in joined:
            assert isinstance(encoder, Concatenated)
            torch.testing.assert_close(encoder.shares, wanted / wanted.sum())
    mapped = with_extra_encoders(trained, transformed, pairs, linear=9, diffused=0.5, shifted=0, seed=0)
    assert accuracy(mapped, left, right) > 0.8
    assert without_extra_encoders(joined[0]) is trained[0]
    assert without_extra_encoders(trained[0]) is trained[0]
    assert with_extra_encoders(trained, transformed, pairs, linear=0, diffused=0, shifted=0, seed=0) is trained
    assert with_extra_encoders(trained, transformed, pairs[:0], linear=1, diffused=0, shifted=0, seed=0) is trained


def test_the_diffused_part_is_the_rest_averaged_along_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = pools()
    trained, transformed = trained_on(left, right)
    pairs = torch.arange(10).repeat(2, 1).T
    without = with_extra_encoders(trained, transformed, pairs, linear=0.3, diffused=0, shifted=0, seed=0)
    joined = with_extra_encoders(trained, transformed, pairs, linear=0.3, diffused=2.0, shifted=0, seed=0)
    for encoder, plain, pool, rows in zip(joined, without, (left, right), transformed, strict=True):
        assert isinstance(encoder, Concatenated)
        with torch.no_grad():
            mixed = graph.smooth(rows, plain(pool))
            own = encoder.encoders[2]
            torch.testing.assert_close(
                own.encoder.coordinates(),  # type: ignore[union-attr, operator]
                F.normalize(mixed - mixed.mean(0), dim=1),
                atol=1e-4,
                rtol=1e-3,
            )
            cosines = (plain(pool) @ plain(pool).T + 2 * own(pool) @ own(pool).T) / 3
            torch.testing.assert_close(encoder(pool) @ encoder(pool).T, cosines, atol=1e-5, rtol=1e-4)
    monkeypatch.setattr(extra_encoders, "POOL_ROWS", 50)
    few = [
        with_extra_encoders(trained, transformed, pairs, linear=0, diffused=1, shifted=0, seed=seed)
        for seed in (0, 0, 1)
    ]
    assert few[0][0].describe()["encoders"][1]["encoder"]["pool"] == 50
    found = [one[0](left) for one in few]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_the_mean_shift_goes_by_some_rows_of_both_pools_as_all_else_embeds_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left, right = pools()
    trained, transformed = trained_on(left, right)
    pairs = torch.arange(10).repeat(2, 1).T
    monkeypatch.setattr(extra_encoders, "SHIFT_ROWS", 50)
    for diffused in (0.0, 0.5):
        plain, first, again, other = (
            with_extra_encoders(trained, transformed, pairs, linear=0, diffused=diffused, shifted=share, seed=seed)
            for share, seed in ((0, 0), (0.5, 0), (0.5, 0), (0.5, 1))
        )
        for side, pool in enumerate((left, right)):
            found = first[side]
            assert isinstance(found, MeanShift)
            assert without_extra_encoders(found) is trained[side]
            with torch.no_grad():
                embedded = plain[side](pool)
            known = (found.left, found.right)[side]
            assert len(known) == 50
            assert float(torch.cdist(known, embedded).min(1).values.max()) < 1e-3  # each is a row of the pool
            assert torch.equal(found(pool), again[side](pool))
            assert not torch.equal(known, (other[side].left, other[side].right)[side])  # type: ignore[arg-type]
        assert torch.equal(first[0].left, first[1].left)  # type: ignore[arg-type]


def test_without_pairs_clusters_are_matched_by_their_geometry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten clusters whose mutual distances are all different: the consensus finds most of them."""
    monkeypatch.setattr(no_pairs, "CLUSTERS", (8, 10, 12))
    monkeypatch.setattr(no_pairs, "DRAWS", 2)
    left, right = pools(clusters=10, left_rows=300, right_rows=400, seed=5)
    found = no_pairs.align_without_pairs(left, right, seed=0)
    assert accuracy(found.encoders, left, right, 10) > 0.5  # chance is 0.1
    assert 0 < found.agreement <= 1
    assert found.kept == found.candidates == 18
    for encoder in found.encoders:  # each map compares differences from the mean of its pool
        assert all(float(part.offset.min()) > 0 for part in encoder.encoder.encoders)  # type: ignore[union-attr]
    again = no_pairs.align_without_pairs(left, right, seed=0)
    assert torch.equal(again.encoders[0](left), found.encoders[0](left))
    measured, assumed = found.warnings()
    assert f"agree by {found.agreement:.2f}" in measured
    assert "same classes in similar shares" in assumed


def test_the_matchings_that_agree_most_with_all_others_make_the_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(no_pairs, "CLUSTERS", (8,))
    monkeypatch.setattr(no_pairs, "DRAWS", 3)
    monkeypatch.setattr(no_pairs, "ENCODED", 4)
    left, right = pools(clusters=8, left_rows=200, right_rows=200, seed=5)
    seen: list[Tensor] = []
    agreements = no_pairs._agreements

    def spied(candidates: list[no_pairs._Matching], x: Tensor, y: Tensor) -> Tensor:
        rows = np.stack([(each.left(x) @ each.right(y).T).flatten().numpy() for each in candidates])
        correlations = np.corrcoef(rows.astype(np.float64))
        np.fill_diagonal(correlations, np.nan)
        seen.append(agreements(candidates, x, y))
        np.testing.assert_allclose(seen[0].numpy(), np.nanmean(correlations, axis=1), atol=1e-4)
        return seen[0]

    monkeypatch.setattr(no_pairs, "_agreements", spied)
    found = no_pairs.align_without_pairs(left, right, seed=0)
    best = seen[0].sort(descending=True).values[:4]
    assert (found.candidates, found.kept) == (9, 4)
    assert found.agreement == pytest.approx(float(seen[0].mean()))
    shares = found.encoders[0].encoder.shares  # type: ignore[union-attr]
    torch.testing.assert_close(shares.double(), best**4 / (best**4).sum(), rtol=1e-4, atol=1e-5)


def test_a_pool_too_small_to_match_without_pairs_is_refused() -> None:
    with pytest.raises(SetClipError, match="12 and 200 rows are too small"):
        no_pairs.align_without_pairs(*pools(left_rows=12, right_rows=200), seed=0)


def test_the_assignment_search_finds_the_best_of_all_orders() -> None:
    random = np.random.default_rng(0)
    for _ in range(5):
        a, b = (matrix + matrix.T for matrix in random.normal(size=(2, 6, 6)))
        np.fill_diagonal(a, 0)
        np.fill_diagonal(b, 0)
        value = {order: (a * b[np.ix_(order, order)]).sum() for order in itertools.permutations(range(6))}
        found = no_pairs.match(a, b, random, starts=25, kept=1)[0]
        assert value[tuple(found)] == pytest.approx(max(value.values()))


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    path = tmp_path / "recipe.toml"
    path.write_text(
        """
        schema_version = 2
        method = "auto"
        towers.image.backbone = "timm:tf_efficientnet_lite0"
        towers.caption.backbone = "sentence-transformers:all-MiniLM-L6-v2"
        """
    )
    return load_recipe(path)


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
