"""The rivals: their formulas computed in a second way, and what they find where the truth is known."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from rivals import RIVALS, SETTINGS, Embeds, csa, mini_vec2vec, relative, sotalign, structure
from rivals_trained import log_plan, sigmoid_loss, structure_term, transport_divergence
from rivals_unpaired import procrustes
from scipy.spatial.distance import jensenshannon
from torch import Tensor

from setclip_cli.losses.sinkhorn import sinkhorn


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rotation(size: int, seed: int) -> Tensor:
    basis: Tensor = torch.linalg.qr(normal(size, size, seed=seed))[0]
    return basis


def two_views(rows: int, *, factors: int = 12, noise: float = 0.5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two modalities that show the same factors of each row, each with noise of its own. Row i of both is a pair."""
    shared = normal(rows, factors, seed=seed) * torch.linspace(2, 0.5, factors)
    left = torch.cat([shared, noise * normal(rows, 12, seed=seed + 1)], dim=1) @ rotation(factors + 12, seed + 2)
    right = torch.cat([shared, noise * normal(rows, 4, seed=seed + 3)], dim=1) @ rotation(factors + 4, seed + 4)
    return left, right


def same_rows(count: int) -> Tensor:
    return torch.arange(count).repeat(2, 1).T


def recall_at_1(embeds: Embeds, left: Tensor, right: Tensor) -> float:
    return float(((embeds[0](left) @ embeds[1](right).T).argmax(1) == torch.arange(len(left))).float().mean())


def scores(embeds: Embeds, left: Tensor, right: Tensor) -> Tensor:
    return embeds[0](left) @ embeds[1](right).T


# every rival

QUICK: dict[str, Any] = {"steps": 60, "lr": 1e-2, "unpaired": 64}
SMALL: dict[str, dict[str, Any]] = {
    "sotalign": {"steps": 3, "unpaired": 16, "width": 8},
    "structure": {"steps": 3, "unpaired": 16, "width": 8},
    "csa": {},
    "relative": {},
    "mini_vec2vec": {"runs": 2, "starts": 2, "clusters": 5, "refinements": 2},
}


@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_gives_unit_embeddings_of_one_width_and_the_same_ones_for_the_same_seed(name: str) -> None:
    left, right = two_views(90)
    (a, b), (again, _) = (RIVALS[name](left, right, same_rows(30), seed=3, **SMALL[name]) for _ in range(2))
    for embeddings in (a(left), b(right)):
        assert torch.allclose(embeddings.norm(dim=1), torch.ones(90), atol=1e-5)
        assert not embeddings.requires_grad
    assert a(left).shape[1] == b(right).shape[1]
    assert torch.equal(a(left), again(left))


@pytest.mark.parametrize("name", RIVALS)
def test_every_setting_to_try_is_one_of_the_rival_and_the_first_is_its_default(name: str) -> None:
    parameters = inspect.signature(RIVALS[name]).parameters
    for settings in SETTINGS[name]:
        assert settings.keys() <= parameters.keys()
    assert all(parameters[key].default == value for key, value in SETTINGS[name][0].items())


@pytest.mark.parametrize("name", [name for name in RIVALS if name != "mini_vec2vec"])
def test_a_rival_that_learns_from_pairs_refuses_to_go_without(name: str) -> None:
    left, right = two_views(20)
    with pytest.raises(ValueError, match="needs 2 or more; got 0"):
        RIVALS[name](left, right, torch.empty(0, 2, dtype=torch.int64), seed=0)


# canonical similarity analysis


def test_csa_of_two_equal_sides_finds_every_partner() -> None:
    left, _ = two_views(200)
    pairs = same_rows(100)
    assert recall_at_1(csa(left, left, pairs, seed=0, directions=24), left[100:], left[100:]) == 1


@pytest.mark.parametrize(("directions", "ridge"), [(16, 0.0), (5, 0.0), (5, 0.3)])
def test_csa_is_the_weighted_cosine_of_canonical_variates(directions: int, ridge: float) -> None:
    """Variates by the generalised symmetric eigenproblem of both covariances, here; by whitening, there."""
    left, right = two_views(300)
    found = scores(
        csa(left, right, same_rows(200), seed=0, directions=directions, ridge=ridge), left[200:], right[200:]
    )

    x, y = (F.normalize(side.double(), dim=1).numpy() for side in (left, right))
    a, b = x[:200] - x[:200].mean(0), y[:200] - y[:200].mean(0)
    p, q = a.shape[1], b.shape[1]
    within = scipy.linalg.block_diag(
        *(c + ridge * np.trace(c) / len(c) * np.eye(len(c)) for c in (a.T @ a / 200, b.T @ b / 200))
    )
    across = np.zeros((p + q, p + q))
    across[:p, p:] = a.T @ b / 200
    values, vectors = scipy.linalg.eigh(across + across.T, within)
    correlations, vectors = values[::-1][:directions], math.sqrt(2) * vectors[:, ::-1][:, :directions]
    u, v = (x[200:] - x[:200].mean(0)) @ vectors[:p], (y[200:] - y[:200].mean(0)) @ vectors[p:]
    u, v = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (u, v))
    assert np.allclose(found.numpy(), u * correlations @ v.T, atol=2e-4)


