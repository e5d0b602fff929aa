"""Modalities: a name that the user chooses, and the kind of its rows."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable

Modality = str  # a name: "protein", "sar", "abstract", "audio"
RowKind = Literal["protein", "image", "text", "vector", "video"]
ROW_KINDS: tuple[RowKind, ...] = get_args(RowKind)
KINDS_OF_NAMES: dict[Modality, RowKind] = {"protein": "protein", "image": "image", "caption": "text"}
USUAL_KINDS: dict[Modality, RowKind] = {"video": "video"}  # of names that can also have rows of another kind
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
NAMES_OF_KINDS: dict[RowKind, Modality] = {kind: name for name, kind in KINDS_OF_NAMES.items()} | {
    "vector": "vector",
    "video": "video",
}
_PLURALS = {name: f"{name}s" for name in ("protein", "image", "caption", "text", "vector", "video")}
_RESERVED = {"both", "checkpoints", "geometry", "pairs", "retrieval", "validation", "zero_shot"}  # of metrics, folders


def why_not_a_name(name: str) -> str | None:
    """Why a string cannot be the name of a modality, or None if it can. It becomes a folder and part of metric keys."""
    if not _NAME.fullmatch(name):
        return "is not a small letter and then at most 31 small letters, digits, '-' and '_'"
    if "_to_" in name:
        return "holds '_to_', which stands between the two names in metric keys"
    if name in _RESERVED:
        return "means something else in reports"
    return None


def require_kind(name: Modality, kind: RowKind | None) -> None:
    """Checks a tower of a document of ours: files are named after it.

    Raises:
        ValueError: it is not the name of a modality, or nothing says its kind.
    """
    if reason := why_not_a_name(name):
        raise ValueError(f"towers.{name}: the name of a modality {reason}")
    if kind is None and name not in KINDS_OF_NAMES:
        raise ValueError(f"towers.{name}: does not say what kind of rows it reads")


def in_order(names: Iterable[Modality]) -> list[Modality]:
    """Names in the order in which files list them: protein, image, caption, then all others by their letters."""
    return sorted(set(names), key=place_in_order)


def place_in_order(name: Modality) -> tuple[int, str]:
    """The sorting key of `in_order`."""
    first = [*KINDS_OF_NAMES]
    return (first.index(name) if name in first else len(first)), name


def singular(name: Modality) -> str:
    """``image``; ``sar row`` for a name of the user's own."""
    return name if name in KINDS_OF_NAMES else f"{name} row"


def plural(name: Modality | RowKind) -> str:
    """``images``; ``sar rows`` for a name that has no plural of its own."""
    return _PLURALS.get(name, f"{name} rows")
