"""Claims about the training step: its gradient, its randomness, its record."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from setclip_cli.errors import SetClipError
from setclip_cli.recipe import Method, Recipe, load_recipe
from setclip_cli.training import Training, fit, is_trained

TRAINED: list[Method] = ["set-clip-plus", "set-clip", "clip"]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    path = tmp_path / "recipe.toml"
    path.write_text(
        """
        schema_version = 1
        towers.image.backbone = "timm:tf_efficientnet_lite0"
        towers.caption.backbone = "sentence-transformers:all-MiniLM-L6-v2"
        projection = { dim = 16, pca = 8 }
        train = { steps = 12, batch = 20, pairs_per_batch = 5 }
        objective.teacher = { weight = 1.0, end_step = 6 }
        """
    )
    return load_recipe(path)


def pools(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Two pools of three clusters each, of different widths and sizes, and two pairs a cluster."""
    draw = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(3, 12, generator=draw)
    mixing = torch.randn(12, 20, generator=draw) / 12**0.5
    left = centres.repeat(20, 1) + torch.randn(60, 12, generator=draw)
    right = (centres.repeat(30, 1) + torch.randn(90, 12, generator=draw)) @ mixing
    return left, right, torch.arange(6).repeat(2, 1).T.contiguous()


@pytest.mark.parametrize("method", TRAINED)
def test_the_step_takes_the_gradient_of_the_whole_objective(recipe: Recipe, method: Method) -> None:
    """Term by term at the embeddings and then back through the heads = one backward through everything."""
    recipe = recipe.with_settings(method=method)
    two_pass, one_pass = Training(recipe, *pools()), Training(recipe, *pools())
    two_pass.advance()
    got = [parameter.grad for tower in (two_pass.left, two_pass.right) for parameter in tower.heads.parameters()]

    sides = [one_pass._side(tower, column, 0, 0) for column, tower in enumerate((one_pass.left, one_pass.right))]
    attached = []
    for side in sides:
        names = ["embeddings", "paired"] + (["second_view"] if side.detached.second_view is not None else [])
        attached.append(
            type(side.detached)(**{**vars(side.detached), **dict(zip(names, side.embeddings, strict=True))})
        )
    one_pass.objective(*attached, 0).total.backward()
    expected = [parameter.grad for tower in (one_pass.left, one_pass.right) for parameter in tower.heads.parameters()]
    assert len(got) == len(expected) > 0
    for found, wanted in zip(got, expected, strict=True):
        assert found is not None
        assert wanted is not None
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", TRAINED)
def test_the_same_seed_gives_the_same_run_and_another_seed_another(recipe: Recipe, method: Method) -> None:
    left, right, pairs = pools()

    def embeddings(seed: int) -> Tensor:
        torch.manual_seed(torch.seed() % 2**31)  # the state of the global generator must not matter
        return fit(recipe.with_settings(method=method, seed=seed), left, right, pairs).encoders[0](left)

    assert torch.equal(embeddings(0), embeddings(0))
    assert not torch.allclose(embeddings(0), embeddings(1), atol=1e-2)


@pytest.mark.parametrize("ensemble", [1, 2])
@pytest.mark.parametrize("stop", [5, 17])
def test_a_restored_run_goes_on_bit_for_bit(recipe: Recipe, ensemble: int, stop: int) -> None:
    recipe = recipe.with_settings(ensemble=ensemble)
    straight = Training(recipe, *pools())
    if stop >= straight.steps:
        pytest.skip("no steps are left to take")
    records = [straight.advance() for _ in range(straight.steps)]
    broken = Training(recipe, *pools())
    for _ in range(stop):
        broken.advance()
    saved = {name: value.clone() for name, value in broken.tensors().items()}
    resumed = Training(recipe, *pools())
    resumed.restore(stop, saved)
    assert [resumed.advance() for _ in range(straight.steps - stop)] == records[stop:]
    left = pools()[0]
    assert torch.equal(resumed.fitted().encoders[0](left), straight.fitted().encoders[0](left))


def test_training_separates_clusters_that_few_pairs_name(recipe: Recipe) -> None:
    left, right, pairs = pools()
    fitted = fit(recipe.with_settings(train={**recipe.train.model_dump(), "steps": 100}), left, right, pairs)
    with torch.no_grad():
        similarity = fitted.encoders[0](left) @ fitted.encoders[1](right).T
        before = fitted.initial[0](left) @ fitted.initial[1](right).T
    same = torch.arange(60)[:, None] % 3 == torch.arange(90) % 3
    gap_before, gap = (cosine[same].mean() - cosine[~same].mean() for cosine in (before, similarity))
    assert gap > max(0.3, gap_before + 0.3)


def test_the_record_names_every_active_term_and_shares_sum_to_one(recipe: Recipe) -> None:
    training = Training(recipe, *pools())
    early = training.advance()
    while training.taken < 7:
        late = training.advance()
    assert {"loss/clip", "loss/sdd", "loss/neighbourhood", "loss/teacher"} < set(early)
    assert "loss/teacher" not in late  # it ended after 6 steps
    for record in (early, late):
        shares = [value for key, value in record.items() if key.startswith("gradient_share/")]
        assert sum(shares) == pytest.approx(1)
        assert record["density_gap"] > 0


def test_a_loss_that_turns_non_finite_stops_the_run_and_names_the_term(recipe: Recipe) -> None:
    training = Training(recipe.with_settings(method="clip"), *pools())
    training.advance()
    weights = [parameter.clone() for parameter in training.left.heads.parameters()]
    training.left.features = training.left.features * float("nan")
    with pytest.raises((SetClipError, ValueError), match=r"clip|finite"):
        training.advance()
    for now, before in zip(training.left.heads.parameters(), weights, strict=True):
        assert torch.equal(now, before)
    assert training.taken == 1


def test_without_pairs_the_distribution_terms_still_train(recipe: Recipe) -> None:
    left, right, _ = pools()
    none = torch.zeros(0, 2, dtype=torch.int64)
    recipe = recipe.with_settings(method="set-clip", pairs=0)
    assert is_trained(recipe, none)
    training = Training(recipe, left, right, none)
    gaps = [training.advance()["density_gap"] for _ in range(12)]
    assert gaps[-1] < gaps[0]


def test_dropout_views_keep_the_mean_and_differ_by_step(recipe: Recipe) -> None:
    tower = Training(recipe.with_settings(method="set-clip"), *pools()).left
    ones = torch.ones(200, 50)
    first = tower.view(ones, torch.Generator().manual_seed(0))
    second = tower.view(ones, torch.Generator().manual_seed(1))
    assert first.mean() == pytest.approx(1, abs=0.05)
    assert (first == 0).float().mean() == pytest.approx(tower.dropout, abs=0.02)
    assert not torch.equal(first, second)
