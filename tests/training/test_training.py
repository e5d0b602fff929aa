"""Claims about the training step: its gradient, its randomness, its record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
import torch
from tiny import pools
from torch import Tensor

from setclip_cli.errors import SetClipError
from setclip_cli.methods.extra_encoders import without_extra_encoders
from setclip_cli.recipe.presets import Method
from setclip_cli.recipe.recipe import Recipe, load_recipe
from setclip_cli.training.build import build_training
from setclip_cli.training.embedded import EmbeddedPart
from setclip_cli.training.fit import finish, fit, is_trained
from setclip_cli.training.schedules import rate_at
from setclip_cli.training.tower import Pool
from setclip_cli.training.training import Training

TRAINED: list[Method] = ["set-clip-plus", "set-clip", "clip"]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    path = tmp_path / "recipe.toml"
    path.write_text(
        """
        schema_version = 2
        method = "set-clip-plus"
        towers.image.backbone = "timm:tf_efficientnet_lite0"
        towers.caption.backbone = "sentence-transformers:all-MiniLM-L6-v2"
        projection = { dim = 16, pca = 8 }
        train = { steps = 12, batch = 20, pairs_per_batch = 5 }
        objective.teacher = { weight = 1.0, end_step = 6 }
        """
    )
    return load_recipe(path)


def training_of(recipe: Recipe, seed: int = 0) -> Training:
    left, right, pairs = pools(seed)
    return build_training(recipe, Pool(left), Pool(right), pairs)


@pytest.mark.parametrize("method", TRAINED)
def test_the_step_takes_the_gradient_of_the_whole_objective(recipe: Recipe, method: Method) -> None:
    """Term by term at the embeddings and then back through the heads = one backward through everything."""
    recipe = recipe.with_settings(method=method)
    two_pass, one_pass = training_of(recipe), training_of(recipe)
    two_pass.advance()
    got = [parameter.grad for tower in two_pass.towers for parameter in tower.heads.parameters()]

    sides = []
    for column, (tower, batch) in enumerate(zip(one_pass.towers, one_pass.batches.draw(0), strict=True)):
        embedded = {name: EmbeddedPart(tower, 0, part, one_pass.group) for name, part in batch.items()}
        for part in embedded.values():
            part.leaf = tower.embed(0, part.part.chunks[0])  # with its graph
        sides.append(one_pass._side(column, embedded, 0))
    one_pass.objective(sides[0], sides[1], 0).total.backward()
    expected = [parameter.grad for tower in one_pass.towers for parameter in tower.heads.parameters()]
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


@pytest.mark.parametrize(("ensemble", "stop"), [(1, 5), (2, 5), (2, 12), (2, 17)])
def test_a_restored_run_goes_on_bit_for_bit(recipe: Recipe, ensemble: int, stop: int) -> None:
    recipe = recipe.with_settings(ensemble=ensemble)
    straight = training_of(recipe)
    records = [straight.advance() for _ in range(straight.steps)]
    broken = training_of(recipe)
    for _ in range(stop):
        broken.advance()
    saved = {name: value.clone() for name, value in broken.tensors().items()}
    resumed = training_of(recipe)
    resumed.restore(stop, saved)
    assert [resumed.advance() for _ in range(straight.steps - stop)] == records[stop:]
    left = pools()[0]
    assert torch.equal(*(finish(recipe, each, each.batches.pairs).encoders[0](left) for each in (resumed, straight)))


@pytest.mark.parametrize("balance", [False, True])
def test_balanced_batches_hold_both_pools_classes_alike(recipe: Recipe, balance: bool) -> None:
    left, right, pairs = pools()
    kinds = torch.arange(90) % 3
    fewer = torch.cat([torch.arange(6), torch.arange(6, 90)[(kinds[6:] == 0) | (torch.arange(6, 90) > 75)]])
    right, kinds = right[fewer], kinds[fewer]  # 30 rows of the first class, some 7 of the others
    train = recipe.train.model_dump() | {"balance": balance, "batch": 8}
    training = build_training(recipe.with_settings(train=train), Pool(left), Pool(right), pairs)
    drawn = torch.cat([training.batches.draw(step)[1]["unpaired"].rows for step in range(60)])
    share = float((kinds[drawn] == 0).float().mean())
    assert share < 0.5 if balance else share > 0.6


def test_training_separates_clusters_that_few_pairs_name(recipe: Recipe) -> None:
    left, right, pairs = pools()
    train, optim = recipe.train.model_dump() | {"steps": 100}, recipe.optim.model_dump() | {"lr": 3e-3}
    fitted = fit(recipe.with_settings(train=train, optim=optim), left, right, pairs)
    with torch.no_grad():
        similarity = fitted.encoders[0](left) @ fitted.encoders[1](right).T
        before = fitted.initial[0](left) @ fitted.initial[1](right).T
    same = torch.arange(60)[:, None] % 3 == torch.arange(90) % 3
    gap_before, gap = (cosine[same].mean() - cosine[~same].mean() for cosine in (before, similarity))
    assert gap > max(0.3, gap_before + 0.3)


def test_the_record_names_every_active_term_and_shares_sum_to_one(recipe: Recipe) -> None:
    training = training_of(recipe)
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
    training = training_of(recipe.with_settings(method="clip"))
    training.advance()
    heads = training.towers[0].heads
    weights = [parameter.clone() for parameter in heads.parameters()]
    training.towers[0].inputs = training.towers[0].inputs * float("nan")
    with pytest.raises(SetClipError, match="finite"):
        training.advance()
    for now, before in zip(heads.parameters(), weights, strict=True):
        assert torch.equal(now, before)
    assert training.taken == 1


def test_without_pairs_the_distribution_terms_still_train(recipe: Recipe) -> None:
    left, right, _ = pools()
    none = torch.zeros(0, 2, dtype=torch.int64)
    recipe = recipe.with_settings(method="set-clip", pairs=0)
    assert is_trained(recipe, none)
    training = build_training(recipe, Pool(left), Pool(right), none)
    gaps = [training.advance()["density_gap"] for _ in range(12)]
    assert gaps[-1] < gaps[0]


def test_noisy_views_have_the_noise_asked_for_and_belong_to_the_row(recipe: Recipe) -> None:
    tower = training_of(recipe.with_settings(method="set-clip")).towers[0]
    tower.inputs = torch.ones(200, tower.inputs.shape[1])
    rows = torch.arange(200)
    whole = tower.prepare(rows, slice(0, 200), view_seed=0)
    assert whole.mean() == pytest.approx(1, abs=0.05)
    assert (whole - 1).norm(dim=1).mean() == pytest.approx(tower.noise, rel=0.05)
    assert not torch.equal(whole, tower.prepare(rows, slice(0, 200), view_seed=1))
    assert torch.equal(whole[40:90], tower.prepare(rows, slice(40, 90), view_seed=0))


def test_cached_views_are_used_instead_of_noise(recipe: Recipe) -> None:
    left, right, pairs = pools()
    views = torch.stack([left + 0.1, left - 0.1])
    training = build_training(recipe.with_settings(method="set-clip"), Pool(left, views=views), Pool(right), pairs)
    tower = training.towers[0]
    seen = tower.prepare(torch.arange(60), slice(0, 60), view_seed=3)
    candidates = [tower.transform(view) for view in views]
    which = [min(range(2), key=lambda k: float((candidates[k][row] - seen[row]).norm())) for row in range(60)]
    assert set(which) == {0, 1}
    for row, k in enumerate(which):
        torch.testing.assert_close(seen[row], candidates[k][row])


def test_averaged_weights_follow_their_formula(recipe: Recipe) -> None:
    training = training_of(recipe.with_settings(optim={**recipe.optim.model_dump(), "ema": 0.9}))
    name = "left.heads.0.input.bias"
    average = training.updater.weights[name].detach().clone()
    for _ in range(3):
        training.advance()
        average = 0.9 * average + 0.1 * training.updater.weights[name].detach()
    torch.testing.assert_close(training.updater.averages[name], average)
    for side, encoder in zip(("left", "right"), finish(recipe, training, training.batches.pairs).encoders, strict=True):
        kept = dict(without_extra_encoders(encoder).named_parameters())["encoder.input.bias"]
        assert kept.equal(training.updater.averages[f"{side}.heads.0.input.bias"])


def test_a_learnable_temperature_is_trained_and_restored(recipe: Recipe) -> None:
    objective = recipe.objective.model_dump()
    objective["clip"] |= {"learnable_temperature": True}
    training = training_of(recipe.with_settings(objective=objective))
    before = training.tensors()["objective.losses.clip.log_temperature"].clone()
    training.advance()
    after = training.tensors()["objective.losses.clip.log_temperature"].clone()
    assert float((after - before).abs()) == pytest.approx(recipe.optim.lr, rel=0.1)  # the first step of AdamW
    again = training_of(recipe.with_settings(objective=objective))
    again.restore(1, training.tensors())
    assert again.tensors()["objective.losses.clip.log_temperature"].equal(after)


def test_the_gradient_is_clipped_and_the_rate_follows_the_schedule(recipe: Recipe) -> None:
    optim = {**recipe.optim.model_dump(), "clip_norm": 1e-3, "schedule": "cosine", "warmup_steps": 4}
    training = training_of(recipe.with_settings(optim=optim))
    records = [training.advance() for _ in range(12)]
    assert [record["lr"] for record in records] == pytest.approx(
        [recipe.optim.lr * rate_at(step, 12, "cosine", 4) for step in range(12)]
    )
    assert records[0]["gradient_norm"] > 1e-3  # what is told is the norm before clipping
    gradients = torch.cat([p.grad.flatten() for p in training._trained(0).values() if p.grad is not None])
    assert gradients.norm() <= 1.001e-3


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_schedules_start_low_stay_within_bounds_and_end_low(schedule: Literal["constant", "linear", "cosine"]) -> None:
    rates = [rate_at(step, 100, schedule, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == 1 if schedule == "constant" else rates[-1] < 0.02


def test_a_failed_step_leaves_the_queue_of_earlier_rows_alone(recipe: Recipe) -> None:
    """What a checkpoint then saves must not hold the rows that made the loss non-finite."""
    objective = recipe.objective.model_dump()
    objective["sdd"] |= {"queue": 24}
    training = training_of(recipe.with_settings(objective=objective))
    training.advance()
    before = {name: value.clone() for name, value in training.tensors().items()}
    assert any(name.endswith("left_queue.held") and len(value) for name, value in before.items())
    # A gradient that is not finite: found when the queue holds the step's rows already.
    next(training.towers[1].heads.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(SetClipError, match="step 2: the gradient of the right tower is not finite"):
        training.advance()
    after = training.tensors()
    assert after.keys() == before.keys()
    assert all(after[name].equal(value) for name, value in before.items())


def test_a_gradient_that_turns_non_finite_behind_the_losses_names_the_tower(recipe: Recipe) -> None:
    training = training_of(recipe)
    training.advance()
    next(training.towers[1].heads.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    before = {name: value.clone() for name, value in training.tensors().items()}
    with pytest.raises(SetClipError, match="step 2: the gradient of the right tower is not finite"):
        training.advance()
    assert all(training.tensors()[name].equal(value) for name, value in before.items())


def test_a_half_precision_step_that_overflows_is_skipped_and_can_be_logged(recipe: Recipe) -> None:
    training = training_of(recipe)
    training.updater.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    hook = next(training.towers[0].heads.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    before = {name: value.clone() for name, value in training.updater.weights.items()}
    record = training.advance()
    assert "gradient_norm" not in record
    json.dumps(record, allow_nan=False)
    assert all(training.updater.weights[name].equal(value) for name, value in before.items())
    assert training.updater.scaler.get_scale() == 2.0
    hook.remove()
    assert training.advance()["gradient_norm"] > 0


def test_every_key_of_the_record_is_documented(recipe: Recipe) -> None:
    page = (Path(__file__).parents[2] / "docs/align.md").read_text(encoding="utf-8")
    for key in training_of(recipe).advance():
        group, _, term = key.partition("/")
        documented = f"`{group}/<term>`" if term and term != "total" else f"`{key}`"
        assert documented in page, key
        assert not term or f"`{term}`" in page or key == "loss/total", key
