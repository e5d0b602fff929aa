"""The steps of a RUN: metrics, checkpoints, the progress bar, signals, early stopping, and a step that fails."""

from __future__ import annotations

import resource
import sys
import time
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING

import torch

from setclip_cli.console import note, progress
from setclip_cli.errors import SetClipError, first_line
from setclip_cli.files.write_errors import WriteError
from setclip_cli.run import checkpoint
from setclip_cli.run.checkpoint import Checkpoint
from setclip_cli.run.folder import CHECKPOINTS_NAME
from setclip_cli.run.metrics import METRICS_SHA256, kept_lines
from setclip_cli.training.interrupts import BetweenSteps
from setclip_cli.training.loggers import RunLog

if TYPE_CHECKING:
    from pathlib import Path

    from setclip_cli.recipe.recipe import Recipe
    from setclip_cli.training.early_stopping import EarlyStopping
    from setclip_cli.training.training import Training


def run_steps(
    recipe: Recipe,
    training: Training,
    stopping: EarlyStopping | None,
    out: Path,
    *,
    dataset_sha256: str,
    resume: bool,
) -> int | None:
    """Takes the steps that are left, in every process; the main one writes metrics and checkpoints.

    Returns:
        The step it resumed from, or None.
    """
    train, main = recipe.train, training.group.main
    header = {"recipe": recipe.to_toml(), "dataset_sha256": dataset_sha256}
    resumed_from, kept = _resume(training, stopping, out) if resume else (None, [])
    if resumed_from is not None and main:  # a kill may have come between a checkpoint and the removal of an older one
        checkpoint.prune(out / CHECKPOINTS_NAME, keep=train.keep_checkpoints, every=train.checkpoint_every)
    started, first = time.monotonic(), training.taken
    rows = sum(min(train.batch, len(tower.pool)) for tower in training.towers)  # unpaired, of a step

    def save() -> str:
        """Writes a checkpoint; returns what a message calls it."""
        if log is None:
            return "the checkpoint of the first process"
        log.flush()
        tensors, more = training.tensors(), {METRICS_SHA256: log.sha256()}
        if stopping is not None:
            tensors, more = tensors | stopping.tensors(), more | stopping.header()
        state = Checkpoint(training.taken, header | more, tensors)
        return str(
            checkpoint.save(out / CHECKPOINTS_NAME, state, keep=train.keep_checkpoints, every=train.checkpoint_every)
        )

    with (
        BetweenSteps() as signals,
        closing(RunLog(out, kept=kept, loggers=train.loggers, recipe=recipe.model_dump(mode="json")))
        if main
        else nullcontext() as log,
    ):
        bar = progress(range(first, training.steps), label=f"align {recipe.method}", unit="step")
        try:
            for _ in bar:
                record = training.advance()
                if stopping is not None:
                    record |= stopping.validate_if_due(training)
                if log is not None:
                    log.write(record)
                    if train.map_every and training.taken % train.map_every == 0:
                        log.picture(training.taken, *training.last_embeddings())
                rows_a_second = rows * (training.taken - first) / (time.monotonic() - started)
                bar.set_postfix(_bar_figures(record, rows_a_second, on_gpu=training.towers[0].features.is_cuda))
                if training.taken % train.checkpoint_every == 0 or training.taken == training.steps:
                    save()
                if stopping is not None and stopping.should_stop(training):
                    break
                if signals.wanted:  # between two steps: what a second signal stops within one is not saved
                    save()
                    note(f"stopped after step {training.taken} of {training.steps}; a checkpoint holds it")
                    signals.stop()
        except WriteError:
            raise
        except SetClipError as error:  # a loss that is not finite: the state is that of the step before
            raise SetClipError(error.problem, fix=f"{error.fix}; {save()} holds the last good step") from error
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            raise _out_of_memory(recipe, training.taken, save(), error) from error
    if stopping is not None and stopping.best is not None:
        if main and stopping.should_stop(training):
            note(f"stopped early after step {training.taken}: no better validation since step {stopping.best[1]}")
        stopping.restore_best(training)
    return resumed_from


def _resume(training: Training, stopping: EarlyStopping | None, out: Path) -> tuple[int | None, list[bytes]]:
    """Restores the last checkpoint, if there is one; returns its step and the lines of metrics.jsonl up to it."""
    path = checkpoint.latest(out / CHECKPOINTS_NAME)
    if path is None:
        return None, []
    saved = checkpoint.load(path)
    kept = kept_lines(out, saved)
    training.restore(saved.step, saved.tensors)
    if stopping is not None:
        stopping.restore(saved.tensors, saved.header)
    if training.group.main:
        note(f"resuming from {path}, step {saved.step} of {training.steps}")
    return saved.step, kept


def _bar_figures(record: dict[str, float], rows_a_second: float, *, on_gpu: bool) -> dict[str, str]:
    """What the progress bar shows beside the time left: losses, unpaired rows a second, memory."""
    losses = {name.removeprefix("loss/"): f"{value:.3f}" for name, value in record.items() if "loss/" in name}
    if on_gpu:
        used = torch.cuda.max_memory_allocated()
    else:
        unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return losses | {"rows/s": f"{rows_a_second:.0f}", "GiB": f"{used / 2**30:.1f}"}


def _is_out_of_memory(error: BaseException) -> bool:
    """torch's allocator for the CPU raises a plain RuntimeError, which only its message tells from others."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _out_of_memory(recipe: Recipe, taken: int, saved: str, error: BaseException) -> SetClipError:
    train, dim = recipe.train, recipe.projection.dim
    tuned = any(not tower.frozen for tower in recipe.towers.values())
    smaller = f"train.chunk={max(1, train.chunk // 2)}" if tuned else f"projection.dim={max(1, dim // 2)}"
    return SetClipError(
        f"step {taken + 1}: out of memory with train.batch = {train.batch}, train.pairs_per_batch = "
        f"{train.pairs_per_batch}, train.chunk = {train.chunk}, projection.dim = {dim} ({first_line(error)})",
        fix=f"start a new RUN with --set {smaller}, --set train.batch={max(2, train.batch // 2)} or "
        f"--set train.pairs_per_batch={max(1, train.pairs_per_batch // 2)}; "
        f"{saved} holds the last whole step of this RUN",
    )
