"""`align`: a recipe and a DATASET become a RUN.

Features of the frozen backbones come from the cache, the pairs are drawn, the method is fitted, and the encoders are
written beside the recipe, the metrics of every step and a model card.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from setclip_cli import atomic, checkpoint
from setclip_cli.backbones import load_backbone
from setclip_cli.checkpoint import Checkpoint
from setclip_cli.console import note, progress
from setclip_cli.errors import ExitCode, SetClipError
from setclip_cli.features import frozen_features
from setclip_cli.lock import exclusive
from setclip_cli.model import CONFIG_NAME, ModelConfig, TowerConfig, load_config, save_model
from setclip_cli.model_card import model_card
from setclip_cli.plan import plan
from setclip_cli.run_folder import CHECKPOINTS_NAME, METRICS_NAME, RECIPE_NAME
from setclip_cli.training import Training, fit, is_trained
from setclip_cli.training_pairs import known_pairs, pair_rows

if TYPE_CHECKING:
    from pathlib import Path

    from setclip_cli.backbones.base import Backbone
    from setclip_cli.recipe import Recipe
    from setclip_cli.shards import Dataset, Modality


@dataclass(frozen=True)
class AlignResult:
    """What `align` did."""

    run: Path
    method: str
    pairs: int
    steps: int
    resumed_from: int | None  # step
    reused: bool  # the RUN was already finished with this recipe and data
    wall_s: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"run": str(self.run)}

    def summary(self) -> str:
        if self.reused:
            return f"{self.run}: finished earlier with this recipe and data; nothing to do"
        resumed = f", resumed from step {self.resumed_from}" if self.resumed_from else ""
        return f"{self.run}: {self.method} on {self.pairs} pairs, {self.steps} steps in {self.wall_s:.1f} s{resumed}"


def align(recipe: Recipe, dataset: Dataset, out: Path, *, resume: bool = False) -> AlignResult:
    """Trains on a DATASET and writes a RUN.

    A RUN that is already finished with the same recipe and data is left as it is.

    Raises:
        SetClipError: data, pairs or weights are missing; ``out`` is not ours or belongs to another experiment; a loss
            turned non-finite.
    """
    started = time.monotonic()
    data_identity = dataset.identity()
    plan(recipe, dataset, out, resume=resume)
    device = resolve_device(recipe.train.device)
    with exclusive(out):
        if (out / CONFIG_NAME).exists():
            config = load_config(out)
            return AlignResult(out, config.method, config.pairs, 0, None, reused=True, wall_s=0.0)
        modalities = recipe.modalities()
        pairs = known_pairs(dataset, recipe)
        backbones = [_backbone(recipe, modality, device) for modality in modalities]
        left, right = (
            frozen_features(backbone, dataset, modality, recipe.train.split)
            for backbone, modality in zip(backbones, modalities, strict=True)
        )
        rows = pair_rows(pairs, left.ids, right.ids, split=recipe.train.split)

        atomic.write_text(out / RECIPE_NAME, recipe.to_toml())
        resumed_from = None
        if is_trained(recipe, rows):
            training = Training(recipe, left.features.to(device), right.features.to(device), rows.to(device))
            resumed_from = _resume(training, out) if resume else None
            _run(training, out, data_identity)
            fitted = training.fitted()
        else:
            fitted = fit(recipe, left.features, right.features, rows)
            atomic.write_text(out / METRICS_NAME, json.dumps(fitted.findings) + "\n" if fitted.findings else "")
        for warning in fitted.warnings:
            note(f"warning: {warning}")

        towers = {
            modality: TowerConfig(
                spec=recipe.towers[modality].backbone,
                weights=recipe.towers[modality].weights,
                pooling=recipe.towers[modality].pooling,
                identity=backbone.identity,
                dim=backbone.dim,
                encoder=encoder.describe(),
                initial=initial.describe(),
            )
            for modality, backbone, encoder, initial in zip(
                modalities, backbones, fitted.encoders, fitted.initial, strict=True
            )
        }
        config = ModelConfig(
            method=recipe.method,
            seed=recipe.seed,
            pairs=len(pairs),
            dataset_sha256=data_identity,
            towers=towers,
        )
        atomic.write_text(out / "README.md", model_card(recipe, config, dataset))
        save_model(
            out,
            config,
            dict(zip(modalities, fitted.encoders, strict=True)),
            dict(zip(modalities, fitted.initial, strict=True)),
        )
    steps = recipe.train.steps * recipe.ensemble if is_trained(recipe, rows) else 0
    return AlignResult(
        out, recipe.method, len(pairs), steps, resumed_from, reused=False, wall_s=time.monotonic() - started
    )


def _run(training: Training, out: Path, data_identity: str) -> None:
    """Takes the steps that are left; writes metrics each step, checkpoints now and then and when stopped."""
    recipe = training.recipe
    folder = out / CHECKPOINTS_NAME

    def save() -> None:
        header = {"recipe": recipe.to_toml(), "dataset_sha256": data_identity}
        checkpoint.save(folder, Checkpoint(training.taken, header, training.tensors()))

    kept = _metrics_before(out / METRICS_NAME, training.taken)
    with (out / METRICS_NAME).open("w", encoding="utf-8") as metrics:
        metrics.writelines(kept)
        bar = progress(range(training.taken, training.steps), label=f"align {recipe.method}", unit="step")
        try:
            for _ in bar:
                record = training.advance()
                metrics.write(json.dumps(record, allow_nan=False) + "\n")
                bar.set_postfix(
                    {name.removeprefix("loss/"): f"{record[name]:.3f}" for name in record if "loss/" in name}
                )
                if training.taken % recipe.train.checkpoint_every == 0 or training.taken == training.steps:
                    metrics.flush()
                    save()
        except (KeyboardInterrupt, SystemExit):
            metrics.flush()
            save()
            note(f"stopped after step {training.taken} of {training.steps}; the same command with --resume goes on")
            raise


def _resume(training: Training, out: Path) -> int | None:
    """Puts the last checkpoint into ``training``; its step, or None where there is none yet."""
    path = checkpoint.latest(out / CHECKPOINTS_NAME)
    if path is None:
        return None
    saved = checkpoint.load(path)
    training.restore(saved.step, saved.tensors)
    note(f"resuming from {path}, step {saved.step} of {training.steps}")
    return saved.step


def _metrics_before(path: Path, step: int) -> list[str]:
    """The lines of metrics.jsonl up to ``step``: what came after the checkpoint is taken again."""
    if not step:
        return []
    return path.read_text(encoding="utf-8").splitlines(keepends=True)[:step]


def resolve_device(wanted: str) -> torch.device:
    """The device of ``train.device``; "auto" takes a CUDA GPU where there is one.

    Raises:
        SetClipError: the device asked for is not there.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[wanted]:
        raise SetClipError(
            f"train.device = {wanted!r}: this machine has none that torch can use",
            fix="--set train.device=auto, or see `setclip doctor`",
            exit_code=ExitCode.USAGE,
        )
    return torch.device(wanted)


def _backbone(recipe: Recipe, modality: Modality, device: torch.device) -> Backbone:
    tower = recipe.towers[modality]
    return load_backbone(tower.backbone, modality=modality, weights=tower.weights, pooling=tower.pooling, device=device)