def test_csa_without_a_ridge_says_nothing_where_pairs_are_fewer_than_features() -> None:
    """Why the ridge is a setting: it is then that the rival finds partners."""
    left, right = two_views(220)
    plain, ridged = (
        recall_at_1(csa(left, right, same_rows(15), seed=0, ridge=ridge), left[120:], right[120:])
        for ridge in (1e-9, 1.0)
    )
    assert plain < ridged


# relative representations


@pytest.mark.parametrize("axes", [None, 0, 5])
def test_relative_scores_do_not_change_if_either_side_is_rotated(axes: int | None) -> None:
    left, right = two_views(80)
    pairs = same_rows(30)
    straight = scores(relative(left, right, pairs, seed=0, axes=axes), left, right)
    turned_left, turned_right = left @ rotation(24, seed=8), right @ rotation(16, seed=9)
    turned = scores(relative(turned_left, turned_right, pairs, seed=0, axes=axes), turned_left, turned_right)
    assert torch.allclose(straight, turned, atol=1e-4)


@pytest.mark.parametrize("count", [30, 70])  # 70 anchors are more than the 24 + 16 features: then in a smaller basis
def test_relative_scores_are_cosines_of_cosines_to_the_anchors(count: int) -> None:
    left, right = two_views(80)
    found = scores(relative(left, right, same_rows(count), seed=0), left, right)
    for row, other in ((0, 0), (3, 75), (79, 41)):
        a, b = (
            torch.stack([F.cosine_similarity(side[chosen], anchor, dim=0) for anchor in side[:count]])
            for side, chosen in ((left, row), (right, other))
        )
        assert float(found[row, other]) == pytest.approx(float(F.cosine_similarity(a, b, dim=0)), abs=1e-5)


# SOTAlign


def test_the_sigmoid_loss_is_one_yes_or_no_for_each_two_rows() -> None:
    left, right = F.normalize(normal(4, 3, seed=0), dim=1), F.normalize(normal(4, 3, seed=1), dim=1)
    same = torch.eye(4, dtype=torch.bool)
    same[0, 2] = True
    total = 0.0
    for i in range(4):
        for j in range(4):
            logit = 7.0 * float(left[i] @ right[j]) - 2.0
            chance = 1 / (1 + math.exp(-logit))
            total -= math.log(chance if same[i, j] else 1 - chance)
    loss = sigmoid_loss(left, right, same, scale=torch.tensor(7.0), bias=torch.tensor(-2.0))
    assert float(loss) == pytest.approx(total / 4, rel=1e-5)


