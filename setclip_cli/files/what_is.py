"""What a path is: one of our folders, one of other programs, or a file. For messages about a path in a wrong place."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal, NamedTuple

from setclip_cli.files.leftovers import is_temporary
from setclip_cli.files.lock import LOCK_NAME

if TYPE_CHECKING:
    from pathlib import Path

Kind = Literal[
    "missing",
    "file",
    "empty",
    "dataset",
    "run",
    "embeddings",
    "report",
    "matches",
    "labels",
    "sheet",
    "inspection",
    "pair check",
    "study",
    "quickstart",
    "cache",
    "checkpoints",
    "export",
    "model folder",
    "hub cache",
    "folder",
]


class Found(NamedTuple):
    """``words`` end a sentence that begins with the path, such as "is a RUN"."""

    kind: Kind
    words: str


_CACHE_FOLDERS = {"features", "vectors", "items", "layers", "downloads", "hashes", "remote", "seals"}


def what_is(path: Path) -> Found:
    """What a path is, by the names in it; nothing is read but a config.json, which other programs write too."""
    if not path.exists():
        return Found("missing", "does not exist")
    if not path.is_dir():
        return Found("file", "is a file")
    try:
        names = {one.name for one in path.iterdir() if one.name != LOCK_NAME and not is_temporary(one.name)}
    except OSError as error:
        return Found("folder", f"is a folder that cannot be read ({error.strerror})")
    return _of_names(path, names)


def _of_names(path: Path, names: set[str]) -> Found:
    if not names:
        return Found("empty", "is an empty folder")
    if "dataset.json" in names:
        return Found("dataset", "is a DATASET")
    if ".ingest" in names:
        return Found("dataset", "is a DATASET whose ingest has not finished")
    if "embeddings.json" in names:
        return Found("embeddings", "is an EMBEDDINGS folder")
    if ".finished" in names:
        return Found("embeddings", "is an EMBEDDINGS folder whose embedding has not finished")
    if "labels.json" in names:  # before the RUN: a recipe and a RUN may lie in it
        return Found("labels", "is a folder of `setclip label`")
    if "config.json" in names and _is_run(path):
        return Found("run", "is a RUN")
    if "recipe.toml" in names:
        return Found("run", "is a RUN whose training has not finished")
    if "report.json" in names:
        return Found("report", "is a REPORT")
    if "matches.json" in names:
        return Found("matches", "is a folder of matches")
    if "suggest.csv" in names:
        return Found("sheet", "is a folder of `setclip suggest`")
    if "inspect.json" in names:
        return Found("inspection", "is a folder of `setclip inspect`")
    if "check_pairs.json" in names:
        return Found("pair check", "is a folder of `setclip check-pairs`")
    if "setclip_export.json" in names:
        return Found("export", "is a model that `setclip export` wrote")
    if "study.json" in names or {"scores", "runs"} <= names:
        return Found("study", "is the folder of a study")
    if {"source", "dataset"} <= names:
        return Found("quickstart", "is the folder of a quickstart")
    if {"config.json", "modules.json", "config_sentence_transformers.json"} & names:
        return Found("model folder", "is a folder with a model of Hugging Face")
    if "hub" in names or any(name.startswith("models--") for name in names):
        return Found("hub cache", "is a cache of Hugging Face, in which each model has a folder of its own")
    if "snapshots" in names:
        return Found("hub cache", "is a model in a cache of Hugging Face; its files are in a folder below snapshots")
    if any(name.startswith("step-") and name.endswith(".safetensors") for name in names):
        return Found("checkpoints", "is the folder of a RUN's checkpoints")
    if names & _CACHE_FOLDERS and names <= {*_CACHE_FOLDERS, "torch", "huggingface"}:
        return Found("cache", "is the cache of setclip")
    if "huggingface" in names:
        return Found("hub cache", "is a folder in which the cache of Hugging Face is")
    return Found("folder", f"is a folder with {', '.join(map(repr, sorted(names)[:3]))}")


def _is_run(path: Path) -> bool:
    try:
        return "towers" in json.loads((path / "config.json").read_bytes())
    except (OSError, ValueError, TypeError, RecursionError, MemoryError):  # what reads the file next says what is wrong
        return (path / "recipe.toml").exists()
