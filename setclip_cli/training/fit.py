"""`fit`: a recipe's method on features in memory. `align` does the same with features that it reads from a DATASET."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from setclip_cli.encoders import side_by_side
from setclip_cli.encoders.graph import kept_graphs
from setclip_cli.encoders.usable import require_usable
from setclip_cli.errors import UsageError
from setclip_cli.methods.auto import choose
from setclip_cli.methods.closed_form import fit_closed_form
from setclip_cli.methods.distil import distil
from setclip_cli.methods.extra_encoders import with_extra_encoders
from setclip_cli.methods.no_pairs import align_without_pairs
from setclip_cli.methods.pairs_needed import require_pairs_of
from setclip_cli.methods.partners import fit_partner_maps
from setclip_cli.recipe.presets import PAIRS_NEEDED, SECTION_PRESETS, TRAINING_FREE_METHODS
from setclip_cli.sampling import sample
from setclip_cli.training.build import aligned_starts, build_tower, build_training
from setclip_cli.training.checks import require_pools
from setclip_cli.training.overlap import Kept, Overlap, estimate_overlap
from setclip_cli.training.tower import Pool, under
from setclip_cli.training.tuned_features import pools_after_training

if TYPE_CHECKING:
    from torch import Tensor

    from setclip_cli.encoders import Composed, Encoder
    from setclip_cli.methods.held_out import FoldFit
    from setclip_cli.recipe.recipe import Recipe
    from setclip_cli.training.tower import InitialWeights
    from setclip_cli.training.training import Training
    from setclip_cli.training.tuned_features import PoolsAfterTraining

START_ROWS = 4096  # of each side, on which the distance from the start is measured
DISTIL_WARNING = 0.9  # correlation with the ensemble below which the user is warned


@dataclass(frozen=True)
class Fitted:
    """Encoders of both sides, as fitted and as they were before.

    Attributes:
        method: The method that was fitted; never "auto".
        findings: What the method measured of its own result, such as how far to trust it, by metric key.
        warnings: The same in words for the user, if there is a reason to warn.
        folds: Fits that the method made without some of the known pairs, of the same settings.
    """

    method: str
    encoders: tuple[Encoder, Encoder]
    initial: tuple[Encoder, Encoder]
    findings: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    folds: list[FoldFit] = field(default_factory=list)


@kept_graphs()
def fit(recipe: Recipe, left: Tensor, right: Tensor, pairs: Tensor) -> Fitted:
    """Fits the recipe's method to features in memory.

    Args:
        left: (n, p) float32 frozen features of the left side.
        right: (m, q) float32 frozen features of the right side. The order of the rows means nothing.
        pairs: (b, 2) int64: a row of ``left`` and the row of ``right`` that belongs to it; b may be 0.

    Raises:
        SetClipError: the method needs more pairs, a pair names a row that is not there, there are too few rows or all
            of them are equal, or a step of the training is not finite.
    """
    recipe = without_start(recipe)
    if recipe.drop_suspect is not None:
        raise UsageError(
            "drop_suspect: is for `setclip align`, which lists the pairs that it leaves out in the RUN",
            fix="leave drop_suspect out, and give only pairs that are right; setclip_cli.trust.suspects finds others",
        )
    ends = [(row, other) for row, other in pairs.tolist()]
    require_pairs_of(recipe, ends)
    require_pools(recipe, {"left features": left, "right features": right})
    items = torch.arange(len(pairs)) if recipe.pairs_unit == "row" else pairs[:, 0].cpu()
    if recipe.method == "auto":
        recipe = choose(recipe, ends, items.tolist()).recipe
    return fit_method(recipe, left, right, pairs, items)


def without_start(recipe: Recipe) -> Recipe:
    """The recipe without the RUN that it starts from: heads that are trained on features start from random weights.

    Raises:
        SetClipError: the towers are joint, so that they have to start from that RUN.
    """
    if recipe.joint and recipe.init_from is not None:
        raise UsageError(
            "init_from: the towers of a RUN read raw rows, and these are features",
            fix="leave init_from out, or use `setclip align`",
        )
    return recipe if recipe.init_from is None else recipe.with_settings(init_from=None)


def fit_method(
    recipe: Recipe,
    left: Tensor,
    right: Tensor,
    pairs: Tensor,
    items: Tensor | None = None,
    *,
    initial: tuple[InitialWeights, InitialWeights] | None = None,
    overlap: Overlap | None = None,
) -> Fitted:
    """`fit` of any method but "auto".

    Args:
        overlap: Which rows have no partner, if that is known already.
        items: (b,) int64: for each pair the number of its item. None if a left row with all its pairs is an item.
        initial: Of the RUN that joint towers start from; None if their features are those of a joint model. A method
            that takes gradient steps needs the raw rows too, so it is not for such a start.
    """
    if is_trained(recipe, pairs):
        training = build_training(recipe, Pool(left), Pool(right), pairs)
        while training.taken < training.steps:
            training.advance()
        return finish(recipe, training, pairs, items)
    if recipe.projection.nested:
        raise UsageError(
            "projection.nested: without known pairs the features are matched, and no head is trained",
            fix="give known pairs, or leave projection.nested out",
        )
    start = aligned_starts(left, right, initial) if recipe.joint else None
    if any(weights.tuned for weights in initial or ()):
        raise UsageError(
            f"init_from: that RUN tuned a backbone, and method {recipe.method!r} does not read what it tuned",
            fix="start from a RUN with frozen towers, or choose set-clip-plus with the trainable of that RUN",
        )
    before: tuple[Encoder, Encoder] = start or (
        build_tower(recipe, "left", Pool(left)).encoder(),
        build_tower(recipe, "right", Pool(right)).encoder(),
    )
    if recipe.method == "transport":
        overlap = overlap or estimate_overlap(recipe, left, right, pairs, items)
        kept = overlap.kept(left, right, pairs, seed=recipe.seed) if overlap else Kept(left, right, pairs)
        maps = fit_partner_maps(
            kept.left, kept.right, kept.pairs, axes=recipe.projection.pca, seed=recipe.seed, items=items, start=start
        )
        left_out = overlap.findings() if overlap else {}
        folds = [replace(fold, known=pairs[~fold.hidden]) for fold in maps.folds]  # rows of the whole pools again
        return Fitted(recipe.method, maps.encoders, before, maps.findings() | left_out, folds=folds)
    if len(pairs):
        encoders = fit_closed_form(recipe.method, left, right, pairs, axes=recipe.projection.pca)
        return Fitted(recipe.method, encoders, before)
    matched = align_without_pairs(left, right, seed=recipe.seed, axes=recipe.projection.pca)
    findings = {"consensus/agreement": matched.agreement}
    return Fitted(recipe.method, matched.encoders, before, findings, matched.warnings())


def is_trained(recipe: Recipe, pairs: Tensor) -> bool:
    """Whether the method takes gradient steps: the training-free ones and matching without any pair do not.

    Towers that start aligned are not matched: they need no pairs.
    """
    matched = recipe.method == "set-clip-plus" and not len(pairs) and recipe.strangers
    return recipe.method not in TRAINING_FREE_METHODS and not matched


def finish(recipe: Recipe, training: Training, pairs: Tensor, items: Tensor | None = None) -> Fitted:
    """The encoders of a training as it is now, with averages in place of weights, distilled and joined as asked.

    Args:
        pairs: (b, 2) int64, rows of the known pairs.
        items: (b,) int64: for each pair the number of its item. None if a left row with all its pairs is an item.
    """
    towers = training.towers
    heads = (
        towers[0].encoder(under("left.heads.", training.updater.averages)),
        towers[1].encoder(under("right.heads.", training.updater.averages)),
    )
    require_usable(
        f"method {recipe.method!r}",
        heads,
        (towers[0].pool.features.cpu(), towers[1].pool.features.cpu()),
        fix=f"lower optim.lr ({recipe.optim.lr}), or raise projection.dim ({recipe.projection.dim})",
    )
    findings, warnings = {}, []
    if recipe.ensemble_distil:
        heads, correlation = distil(
            heads, towers[0].pool.features.cpu(), towers[1].pool.features.cpu(), seed=recipe.seed
        )
        findings["distil/correlation"] = correlation
        if correlation < DISTIL_WARNING:
            warnings.append(
                f"the cosines of the one head correlate with those of the ensemble by {correlation:.2f} only; "
                "ensemble_distil = false keeps the ensemble, a larger projection.dim follows it better"
            )
    findings |= _distances(recipe, training, heads)
    encoders: tuple[Encoder, Encoder] = heads
    extra = recipe.extra_encoders
    if any(extra.model_dump().values()):
        pools = pools_after_training(training, pairs, seed=recipe.seed)
        encoders = with_extra_encoders(
            heads,
            pools.inputs,
            pools.pairs,
            linear=extra.linear,
            diffused=extra.diffused,
            shifted=extra.shifted,
            seed=recipe.seed,
        )
        if extra.partner:
            if min(len(side.unique()) for side in pools.pairs.T) < PAIRS_NEEDED["transport"]:
                warnings.append(
                    f"extra_encoders.partner = {extra.partner}: left out, since its maps are fitted to known pairs and "
                    f"need {PAIRS_NEEDED['transport']} of different items"
                )
            else:
                encoders, told = _with_partner_maps(recipe, encoders, pools, items)
                findings |= told
    return Fitted(recipe.method, encoders, training.initial, findings, warnings)


def _with_partner_maps(
    recipe: Recipe, encoders: tuple[Encoder, Encoder], pools: PoolsAfterTraining, items: Tensor | None
) -> tuple[tuple[Encoder, Encoder], dict[str, float]]:
    """The encoders combined with the maps of method transport, and what these found out."""
    maps = fit_partner_maps(
        *pools.features,
        pools.pairs,
        axes=SECTION_PRESETS["transport"]["projection"]["pca"],
        seed=recipe.seed,
        items=items,
        chosen_on=pools.found if pools.tuned else None,
    )
    # Last: diffusion and mean shift draw items of a kind together, and these maps look for the one partner.
    return side_by_side([encoders, maps.encoders], [1.0, recipe.extra_encoders.partner]), maps.findings()


@torch.no_grad()
def _distances(recipe: Recipe, training: Training, heads: tuple[Composed, Composed]) -> dict[str, float]:
    """How far training moved the towers from their start: ``start_cosine/MODALITY``, the mean cosine over the pool."""
    found = {}
    for modality, tower, head in zip(recipe.modalities(), training.towers, heads, strict=True):
        if tower.starts and tower.pool.tuned is None:
            rows = sample(len(tower.inputs), START_ROWS, 0, seed=recipe.seed, stream=f"start/{tower.side}")
            moved = head.encoder(tower.inputs[rows].cpu())
            starts = tower.started(tower.inputs[rows]).cpu().repeat(1, 1 if recipe.ensemble_distil else recipe.ensemble)
            found[f"start_cosine/{modality}"] = float(F.cosine_similarity(moved, starts).mean())
    return found
