"""Training state on disk: one safetensors file a checkpoint, its tensors beside a JSON header. No pickle.

Samplers, schedules and views are pure functions of (seed, step), so the step is all the state they have.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from setclip_cli.errors import SetClipError, translated
from setclip_cli.files import atomic

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

SCHEMA_VERSION = 1
_DIGEST = "sha256"  # its key in the header
_NAME = re.compile(r"step-(\d{8})\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """What a training needs to go on exactly where it stopped.

    Attributes:
        step: Steps already taken.
        header: The resolved recipe as TOML and the hash of the dataset's index: what it must go on with.
        tensors: Parameters, buffers and optimizer moments by name.
    """

    step: int
    header: dict[str, str]
    tensors: dict[str, Tensor]


def save(folder: Path, checkpoint: Checkpoint, *, keep: int = 2, every: int = 1) -> Path:
    """Writes one checkpoint atomically, then removes those that are not needed any more (`prune`)."""
    path = folder / f"step-{checkpoint.step:08d}.safetensors"
    header = {"schema_version": SCHEMA_VERSION, "step": checkpoint.step, **checkpoint.header}
    save_tensors(path, checkpoint.tensors, {**header, _DIGEST: _digest(checkpoint.tensors, header)})
    prune(folder, keep=keep, every=every)
    return path


def prune(folder: Path, *, keep: int, every: int) -> None:
    """Removes all checkpoints but the last ``keep`` among the newest one and those at multiples of ``every`` steps.

    So a checkpoint that was written for an interrupt goes with the next regular one, and a training that was stopped
    leaves the files of one that was not.
    """
    numbered = _numbered(folder)
    regular = [path for path in numbered if step_of(path) % every == 0 or path == numbered[-1]]
    for path in set(numbered) - set(regular[-keep:]):
        atomic.remove_file(path)


def step_of(path: Path) -> int:
    """The steps that a checkpoint's name says."""
    return int(path.stem.removeprefix("step-"))


def latest(folder: Path) -> Path | None:
    """The checkpoint with the most steps, or None."""
    numbered = _numbered(folder)
    return numbered[-1] if numbered else None


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint.

    Raises:
        SetClipError: the file is damaged, or was written in another version of the format.
    """
    fix = "remove this file; the checkpoint before it is then used, if there is one"
    tensors, header = load_tensors(path, fix=fix)
    digest = header.pop(_DIGEST, None)  # None in a checkpoint of an early version
    if header.get("schema_version") != SCHEMA_VERSION or not isinstance(header.get("step"), int):
        raise SetClipError(
            f"{path}: has schema version {header.get('schema_version')!r}, this setclip reads {SCHEMA_VERSION}",
            fix="resume with the version of setclip that wrote it, or start a new RUN",
        )
    step: int = header["step"]
    named = _NAME.fullmatch(path.name)
    if digest not in (None, _digest(tensors, header)) or (named and step != int(named[1])):
        raise SetClipError(f"{path}: has changed since it was written", fix=fix)
    kept = {key: value for key, value in header.items() if key not in {"schema_version", "step"}}
    return Checkpoint(step=step, header=kept, tensors=tensors)


def _digest(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """sha256 of the header and of every tensor with its name, type and shape."""
    found = hashlib.sha256(json.dumps(dict(header), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any] | None = None) -> None:
    """Writes tensors and a JSON header to one safetensors file, atomically; equal content gives equal bytes."""
    ordered = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    with atomic.atomic_path(path, needs=sum(tensor.nbytes for tensor in ordered.values())) as temporary:
        save_file(ordered, temporary, metadata={"setclip": json.dumps(dict(header or {}), sort_keys=True)})


def load_tensors(path: Path, *, fix: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `save_tensors` wrote.

    Args:
        fix: What the user can do if the file is missing or damaged.

    Raises:
        SetClipError: the file is missing, cut short, or not a safetensors file of setclip.
    """
    if not path.exists():
        raise SetClipError(f"{path}: no such file", fix=fix)
    with (
        translated(path, Exception, found="cannot be read as safetensors", fix=fix),
        safe_open(path, framework="pt") as file,
    ):
        header = dict(json.loads((file.metadata() or {}).get("setclip", "{}")))
        names = file.keys()  # the file itself cannot be iterated
        return {name: file.get_tensor(name) for name in names}, header


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The moments of the optimizer as ``optimizer.<parameter number>.<name>``. Its settings come from the recipe."""
    return {
        f"optimizer.{number}.{name}": value
        for number, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restores the moments that `optimizer_tensors` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, _, rest = key.partition(".")
        if kind == "optimizer":
            number, name = rest.split(".")
            state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _numbered(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*.safetensors") if _NAME.fullmatch(path.name))
