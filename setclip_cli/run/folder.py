"""The RUN folder: the names of its files, and whether `align` may write there."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from setclip_cli.errors import SetClipError, UsageError, argument
from setclip_cli.files import atomic
from setclip_cli.files.documents import read_toml
from setclip_cli.files.folders import refuse_foreign
from setclip_cli.remote.run_files import CONFIG_NAME
from setclip_cli.run import checkpoint
from setclip_cli.run.config import RECIPE_NAME, load_config, require_whole
from setclip_cli.run.metrics import kept_lines

if TYPE_CHECKING:
    from pathlib import Path

    from setclip_cli.recipe.recipe import Recipe

SELECTION_NAME = "selection.json"  # which method "auto" chose, and why
CHECKPOINTS_NAME = "checkpoints"

# What may change when a RUN is resumed, without making it another experiment.
SAFE_TO_CHANGE = {
    "train.steps",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.loggers",
    "train.map_every",
    "train.device",
    "train.kernels",
    "train.compile",
    "validation.patience",
}


def is_finished(out: Path, recipe: Recipe) -> bool:
    """Whether the folder holds a finished RUN of exactly this recipe.

    A training that goes on after the end writes its recipe first. Until it is finished, config.json does not list it.
    """
    if not (out / CONFIG_NAME).exists() or _changed_keys(read_toml(out / RECIPE_NAME), recipe):
        return False
    return load_config(out).files.get(RECIPE_NAME) in (None, atomic.sha256_file(out / RECIPE_NAME))


def check_out(out: Path, recipe: Recipe, data_identity: str, *, resume: bool) -> None:
    """Refuses an output folder that is not a RUN, or a RUN of another experiment, before anything is written.

    Raises:
        SetClipError: says what the folder holds and how to go on.
    """
    refuse_foreign(out, "a RUN folder", [RECIPE_NAME])
    if not (out / RECIPE_NAME).exists():
        return
    newest = checkpoint.latest(out / CHECKPOINTS_NAME)
    finished = (out / CONFIG_NAME).exists()
    if newest is None and not finished:
        return  # nothing was trained: an earlier command found a mistake after it had written its recipe
    changed = _changed_keys(read_toml(out / RECIPE_NAME), recipe)
    safe = SAFE_TO_CHANGE - ({"train.steps"} if recipe.ensemble > 1 else set())
    if unsafe := [key for key in changed if key not in safe or not resume]:
        raise UsageError(
            f"{out}: holds a RUN of another recipe ({', '.join(unsafe)} differ)",
            fix=f"choose another {argument('out')}, or remove the RUN yourself; with {argument('resume')} these may "
            f"change: {', '.join(sorted(safe))}",
        )
    if newest is not None and "train.steps" in changed and checkpoint.step_of(newest) > recipe.train.steps:
        raise UsageError(
            f"{out}: has taken {checkpoint.step_of(newest)} steps, more than train.steps = {recipe.train.steps}",
            fix=f"give more train.steps, or choose another {argument('out')}",
        )
    trained_on = None
    if finished:
        config = load_config(out)
        trained_on = config.dataset_sha256
        if config.files.get(RECIPE_NAME) == atomic.sha256_file(out / RECIPE_NAME):
            require_whole(out, config)  # training goes on from these files
    elif newest is not None:
        trained_on = checkpoint.load(newest).header.get("dataset_sha256")
    if trained_on not in (None, data_identity):
        raise SetClipError(
            f"{out}: holds a RUN of this recipe on other data",
            fix=f"choose another {argument('out')}, or remove the RUN yourself",
        )
    if newest is not None and not finished and not resume:
        raise SetClipError(
            f"{out}: holds an unfinished RUN ({newest.name})",
            fix=f"add {argument('resume')} to go on, or choose another {argument('out')}",
        )


def damage(out: Path) -> str:
    """What is wrong with the files that a RUN has, or an empty string. An unfinished RUN has few hashes to check."""
    try:
        if (out / CONFIG_NAME).exists():
            require_whole(out, load_config(out))
        elif (out / RECIPE_NAME).exists():
            read_toml(out / RECIPE_NAME)
            if newest := checkpoint.latest(out / CHECKPOINTS_NAME):
                kept_lines(out, checkpoint.load(newest))
    except SetClipError as error:
        return error.problem
    return ""


def _changed_keys(written: dict[str, Any], recipe: Recipe) -> list[str]:
    """Dotted keys whose values differ from those of a RUN's recipe.

    A key that an earlier version did not have had its default. A key that this version does not have any more, or a
    value that it refuses, counts as changed.
    """
    with suppress(ValidationError):
        written = type(recipe).read_back(written).model_dump(mode="json", exclude_none=True)
    old, new = _flat(written), _flat(recipe.model_dump(mode="json", exclude_none=True))
    return sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
