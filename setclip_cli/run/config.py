"""RUN/config.json: where the features of each tower come from, which encoder maps them, and the hashes of the files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from setclip_cli.dataset.modality import KINDS_OF_NAMES, Modality, RowKind, in_order, require_kind
from setclip_cli.dataset.schemas import ModalityInfo
from setclip_cli.errors import SetClipError, translated
from setclip_cli.files import atomic, hashes
from setclip_cli.files.documents import read_json
from setclip_cli.files.what_is import what_is
from setclip_cli.pixels.bands import BandScale
from setclip_cli.places import named
from setclip_cli.remote.run_files import CONFIG_NAME, tuned_name
from setclip_cli.version import __version__

if TYPE_CHECKING:
    from setclip_cli.files.what_is import Found, Kind

MODEL_NAME: Final = "model.safetensors"
INITIAL_NAME: Final = "initial.safetensors"
RECIPE_NAME: Final = "recipe.toml"
METRICS_NAME: Final = "metrics.jsonl"
RunFile = Literal["model.safetensors", "initial.safetensors", "recipe.toml", "metrics.jsonl"]
_SHA256_LETTERS, _GIT_LETTERS = 64, 40
RESTORE = "restore the file from a copy of this RUN, or train again with `setclip align` into another folder"


def advice(path: Path, otherwise: str = RESTORE) -> str:
    """What to do about a damaged file of a RUN. Who reads it from a hub did not train it.

    Args:
        otherwise: The advice about a RUN of the user's own.
    """
    place = named(path)
    if not place.startswith("hub:"):
        return otherwise
    repo = place.partition("@")[0]
    return f"name another state of the repository, {repo}@REVISION, or tell its owner"


_LATER_KEYS = ("known_items", "dropped_pairs", "left")  # that earlier versions do not know
_LATER_TOWER_KEYS = ("kind", "vectors_of", "frames")


class TowerConfig(BaseModel):
    """Where a tower's features come from and which encoder maps them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: RowKind | None = None  # of its rows; None if the name of the modality says it
    vectors_of: str | None = None  # of stored vectors: the encoder that the user stated
    frames: int | None = Field(default=None, ge=1)  # at most, of each video that the tower was trained on
    spec: str
    weights: str
    pooling: str
    layer: int = -1  # the layer that gives the features, counted from 1
    joint: bool = False  # whether the backbone is half of a joint model, with its projection
    preprocessing: dict[str, Any] | None = None  # of the backbone at training; None in a RUN of an early version
    identity: str  # of the backbone before training: embedding needs the same weights again
    trainable: str = "frozen"
    lora_rank: int = 8
    tuned_sha256: str | None = None  # of its file (`tuned_name`), where training changed the backbone
    dim: int  # width of the features
    encoder: dict[str, Any]
    initial: dict[str, Any]

    def info(self, modality: Modality) -> ModalityInfo:
        """The rows that the tower reads."""
        kind = self.kind or KINDS_OF_NAMES[modality]
        if kind != "vector":
            return ModalityInfo(kind=kind)
        return ModalityInfo(kind=kind, width=self.dim, dtype="float32", encoder=self.vectors_of)

    @property
    def bands(self) -> BandScale | None:
        """How the bands of its images are scaled; None for pictures and other rows."""
        return BandScale.of_preprocessing(self.preprocessing or {})

    @property
    def trained_identity(self) -> str:
        """The identity of the backbone after training; ``identity`` itself for a frozen one."""
        return self.identity if self.tuned_sha256 is None else f"{self.identity}+{self.tuned_sha256}"


