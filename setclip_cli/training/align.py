"""`align`: a recipe and a DATASET become a RUN.

Features of the frozen backbones come from the cache, the pairs are drawn, the method is fitted, and the encoders are
written beside the recipe, the metrics of every step and a model card.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from setclip_cli.backbones import load_backbone
from setclip_cli.backbones.compiling import compile_blocks
from setclip_cli.backbones.devices import resolve_device, resolve_training_precision
from setclip_cli.backbones.tuning import make_trainable
from setclip_cli.console import note, progress
from setclip_cli.errors import ExitCode, SetClipError
from setclip_cli.features.frozen import augmented_features, frozen_features
from setclip_cli.features.layer_choice import choose_layers, fixed_layers, wants_best
from setclip_cli.features.raw_rows import open_items
from setclip_cli.files import atomic
from setclip_cli.files.lock import exclusive
from setclip_cli.run import checkpoint
from setclip_cli.run.checkpoint import Checkpoint
from setclip_cli.run.folder import CHECKPOINTS_NAME, METRICS_NAME, RECIPE_NAME, SELECTION_NAME, is_finished
from setclip_cli.run.model import TUNED_NAME, ModelConfig, TowerConfig, load_config, load_model, save_model
from setclip_cli.run.model_card import model_card
from setclip_cli.training.distributed import launched
from setclip_cli.training.dry_run import plan
from setclip_cli.training.early_stopping import EarlyStopping, HeldOut, Validation
from setclip_cli.training.interrupts import BetweenSteps
from setclip_cli.training.known_pairs import known_pairs, pair_rows
from setclip_cli.training.loggers import RunLog
from setclip_cli.training.tower import Pool, Start, Tuned
from setclip_cli.training.training import Training, fit, is_trained, resolved

if TYPE_CHECKING:
    from collections.abc import Sequence

    from setclip_cli.backbones.base import Backbone
    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.dataset.modality import Modality
    from setclip_cli.encoders.encoders import Encoder
    from setclip_cli.recipe.recipe import Recipe


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
    planned = plan(recipe, dataset, out, resume=resume)
    device = resolve_device(recipe.train.device, setting="train.device")
    with launched() as group, exclusive(out) if group.main else nullcontext():
        if is_finished(out, recipe):
            config = load_config(out)
            return AlignResult(out, config.method, config.pairs, 0, None, reused=True, wall_s=0.0)
        for remark in planned.notes if group.main else ():
            note(f"note: {remark}")
        group.wait()  # no rank may find the RUN finished by a faster one
        modalities = recipe.modalities()
        pairs = known_pairs(dataset, recipe)
        with group.main_first():  # the others find the choice in the cache, and below the features
            best = choose_layers(recipe, dataset, pairs, device) if wants_best(recipe) else None
        if best and group.main:
            note(best.summary(modalities))
        backbones = [
            _backbone(recipe, modality, layer, device)
            for modality, layer in zip(modalities, best.layers if best else fixed_layers(recipe), strict=True)
        ]
        identities = [backbone.identity for backbone in backbones]
        with group.main_first():
            left, right = (
                frozen_features(backbone, dataset, modality, recipe.train.split)
                for backbone, modality in zip(backbones, modalities, strict=True)
            )
            pools = [
                _pool(recipe, dataset, backbone, table.features.to(device), announce=group.main)
                for backbone, table in zip(backbones, (left, right), strict=True)
            ]
            stopping = _early_stopping(recipe, dataset, backbones)
        rows = pair_rows(pairs, left.ids, right.ids, split=recipe.train.split)
        if group.main:
            atomic.write_text(out / RECIPE_NAME, recipe.to_toml())
        if recipe.method == "auto":
            choice = resolved(recipe, left.features, right.features, rows)
            recipe = choice.recipe
            if group.main:
                note(choice.summary())
                atomic.write_json(out / SELECTION_NAME, choice.as_json())

        steps, resumed_from = 0, None
        tuned: tuple[dict[str, Tensor], ...] = ({}, {})
        if is_trained(recipe, rows):
            start = _start(recipe, identities)
            training = Training(recipe, pools[0], pools[1], rows.to(device), group=group, start=start)
            resumed_from = _run(training, out, dataset.identity(), stopping, resume=resume)
            fitted, tuned, steps = training.fitted(), training.tuned(), training.taken
        else:
            fitted = fit(recipe, left.features, right.features, rows)
        if group.main:
            if not steps:
                atomic.write_text(out / METRICS_NAME, json.dumps(fitted.findings) + "\n" if fitted.findings else "")
            for warning in fitted.warnings:
                note(f"warning: {warning}")
            config = ModelConfig(
                method=recipe.method,
                seed=recipe.seed,
                pairs=len(pairs),
                dataset_sha256=dataset.identity(),
                layer_choice=best.as_json() if best else None,
                towers={
                    modality: _tower_config(recipe, modality, identity, backbone, encoder, initial, out, changed)
                    for modality, identity, backbone, encoder, initial, changed in zip(
                        modalities, identities, backbones, fitted.encoders, fitted.initial, tuned, strict=True
                    )
                },
            )
            card = model_card(recipe, config, dataset, records=_records(out, steps), findings=fitted.findings)
            atomic.write_text(out / "README.md", card)
            encoders = dict(zip(modalities, fitted.encoders, strict=True))
            save_model(out, config, encoders, dict(zip(modalities, fitted.initial, strict=True)))
        group.wait()
    wall_s = time.monotonic() - started
    return AlignResult(out, recipe.method, len(pairs), steps, resumed_from, reused=False, wall_s=wall_s)


def _records(out: Path, steps: int) -> list[dict[str, float]]:
    """metrics.jsonl up to the step whose weights are kept."""
    lines = (out / METRICS_NAME).read_text(encoding="utf-8").splitlines()[:steps]
    return [json.loads(line) for line in lines]


def _pool(recipe: Recipe, dataset: Dataset, backbone: Backbone, features: Tensor, *, announce: bool) -> Pool:
    """The rows of one modality; for a tower that is not frozen, with its backbone made trainable."""
    tower, split = recipe.towers[backbone.modality], recipe.train.split
    if not tower.frozen:
        items = open_items(dataset, backbone.modality, split, backbone.column)
        make_trainable(backbone, tower.trainable, lora_rank=tower.lora_rank, checkpointing=tower.gradient_checkpointing)
        backbone.precision = resolve_training_precision(recipe.train.precision, features.device)
        if recipe.train.compile and (reason := compile_blocks(backbone)) and announce:
            note(f"note: train.compile: this machine cannot ({reason}); training goes on without")
        lengths = None if backbone.modality == "image" else torch.tensor(items.lengths())
        return Pool(features, tuned=Tuned(backbone, items, lengths))
    count = recipe.objective.self_supervised.views if recipe.objective.self_supervised.weight else 0
    views = [augmented_features(backbone, dataset, backbone.modality, split, view=view) for view in range(count)]
    return Pool(features, views=torch.stack(views).to(features.device) if views else None)


def _start(recipe: Recipe, identities: Sequence[str]) -> tuple[Start, Start] | None:
    """The weights of ``init_from``.

    Raises:
        SetClipError: it is no finished RUN, or one of other modalities or backbones.
    """
    if recipe.init_from is None:
        return None
    model = load_model(Path(recipe.init_from))
    found = []
    for modality, identity in zip(recipe.modalities(), identities, strict=True):
        tower = model.config.towers.get(modality)
        if tower is None or tower.identity != identity:
            raise SetClipError(
                f"init_from = {recipe.init_from!r}: its {modality} tower is {tower.spec if tower else 'missing'}, "
                f"not {recipe.towers[modality].backbone} with the same weights",
                fix="start from a RUN of the same towers, or leave init_from out",
                exit_code=ExitCode.USAGE,
            )
        found.append(Start(model.encoders[modality], model.tuned_tensors(modality)))
    return found[0], found[1]


def _early_stopping(recipe: Recipe, dataset: Dataset, backbones: Sequence[Backbone]) -> EarlyStopping | None:
    """Before any weight changes: the validation split's features are those of the backbones as found."""
    if not recipe.validation.every:
        return None
    sides = []
    for backbone in backbones:
        split, tuned = recipe.validation.split, not recipe.towers[backbone.modality].frozen
        table = frozen_features(backbone, dataset, backbone.modality, split)
        items = open_items(dataset, backbone.modality, split, backbone.column) if tuned else None
        sides.append(HeldOut(table.ids, table.features, items.take(range(len(items))) if items else None))
    validation = Validation(recipe, dataset, sides[0], sides[1])
    return EarlyStopping(validation, every=recipe.validation.every, patience=recipe.validation.patience)


