"""The files of a RUN, by name: what is copied from servers that list nothing, and from hubs, and what is sent there."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

CONFIG_NAME = "config.json"
NEEDED = (CONFIG_NAME, "model.safetensors", "recipe.toml")
DROPPED_NAME = "dropped_pairs.csv"  # holds ids of data
ALWAYS = (
    *(*NEEDED, "initial.safetensors", "metrics.jsonl", "README.md"),
    *("calibration.json", "selection.json", DROPPED_NAME),
)
PATTERNS = (*ALWAYS, "tuned-*.safetensors")


def tuned_name(modality: str) -> str:
    return f"tuned-{modality}.safetensors"


def names_of_towers(towers: Iterable[str]) -> list[str]:
    """The files that a RUN with these towers may have, but config.json."""
    return [*(name for name in ALWAYS if name != CONFIG_NAME), *map(tuned_name, towers)]


def is_run_file(name: str) -> bool:
    """Whether a file of a repository is one of a RUN."""
    return name in ALWAYS or ("/" not in name and name.startswith("tuned-") and name.endswith(".safetensors"))