def test_a_transport_plan_gives_every_row_and_every_column_the_same_mass() -> None:
    plan = sinkhorn(normal(5, 8, seed=0).double() / 0.3, 400).exp()
    assert torch.allclose(plan.sum(1), torch.full((5,), 1 / 5, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(plan.sum(0), torch.full((8,), 1 / 8, dtype=torch.float64), atol=1e-9)


def test_the_transport_divergence_is_0_for_plans_that_are_equal_and_above_0_for_others() -> None:
    similarities = normal(6, 7, seed=0)
    target = sinkhorn(similarities / 0.5, 300)
    moved = similarities + normal(6, 1, seed=1) + normal(1, 7, seed=2)  # a price a row and a column moves no plan
    for other in (similarities, moved):
        assert float(transport_divergence(other, target, epsilon=0.5, sweeps=300)) == pytest.approx(0, abs=1e-5)
    assert float(transport_divergence(normal(6, 7, seed=3), target, epsilon=0.5, sweeps=300)) > 0.1


@pytest.mark.parametrize(("epsilon", "dtype"), [(0.05, torch.float32), (0.005, torch.float64)])
def test_the_plans_of_student_and_teacher_are_those_of_sinkhorn_in_log_space(
    epsilon: float, dtype: torch.dtype
) -> None:
    unit = F.normalize(normal(40, 3, seed=0), dim=1)
    cosines = unit @ F.normalize(unit[:30] + 0.1 * normal(30, 3, seed=1), dim=1).T  # nearly from -1 to 1
    expected = sinkhorn(cosines.double() / epsilon, 20)
    assert torch.allclose(log_plan(cosines.to(dtype) / epsilon, 20).double(), expected, rtol=1e-4, atol=1e-3)


def test_the_gradient_of_the_transport_divergence_is_that_of_small_differences() -> None:
    student, target = normal(4, 5, seed=0).double(), sinkhorn(normal(4, 5, seed=1).double() / 0.2, 300)

    def divergence(similarities: Tensor) -> Tensor:
        return transport_divergence(similarities, target, epsilon=0.4, sweeps=300)

    (gradient,) = torch.autograd.grad(divergence(student.requires_grad_()), student)
    for place in ((0, 0), (1, 3), (3, 4)):
        step = torch.zeros(4, 5, dtype=torch.float64)
        step[place] = 1e-5
        difference = float(divergence(student.detach() + step) - divergence(student.detach() - step)) / 2e-5
        assert float(gradient[place]) == pytest.approx(difference, rel=1e-4)


def test_unpaired_rows_bring_sotalign_more_than_the_pairs_alone() -> None:
    left, right = two_views(500)
    alone, both = (
        recall_at_1(
            sotalign(left[:300], right[:300], same_rows(20), seed=0, weight=weight, **QUICK), left[300:], right[300:]
        )
        for weight in (0.0, 3.0)
    )
    assert both > alone + 0.03


def test_items_with_equal_features_are_partners_in_the_sigmoid_loss() -> None:
    """Ten rows, each in the pool ten times: were copies no partners, 9 of 10 answers for the same two rows would be no.

    The contrastive loss of STRUCTURE has the same gradient either way.
    """
    left, right = (side[:10].repeat(10, 1) for side in two_views(30))
    embeds = sotalign(left, right, same_rows(100), seed=0, weight=0, steps=100, lr=1e-2)
    assert float(scores(embeds, left[:10], right[:10]).diagonal().mean()) > 0.6


# STRUCTURE


@pytest.mark.parametrize("levels", [1, 3])
def test_the_structure_term_is_0_for_an_isometry_and_above_for_other_heads(levels: int) -> None:
    features = normal(20, 6, seed=0)
    turned, other = features @ rotation(6, seed=1), features @ normal(6, 6, seed=2)
    assert float(structure_term(features, turned, levels=levels, temperature=0.1)) == pytest.approx(0, abs=1e-6)
    assert float(structure_term(features, other, levels=levels, temperature=0.1)) > 1e-2


def test_the_structure_term_is_the_mean_divergence_of_walks_of_one_to_l_steps() -> None:
    features, embeddings = normal(9, 5, seed=0), normal(9, 4, seed=1)
    walks = []
    for rows in (features, embeddings):
        unit = (rows / rows.norm(dim=1, keepdim=True)).double().numpy()
        centred = unit - unit.mean(0)
        logits = np.array([[a @ b / 0.2 for b in centred] for a in centred])
        walks.append(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))
    expected = 0.0
    for level in (1, 2, 3):
        before, after = (np.linalg.matrix_power(walk, level) for walk in walks)
        expected += np.mean([jensenshannon(p, q) ** 2 for p, q in zip(before, after, strict=True)]) / level / 3
    found = structure_term(features, embeddings, levels=3, temperature=0.2)
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_the_weight_of_structure_keeps_the_similarities_that_the_pairs_alone_would_lose() -> None:
    left, right = two_views(200)
    lost = []
    for weight in (0.0, 100.0):
        embeds = structure(left, right, same_rows(60), seed=0, weight=weight, steps=100, lr=3e-3)
        lost.append(float(structure_term(left[100:], embeds[0](left[100:]), levels=1, temperature=0.07)))
    assert lost[1] < 0.8 * lost[0]


@pytest.mark.parametrize("name", ["sotalign", "structure"])
def test_training_brings_the_pairs_together(name: str) -> None:
    left, right = two_views(200)
    settings = SMALL[name] | {"lr": 1e-2, "width": 32}
    before, after = (
        recall_at_1(
            RIVALS[name](left, right, same_rows(100), seed=0, **(settings | {"steps": steps})), left[100:], right[100:]
        )
        for steps in (0, 40)
    )
    assert before < 0.1
    assert after > 0.8


# mini-vec2vec


def test_procrustes_finds_a_rotation() -> None:
    rows, turn = normal(30, 5, seed=0), rotation(5, seed=1)
    assert torch.allclose(procrustes(rows, rows @ turn), turn, atol=1e-5)


def test_mini_vec2vec_finds_the_rotation_between_two_copies_without_pairs() -> None:
    """Clusters of unequal distances, in another order and another basis."""
    centres = 3 * normal(12, 10, seed=0)
    points = centres[torch.arange(360) % 12] + 0.6 * normal(360, 10, seed=1)
    order = torch.randperm(360, generator=torch.Generator().manual_seed(2))
    turned = (points @ rotation(10, seed=3))[order]
    embeds = mini_vec2vec(
        points,
        turned,
        torch.empty(0, 2, dtype=torch.int64),
        seed=0,
        axes=0,
        runs=4,
        clusters=12,
        starts=8,
        neighbours=5,
        refinements=20,
        fine_clusters=40,
    )
    partner = torch.empty(360, dtype=torch.int64)
    partner[order] = torch.arange(360)
    found = (embeds[0](points) @ embeds[1](turned).T).argmax(1)
    assert float((found == partner).float().mean()) > 0.95