def _tower_config(
    recipe: Recipe,
    modality: Modality,
    identity: str,
    backbone: Backbone,
    encoder: Encoder,
    initial: Encoder,
    out: Path,
    tuned: dict[str, Tensor],
) -> TowerConfig:
    """The tower as config.json describes it; tuned weights are written on the way."""
    tower = recipe.towers[modality]
    path = out / TUNED_NAME.format(modality=modality)
    if tuned:
        checkpoint.save_tensors(path, tuned)
    return TowerConfig(
        spec=tower.backbone,
        weights=tower.weights,
        pooling=tower.pooling,
        layer=backbone.layers,
        preprocessing=backbone.preprocessing,
        identity=identity,
        trainable=tower.trainable,
        lora_rank=tower.lora_rank,
        tuned_sha256=atomic.sha256_file(path) if tuned else None,
        dim=backbone.dim,
        encoder=encoder.describe(),
        initial=initial.describe(),
    )


def _run(
    training: Training, out: Path, data_identity: str, stopping: EarlyStopping | None, *, resume: bool
) -> int | None:
    """Takes the steps that are left, in every process; the main one writes metrics and checkpoints.

    Returns:
        The step it resumed from, or None.
    """
    recipe, main = training.recipe, training.group.main
    header = {"recipe": recipe.to_toml(), "dataset_sha256": data_identity}
    resumed_from = _resume(training, stopping, out) if resume else None
    started, first = time.monotonic(), training.taken

    def save() -> Path | None:
        if log is None:
            return None
        log.flush()
        tensors, more = training.tensors(), {}
        if stopping is not None:
            tensors, more = tensors | stopping.tensors(), stopping.header()
        state = Checkpoint(training.taken, header | more, tensors)
        return checkpoint.save(out / CHECKPOINTS_NAME, state, keep=recipe.train.keep_checkpoints)

    with (
        BetweenSteps() as signals,
        (
            RunLog(out, step=training.taken, loggers=recipe.train.loggers, recipe=recipe.model_dump(mode="json"))
            if main
            else nullcontext()
        ) as log,
    ):
        bar = progress(range(training.taken, training.steps), label=f"align {recipe.method}", unit="step")
        try:
            for _ in bar:
                record = training.advance()
                if stopping is not None:
                    record |= stopping.look(training)
                if log is not None:
                    log.write(record)
                    if recipe.train.map_every and training.taken % recipe.train.map_every == 0:
                        log.picture(training.taken, *training.last_embeddings())
                bar.set_postfix(_glance(record, training, (training.taken - first) / (time.monotonic() - started)))
                if training.taken % recipe.train.checkpoint_every == 0 or training.taken == training.steps:
                    save()
                if stopping is not None and stopping.done(training):
                    break
                signals.check()
        except (KeyboardInterrupt, SystemExit):
            save()
            note(f"stopped after step {training.taken} of {training.steps}; the same command with --resume goes on")
            raise
        except SetClipError as error:  # a loss that is not finite: the state is that of the step before
            raise SetClipError(error.problem, fix=f"{error.fix}; {_told(save())} holds the last good step") from error
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            raise _out_of_memory(training, save(), error) from error
    if stopping is not None and stopping.best is not None:
        if main and stopping.done(training):
            note(f"stopped early after step {training.taken}: no better validation since step {stopping.best[1]}")
        stopping.put_back(training)
    return resumed_from


