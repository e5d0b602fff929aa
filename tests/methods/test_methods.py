"""Baselines, extra encoders and matching without pairs, on pools whose truth is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from two_pools import pools

from setclip_cli.encoders import (
    Composed,
    Concatenated,
    Encoder,
    FeatureTransform,
    MeanShift,
    ProjectionHead,
    encoder_from_description,
    graph,
)
from setclip_cli.errors import SetClipError, UsageError
from setclip_cli.methods import closed_form, extra_encoders, no_pairs
from setclip_cli.methods.closed_form import fit_closed_form
from setclip_cli.methods.extra_encoders import FULL_SHARE_AT_PAIRS, with_extra_encoders, without_extra_encoders
from setclip_cli.recipe.recipe import Recipe
from setclip_cli.training.objective import build_objective
from setclip_cli.vectors import unusable_rows


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
