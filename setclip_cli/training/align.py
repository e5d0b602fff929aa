"""`align`: a recipe and a DATASET become a RUN."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from setclip_cli.backbones.joint import require_one_space
from setclip_cli.backbones.vector import VectorBackbone
from setclip_cli.console import note, visible
from setclip_cli.dataset.dataset import Dataset, open_dataset, pairs_in_words
from setclip_cli.dataset.modality import KINDS_OF_NAMES, in_order
from setclip_cli.encoders.graph import kept_graphs
from setclip_cli.errors import argument, translated
from setclip_cli.features.layer_choice import LayerChoice, choose_layers, fixed_layers, load_tower_backbone, wants_best
from setclip_cli.files import atomic
from setclip_cli.files.documents import signed
from setclip_cli.files.lock import exclusive
from setclip_cli.files.write_errors import InUseError, WriteError
from setclip_cli.options import path_of
from setclip_cli.recipe.recipe import Recipe, load_recipe
from setclip_cli.remote.arguments import takes_places
from setclip_cli.remote.run_files import DROPPED_NAME, tuned_name
from setclip_cli.run import checkpoint
from setclip_cli.run.config import METRICS_NAME, RECIPE_NAME, ModelConfig, TowerConfig, load_config
from setclip_cli.run.folder import CHECKPOINTS_NAME, SELECTION_NAME, is_finished
from setclip_cli.run.model import save_model
from setclip_cli.run.model_card import model_card
from setclip_cli.training.build import build_training
from setclip_cli.training.calibration import calibrate_run
from setclip_cli.training.checks import require_pools
from setclip_cli.training.distributed import launched
from setclip_cli.training.dry_run import plan_align
from setclip_cli.training.fit import finish, fit_method, is_trained
from setclip_cli.training.given_features import use_given
from setclip_cli.training.inputs import build_early_stopping, initial_weights, loads_half, read_side
from setclip_cli.training.known_pairs import known_pairs, pair_rows
from setclip_cli.training.loop import run_steps
from setclip_cli.training.overlap import estimate_overlap
from setclip_cli.training.preconditions import training_device
from setclip_cli.training.suspect_pairs import (
    dropped_csv,
    told_of_dropped,
    warn_of_suspects,
    without_suspects,
)
from setclip_cli.training.tower_bands import tower_bands
from setclip_cli.trust.saved import CALIBRATION_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from setclip_cli.encoders import Encoder
    from setclip_cli.training.fit import Fitted
    from setclip_cli.training.inputs import SideInput
    from setclip_cli.training.known_pairs import KnownPairs
    from setclip_cli.trust.saved import Calibration


@dataclass(frozen=True)
class AlignResult:
    """What `align` did."""

    run: Path
    method: str
    pairs: int
    items: int | None  # that the pairs belong to; None if the recipe counts single pairs
    steps: int
    resumed_from: int | None  # step
    reused: bool  # the RUN was already finished with this recipe and data
    wall_s: float
    kernels: Literal["torch", "triton"] | None = None  # what computed the kernel sums; None if no step was taken

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"run": str(self.run)}

    def summary(self) -> str:
        if self.reused:
            return f"{visible(self.run)}: finished earlier with this recipe and data; nothing to do"
        resumed = f", resumed from step {self.resumed_from}" if self.resumed_from else ""
        took = f"{self.steps} steps in {self.wall_s:.1f} s{resumed}"
        return f"{visible(self.run)}: {self.method} on {pairs_in_words(self.pairs, self.items)}, {took}"


@takes_places("dataset", writes="out")
@kept_graphs()
def align(
    recipe: Recipe | Path | str,
    dataset: Dataset | Path | str,
    out: Path | str,
    *,
    resume: bool = False,
    features: str | Path | Sequence[str | Path] = (),
) -> AlignResult:
    """Trains on a DATASET and writes a RUN.

    A RUN that is already finished with the same recipe and data is left as it is.

    Args:
        recipe: A recipe, its file, or the name of one that comes with setclip.
        dataset: A DATASET, or its folder.
        out: The RUN folder.
        resume: Go on from the RUN's last checkpoint, if it has one.
        features: EMBEDDINGS that `embed_backbone` made of this DATASET, for one side or each: their features are not
            computed again.

    Raises:
        SetClipError: ``features`` are of another backbone or DATASET, or not whole; data, pairs or weights are missing;
            ``out`` is not a RUN or belongs to another experiment; a step is not finite, or there is too little memory
            for it.
    """
    started = time.monotonic()
    out = path_of(out, "out")
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    dataset = dataset if isinstance(dataset, Dataset) else open_dataset(dataset)
    plan = plan_align(recipe, dataset, out, resume=resume, features=features)
    device = training_device(recipe)
    with _with_resume_in_the_fix(out, resume), launched() as group, exclusive(out) if group.main else nullcontext():
        if is_finished(out, recipe):
            config = load_config(out)  # the plan has checked its files
            return AlignResult(out, config.method, config.pairs, config.known_items, 0, None, reused=True, wall_s=0.0)
        group.wait()  # no rank may find the RUN finished by a faster one
        for line in plan.notes if group.main else ():
            note(f"note: {line}")

        # Features. The first process computes and caches; the others read the cache.
        known = known_pairs(dataset, recipe)
        bands = {modality: tower_bands(recipe, dataset, modality) for modality in recipe.modalities()}
        with group.main_first():
            best = (
                choose_layers(recipe, dataset, known.pairs, known.items, device, bands=bands)
                if wants_best(recipe)
                else None
            )
        if best and group.main:
            note(best.summary(recipe.modalities()))
        backbones = [
            load_tower_backbone(
                recipe,
                modality,
                dataset.about(modality),
                device,
                layer=layer,
                joint=loads_half(recipe, modality),
                bands=bands[modality],
            )
            for modality, layer in zip(recipe.modalities(), best.layers if best else fixed_layers(recipe), strict=True)
        ]
        if recipe.joint and recipe.init_from is None:
            require_one_space(*backbones)
        with group.main_first():
            for backbone in backbones if group.main else ():
                if (given := plan.features.get(backbone.modality)) is not None:
                    use_given(given, backbone, recipe, dataset)
            left, right = (read_side(recipe, dataset, backbone, announce=group.main) for backbone in backbones)
        require_pools(recipe, {f"{side.modality} rows": side.features for side in (left, right)})
        stopping = build_early_stopping(recipe, dataset, (left, right))
        rows = pair_rows(known.pairs, left.ids, right.ids, split=recipe.train.split)
        items = torch.tensor(known.items, dtype=torch.int64)
        dropped, known_before = None, len(set(known.items))
        if recipe.drop_suspect is not None:
            known, rows, dropped = without_suspects(recipe, left.features, right.features, known, rows)
            items = torch.tensor(known.items, dtype=torch.int64)
        elif group.main:
            warn_of_suspects(recipe, dataset, left.features, right.features, rows, items)

        # The method.
        if group.main:
            atomic.write_text(out / RECIPE_NAME, recipe.to_toml())
            if dropped is not None:
                atomic.write_text(out / DROPPED_NAME, dropped_csv(dropped))
                note(f"note: {told_of_dropped(dropped, len(rows), known_before, out / DROPPED_NAME)}")
        if plan.choice is not None:
            recipe = plan.choice.recipe
            if group.main:
                note(plan.choice.summary())
                atomic.write_json(out / SELECTION_NAME, plan.choice.as_json())

        # Rows without a partner.
        if left.pool.large is not None or right.pool.large is not None:
            # A landmark's partner is rarely one of the other side's landmarks: nearly all would seem to have none.
            recipe = recipe.model_copy(update={"unmatched": "keep"})
        overlap = estimate_overlap(recipe, left.features, right.features, rows, items) if group.main else None
        if overlap:
            for line in overlap.notes(recipe, dataset.root):
                note(f"note: {line}")

        # Fit.
        initial = initial_weights(recipe, (left, right)) if recipe.joint or is_trained(recipe, rows) else None
        steps, resumed_from, kernels = 0, None, None
        tuned: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
        if is_trained(recipe, rows):
            training = build_training(recipe, left.pool, right.pool, rows.to(device), group=group, initial=initial)
            resumed_from = run_steps(recipe, training, stopping, out, dataset_sha256=dataset.identity(), resume=resume)
            fitted, tuned, steps = finish(recipe, training, rows, items), training.tuned(), training.taken
            kernels = training.kernels.taken
        else:
            fitted = fit_method(recipe, left.features, right.features, rows, items, initial=initial, overlap=overlap)

        # Save.
        if group.main:
            for warning in fitted.warnings:
                note(f"warning: {warning}")
            calibration = calibrate_run(recipe, dataset, fitted, (left, right), known, rows)
            left_out = None if dropped is None else len(dropped)
            _save(
                *(out, recipe, dataset, fitted, (left, right), tuned, best, calibration),
                known=known,
                dropped=left_out,
                steps=steps,
            )
        group.wait()
    wall_s = time.monotonic() - started
    return AlignResult(
        *(out, recipe.method, len(rows), known.item_count, steps, resumed_from),
        reused=False,
        wall_s=wall_s,
        kernels=kernels,
    )


@contextmanager
def _with_resume_in_the_fix(out: Path, resume: bool) -> Iterator[None]:
    """A RUN that cannot be written to the end, on a full disk for instance, goes on only if it is asked to."""
    try:
        yield
    except WriteError as error:
        if resume or isinstance(error, InUseError) or checkpoint.latest(out / CHECKPOINTS_NAME) is None:
            raise
        raise error.with_fix(f"add {argument('resume')}") from error


def _save(
    out: Path,
    recipe: Recipe,
    dataset: Dataset,
    fitted: Fitted,
    sides: tuple[SideInput, SideInput],
    tuned: tuple[dict[str, Tensor], dict[str, Tensor]],
    layer_choice: LayerChoice | None,
    calibration: Calibration | None,
    *,
    known: KnownPairs,
    dropped: int | None,
    steps: int,
) -> None:
    """Writes the RUN: tuned weights, the card, the encoders, their calibration, and config.json last."""

    def save_calibration(model_sha256: str) -> None:
        if calibration is not None:
            named = calibration.model_copy(update={"model_sha256": model_sha256})
            atomic.write_text(out / CALIBRATION_NAME, signed(named.model_dump(mode="json"), indent=None))

    if not steps:
        atomic.write_text(out / METRICS_NAME, json.dumps(fitted.findings) + "\n" if fitted.findings else "")
    config = ModelConfig(
        method=recipe.method,
        seed=recipe.seed,
        pairs=len(known.pairs),
        known_items=known.item_count,
        dropped_pairs=dropped,
        dataset_sha256=dataset.identity(),
        layer_choice=layer_choice.as_json() if layer_choice else None,
        left=None if [*recipe.modalities()] == in_order(recipe.towers) else recipe.modalities()[0],
        towers={
            side.modality: _tower_config(recipe, dataset, side, encoder, initial, _save_tuned(out, side, weights))
            for side, encoder, initial, weights in zip(sides, fitted.encoders, fitted.initial, tuned, strict=True)
        },
    )
    # metrics.jsonl up to the step whose weights are kept
    with translated(out / METRICS_NAME, ValueError, found="is damaged", fix=f"remove {out} and align again"):
        lines = (out / METRICS_NAME).read_text(encoding="utf-8").splitlines()[:steps]
        records = [json.loads(line) for line in lines]
    card = model_card(recipe, config, dataset, records=records, findings=fitted.findings)
    atomic.write_text(out / "README.md", card)
    modalities = recipe.modalities()
    save_model(
        out,
        config,
        dict(zip(modalities, fitted.encoders, strict=True)),
        dict(zip(modalities, fitted.initial, strict=True)),
        beside=save_calibration,
    )


def _save_tuned(out: Path, side: SideInput, weights: dict[str, Tensor]) -> str | None:
    """Writes the weights that training changed; returns the sha256 of the file, None for a frozen backbone."""
    if not weights:
        return None
    path = out / tuned_name(side.modality)
    checkpoint.save_tensors(path, weights)
    return atomic.sha256_file(path)


def _as_found(weights: str) -> str:
    """A path to weights as a whole one, so that the RUN also opens from other working folders."""
    is_path = weights not in ("auto", "hub") and not weights.startswith("package:") and Path(weights).exists()
    return str(Path(weights).absolute()) if is_path else weights


def _tower_config(
    recipe: Recipe,
    dataset: Dataset,
    side: SideInput,
    encoder: Encoder,
    initial: Encoder,
    tuned_sha256: str | None,
) -> TowerConfig:
    tower = recipe.towers[side.modality]
    return TowerConfig(
        kind=None if side.modality in KINDS_OF_NAMES else side.backbone.kind,
        vectors_of=side.backbone.info.encoder if isinstance(side.backbone, VectorBackbone) else None,
        frames=dataset.frames(side.modality),
        spec=tower.backbone,
        weights=_as_found(tower.weights),
        pooling=tower.pooling,
        layer=side.backbone.layers,
        joint=side.backbone.space is not None,
        preprocessing=side.backbone.preprocessing,
        identity=side.identity,
        trainable=tower.trainable,
        lora_rank=tower.lora_rank,
        tuned_sha256=tuned_sha256,
        dim=side.backbone.dim,
        encoder=encoder.describe(),
        initial=initial.describe(),
    )