def _glance(record: dict[str, float], training: Training, steps_a_second: float) -> dict[str, str]:
    """What the progress bar shows beside the time left: losses, unpaired rows a second of both sides, memory."""
    losses = {name.removeprefix("loss/"): f"{value:.3f}" for name, value in record.items() if "loss/" in name}
    rows = sum(min(training.recipe.train.batch, len(tower.features)) for tower in training.towers)
    if training.pairs.is_cuda:
        used = torch.cuda.max_memory_allocated()
    else:
        unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return losses | {"rows/s": f"{steps_a_second * rows:.0f}", "GiB": f"{used / 2**30:.1f}"}


def _told(saved: Path | None) -> str:
    return str(saved) if saved else "the checkpoint of the first process"


def _is_out_of_memory(error: BaseException) -> bool:
    """On a CPU torch tells it by a plain RuntimeError of its allocator."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _out_of_memory(training: Training, saved: Path | None, error: BaseException) -> SetClipError:
    train = training.recipe.train
    tuned = any(not tower.frozen for tower in training.recipe.towers.values())
    dim = training.recipe.projection.dim
    smaller = f"train.chunk={max(1, train.chunk // 2)}" if tuned else f"projection.dim={max(1, dim // 2)}"
    detail = str(error).partition("\n")[0] or "no detail"
    return SetClipError(
        f"step {training.taken + 1}: out of memory with train.batch = {train.batch}, train.pairs_per_batch = "
        f"{train.pairs_per_batch}, train.chunk = {train.chunk}, projection.dim = {dim} ({detail})",
        fix=f"a new RUN with --set {smaller}, --set train.batch={max(2, train.batch // 2)} or "
        f"--set train.pairs_per_batch={max(1, train.pairs_per_batch // 2)}; "
        f"{_told(saved)} holds the last whole step of this one",
    )


def _resume(training: Training, stopping: EarlyStopping | None, out: Path) -> int | None:
    """Puts the last checkpoint into ``training`` and ``stopping``; its step, or None where there is none yet."""
    path = checkpoint.latest(out / CHECKPOINTS_NAME)
    if path is None:
        return None
    saved = checkpoint.load(path)
    training.restore(saved.step, saved.tensors)
    if stopping is not None:
        stopping.restore(saved.tensors, saved.header)
    if training.group.main:
        note(f"resuming from {path}, step {saved.step} of {training.steps}")
    return saved.step


def _backbone(recipe: Recipe, modality: Modality, layer: int, device: torch.device) -> Backbone:
    tower = recipe.towers[modality]
    return load_backbone(
        tower.backbone, modality=modality, weights=tower.weights, pooling=tower.pooling, layer=layer, device=device
    )
