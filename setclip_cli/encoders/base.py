"""What every encoder is: a map from features to embeddings that a RUN saves as data, never as code.

``describe()`` gives an encoder's kind and sizes as plain JSON values. ``encoder_from_description`` builds an encoder of
these sizes, and its tensors are then loaded into it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from torch import nn

from setclip_cli.errors import SetClipError

_KINDS: dict[str, type[Encoder]] = {}


class Encoder(nn.Module):
    """(n, p) features -> (n, dim) embeddings, unit rows.

    Attributes:
        dim: Width of the embeddings.
    """

    kind: ClassVar[str]
    keeps: ClassVar[tuple[str, ...]] = ()  # the tensors that hold a row for each of some rows of data
    dim: int

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _KINDS[cls.kind] = cls

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Kind and sizes as JSON values: enough to build an encoder of the same shapes."""

    @classmethod
    @abstractmethod
    def from_description(cls, description: dict[str, Any]) -> Encoder:
        """An encoder of the described shapes, its tensors still to be loaded."""


def nested_widths(description: dict[str, Any]) -> list[int]:
    """Widths at which the first values of an embedding are trained to be one too; none if it is not nested."""
    inner = description.get("encoder") if description.get("kind") == "composed" else None
    return nested_widths(inner) if inner else list(description.get("nested", []))


def rows_kept(encoder: Encoder) -> int:
    """How many rows of data, at least, an encoder holds vectors of; 0 for one that learned from them alone."""
    kept = (getattr(part, name) for part in encoder.modules() if isinstance(part, Encoder) for name in part.keeps)
    return max(map(len, kept), default=0)


def encoder_from_description(description: dict[str, Any]) -> Encoder:
    """Builds the encoder that ``describe()`` described; load its tensors with ``load_state_dict``.

    Raises:
        SetClipError: a kind that this version does not know, or a size that is missing or wrong.
    """
    kind = description.get("kind")
    if kind not in _KINDS:
        raise SetClipError(
            f"encoder description: unknown kind {kind!r}; this version of setclip knows {', '.join(sorted(_KINDS))}",
            fix="load the run with the version of setclip that its config.json names",
        )
    try:
        return _KINDS[kind].from_description(description)
    except (KeyError, TypeError, ValueError) as error:
        raise SetClipError(
            f"encoder description of kind {kind!r}: cannot be used ({error!r})", fix="restore config.json of the run"
        ) from error
