"""Claims about the parts of a training: which rows each step draws, and how a gradient becomes new weights."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch
from tiny import pools
from torch import Tensor

from setclip_cli.errors import SetClipError
from setclip_cli.recipe.recipe import Recipe, load_recipe
from setclip_cli.training.batches import Batches, BatchPart
from setclip_cli.training.build import build_training
from setclip_cli.training.checks import check_embeddings, check_gradient, check_terms
from setclip_cli.training.distributed import Group
from setclip_cli.training.embedded import EmbeddedPart
from setclip_cli.training.tower import Pool
from setclip_cli.training.updater import Updater


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    path = tmp_path / "recipe.toml"
    path.write_text(
        """
        schema_version = 2
        method = "set-clip"
        ensemble = 2
        towers.image.backbone = "timm:tf_efficientnet_lite0"
        towers.caption.backbone = "sentence-transformers:all-MiniLM-L6-v2"
        projection = { dim = 4, pca = 4 }
        train = { steps = 8, batch = 20, pairs_per_batch = 3 }
        """
    )
    return load_recipe(path)


@pytest.fixture
def batches(recipe: Recipe) -> Batches:
    left, right, pairs = pools()
    return build_training(recipe, Pool(left), Pool(right[:60]), pairs).batches


def test_each_side_and_each_member_draws_in_an_order_of_its_own(batches: Batches) -> None:
    """Equal rows at equal places would pair the sides by position."""
    left, right = batches.draw(0)
    of_next_member = batches.draw(8)[0]
    assert not left["unpaired"].rows.equal(right["unpaired"].rows)
    for name in ("unpaired", "paired"):
        assert not left[name].rows.equal(of_next_member[name].rows)


def test_known_pairs_stay_together(batches: Batches) -> None:
    left, right = batches.draw(3)
    drawn = torch.stack([left["paired"].rows, right["paired"].rows], dim=1).tolist()
    assert len(drawn) == 3
    assert all(pair in batches.pairs.tolist() for pair in drawn)


def test_a_second_view_is_of_the_same_rows_and_new_in_every_step(batches: Batches) -> None:
    seeds = set()
    for step in range(3):
        for side in batches.draw(step):
            assert side["second_view"].rows.equal(side["unpaired"].rows)
            seeds.add(side["second_view"].view_seed)
    assert len(seeds) == 6


def test_a_batch_that_was_read_ahead_serves_its_own_step_only(batches: Batches) -> None:
    from concurrent.futures import ThreadPoolExecutor

    batches._reader = ThreadPoolExecutor(1)
    for taken in (0, 1, 5, 15):
        for taken_side, drawn_side in zip(batches.take(taken), batches.draw(taken), strict=True):
            assert taken_side["unpaired"].rows.equal(drawn_side["unpaired"].rows)


class SeededTower:
    """A linear tower in which dropout is a factor that depends on the seed."""

    dim, features = 2, torch.zeros(0, 2)

    def __init__(self) -> None:
        self.weight = torch.eye(3, 2).requires_grad_()

    def matmuls(self) -> AbstractContextManager[None]:
        return nullcontext()

    def embed(self, _member: int, chunk: Tensor, *, dropout_seed: int | None) -> Tensor:
        return chunk @ self.weight * (1 if dropout_seed is None else 1 + dropout_seed)


@pytest.mark.parametrize("view_seed", [None, 4])
@pytest.mark.parametrize("size", [2, 5])
def test_chunks_give_the_gradient_of_the_embeddings_that_the_losses_saw(view_seed: int | None, size: int) -> None:
    """With dropout too: the second pass draws what the first one drew, chunk by chunk."""
    tower, rows, gradient = SeededTower(), torch.arange(15.0).view(5, 3), torch.arange(10.0).view(5, 2)
    chunks = list(rows.split(size))
    part = EmbeddedPart(tower, 0, BatchPart(torch.arange(5), chunks, size, view_seed), Group())  # type: ignore[arg-type]
    part.backward(gradient)
    factors = torch.tensor([1.0 if view_seed is None else 1 + view_seed + row // size for row in range(5)])
    assert part.leaf.equal(factors[:, None] * rows[:, :2])
    torch.testing.assert_close(tower.weight.grad, rows.T @ (factors[:, None] * gradient))


def updater(*, ema: float = 0.0, clip_norm: float | None = None) -> tuple[Updater, dict[str, Tensor]]:
    names = ("left.heads.0.weight", "left.backbone.block.weight", "left.backbone.attention_pooling.query")
    weights: dict[str, Tensor] = {name: torch.ones(3, requires_grad=True) for name in names}
    made = Updater(
        weights,
        lr=0.1,
        weight_decay=0.0,
        backbone_lr=0.01,
        backbone_weight_decay=0.0,
        rate=lambda step: 1 / (step + 1),
        clip_norm=clip_norm,
        ema=ema,
        scaler=torch.amp.GradScaler("cpu", enabled=False),
    )
    made.begin(weights)
    for weight in weights.values():
        weight.grad = torch.full((3,), 2.0)
    return made, weights


def test_a_backbone_has_its_own_rate_and_a_learned_pooling_that_of_the_projections() -> None:
    """The first step of AdamW moves every weight by the learning rate, whatever its gradient is."""
    for step, factor in ((0, 1.0), (3, 0.25)):
        made, weights = updater()
        assert made.step(step, made.gradient_norm()) == pytest.approx(0.1 * factor)
        moved = {name.rpartition(".")[0]: float(1 - weight[0].detach()) for name, weight in weights.items()}
        assert moved == pytest.approx(
            {
                "left.heads.0": 0.1 * factor,
                "left.backbone.block": 0.01 * factor,
                "left.backbone.attention_pooling": 0.1 * factor,
            },
            rel=1e-4,
        )


def test_clipping_bounds_the_whole_gradient() -> None:
    made, weights = updater(clip_norm=0.5)
    norm = made.gradient_norm()
    made.step(0, norm)
    assert float(norm) == pytest.approx(6.0)  # sqrt(9 * 2²)
    clipped = torch.cat([weight.grad for weight in weights.values() if weight.grad is not None])
    assert float(clipped.norm()) == pytest.approx(0.5, rel=1e-4)


def test_restored_averages_go_on_from_where_they_were() -> None:
    made, weights = updater(ema=0.9)
    made.step(0, made.gradient_norm())
    saved = {name: value.clone() for name, value in made.tensors().items()}
    again, _ = updater(ema=0.9)
    again.restore(saved, weights)
    assert all(again.averages[name].equal(value) for name, value in made.averages.items())
    assert not made.averages["left.heads.0.weight"].equal(torch.ones(3))


def test_a_number_that_is_not_finite_is_found_wherever_it_is() -> None:
    good, bad = torch.ones(2), torch.tensor([1.0, float("inf")])
    check_embeddings(1, {"left": [good], "right": [good]}, ["clip"], rates="optim.lr (1)")
    with pytest.raises(SetClipError, match=r"step 4: the right tower .*\(clip, sdd\)"):
        check_embeddings(4, {"left": [good], "right": [good, bad]}, ["clip", "sdd"], rates="optim.lr (1)")
    check_terms(1, {"clip": good.sum()}, {"clip": [good]}, rates="optim.lr (1)")
    for term, gradient in ((bad.sum(), good), (good.sum(), bad)):
        with pytest.raises(SetClipError, match=r"objective\.sdd is"):
            check_terms(1, {"clip": good.sum(), "sdd": term}, {"clip": [good], "sdd": [gradient]}, rates="optim.lr (1)")
    good.grad, bad.grad = torch.ones(2), torch.tensor([float("nan"), 0.0])
    check_gradient(1, good.norm(), {"left.w": good}, rates="optim.lr (1)")
    with pytest.raises(SetClipError, match="the gradient of the right tower is not finite"):
        check_gradient(1, bad.grad.norm(), {"left.w": good, "right.w": bad}, rates="optim.lr (1)")