class ModelConfig(BaseModel):
    """RUN/config.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    setclip_version: str = __version__
    method: str
    seed: int
    pairs: int  # known pairs that training used
    known_items: int | None = None  # items that these pairs belong to, if the recipe counts items
    dropped_pairs: int | None = None  # known pairs that were left out as likely wrong, if that was asked for
    dataset_sha256: str  # of the DATASET's index, as training opened it
    layer_choice: dict[str, Any] | None = None  # what layer = "best" measured, where a tower asked for it
    left: Modality | None = None  # the left tower, if it does not come first in the order of files
    towers: dict[Modality, TowerConfig]
    files: dict[RunFile, str] = {}  # sha256; empty in a RUN of an early version

    @model_validator(mode="after")
    def _check(self) -> Self:
        for modality, tower in self.towers.items():
            require_kind(modality, tower.kind)
        return self

    def modalities(self) -> list[Modality]:
        """The towers, the left one first."""
        ordered = in_order(self.towers)
        return ordered if self.left is None else sorted(ordered, key=lambda modality: modality != self.left)

    def as_json(self) -> dict[str, Any]:
        """The content of config.json. A key that earlier versions do not know is there only if it says something."""
        described = self.model_dump(mode="json")
        for owner, keys in [
            (described, _LATER_KEYS),
            *((tower, _LATER_TOWER_KEYS) for tower in described["towers"].values()),
        ]:
            for key in keys:
                if owner[key] is None:
                    del owner[key]
        return described

    def identity(self, model_sha256: str) -> str:
        """sha256 of the configuration and of model.safetensors: equal identity means equal embeddings."""
        described = self.as_json()
        del described["files"]
        described.pop("known_items", None)
        described.pop("dropped_pairs", None)
        for tower in described["towers"].values():  # a key that earlier RUNs lack changes no identity
            if not tower["joint"]:
                del tower["joint"]
        return atomic.sha256_bytes(json.dumps([described, model_sha256], sort_keys=True).encode())


def require_file(run: Path, config: ModelConfig, name: RunFile) -> None:
    """Checks a file of a RUN before it is used, if config.json knows its hash.

    Raises:
        SetClipError: it is missing or has changed.
    """
    if name in config.files:
        require_unchanged(run / name, config.files[name])


def identity_of(run: Path, config: ModelConfig) -> str:
    """The identity of a RUN with this config.json.

    Raises:
        SetClipError: it is of an early version, without hashes in config.json, and its tensors cannot be read.
    """
    sha256 = config.files.get(MODEL_NAME)
    if sha256 is None:
        with translated(run / MODEL_NAME, OSError, found="cannot be read", fix=advice(run / MODEL_NAME)):
            sha256 = atomic.sha256_file(run / MODEL_NAME)
    return config.identity(sha256)


def require_whole(run: Path, config: ModelConfig) -> None:
    """Checks every file of a RUN whose hash config.json knows.

    Raises:
        SetClipError: one is missing or has changed.
    """
    for name in config.files:
        require_file(run, config, name)
    for modality, tower in config.towers.items():
        if tower.tuned_sha256 is not None:
            require_unchanged(run / tuned_name(modality), tower.tuned_sha256)


def require_unchanged(path: Path, sha256: str) -> None:
    try:
        hashes.require_unchanged(path, sha256, since="align", listed_in=CONFIG_NAME, fix=advice(path))
    except SetClipError as error:
        held = path.resolve()
        if named(path).startswith("hub:") and _is_damaged_copy(held):
            fix = f"the copy on this machine is damaged: remove {held}, and run the same command again"
            raise SetClipError(error.marked()[0], fix=fix) from error
        raise


def _is_damaged_copy(held: Path) -> bool:
    """Whether a file in the cache of huggingface_hub is not the one of the repository, by whose hash it is called."""
    if not held.is_file():
        return False
    if len(held.name) == _SHA256_LETTERS:
        return atomic.sha256_file(held) != held.name
    content = held.read_bytes()  # a small file, with git's hash
    return (
        len(held.name) == _GIT_LETTERS and hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() != held.name
    )


def load_config(run: Path) -> ModelConfig:
    """Reads config.json of a finished RUN, without its tensors."""
    path = run / CONFIG_NAME
    with translated(run, found="cannot be looked at", fix="check the path"):
        there = path.exists()
    found = what_is(run)
    if not there or found.kind == "model folder":
        raise _not_a_run(run, found)
    return read_json(path, ModelConfig, fix=advice(path, "train again with this version of setclip"))


def _not_a_run(run: Path, found: Found) -> SetClipError:
    """The error of a folder without the config.json of a RUN, which says what the folder is."""
    again = f"setclip align RECIPE --data DATASET --out {run}"
    if found.kind == "run":
        return SetClipError(f"{run}: its training has not finished", fix=f"{again} --resume")
    fixes: dict[Kind, str] = {
        "missing": again,
        "empty": again,
        "dataset": "give the folder that `setclip align` wrote; in the commands the RUN comes before the DATASET",
        "embeddings": "give the folder that `setclip align` wrote",
        "checkpoints": f"give the RUN itself: {run.parent}",
        "quickstart": f"give one of the RUNs in {run / 'runs'}",
        "study": f"give one of the RUNs in {run / 'runs'}",
    }
    fix = fixes.get(found.kind, "give the folder that `setclip align` wrote")
    return SetClipError(f"{run}: is not a RUN (it has no {CONFIG_NAME} of a RUN): it {found.words}", fix=fix)
