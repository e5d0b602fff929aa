"""A tower without a backbone: the features are the vectors that the DATASET holds."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import nn

from setclip_cli.backbones.base import Encoded
from setclip_cli.backbones.batching import Budget
from setclip_cli.dataset.schemas import ModalityInfo
from setclip_cli.errors import UsageError
from setclip_cli.vectors import unusable_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from setclip_cli.backbones.base import Backbone
    from setclip_cli.dataset.modality import Modality, RowKind

SPEC = "vector"


class VectorBackbone:
    """A `Backbone` that gives stored vectors as they are, in float32.

    Its identity is that of their width and of the encoder that the user stated: nothing else is known about them.
    """

    kind: RowKind = "vector"
    column = "vector"
    spec = SPEC
    layers = 1
    pooling = "default"

    def __init__(self, modality: Modality, info: ModalityInfo, *, joint: bool = False) -> None:
        assert info.width is not None
        self.modality, self.info = modality, info
        self.dim = info.width
        self.preprocessing: dict[str, Any] = {"width": info.width, "encoder": info.encoder}
        self.identity = hashlib.sha256(json.dumps([SPEC, info.width, info.encoder]).encode()).hexdigest()
        self.space = f"vectors of {info.encoder}" if joint else None  # that both are halves of one model, the user says
        self.device = torch.device("cpu")
        self.budget = Budget()
        self.precision = torch.float32
        self.module: nn.Module = nn.Identity()

    def encode(self, items: Sequence[Any]) -> Encoded:
        values = np.asarray(items, np.float32).reshape(len(items), -1)
        if len(values) and values.shape[1] != self.dim:
            raise UsageError(
                f"{self.modality}: vectors of {values.shape[1]} values, and the tower reads {self.dim}",
                fix="give vectors of the encoder that the tower was aligned with",
            )
        bad = unusable_rows(values)
        features = torch.from_numpy(values.copy()) if len(values) else torch.zeros(0, self.dim)
        for row in bad:
            features[row] = 0
        return Encoded(features, failed={row: f"a vector that {reason}" for row, reason in bad.items()})

    def prepare(self, items: Sequence[Any], *, views: Sequence[int] | None = None) -> Tensor:
        return torch.from_numpy(np.array(items, np.float32))

    def features(self, prepared: Tensor) -> Tensor:
        return prepared.to(self.device)

    def cut(self, layer: int) -> None:
        if layer not in (-1, 1):
            raise UsageError(f"towers.{self.modality}.layer = {layer}: vectors have no layers", fix="leave it out")

    def to(self, device: torch.device) -> Self:
        self.device = torch.device(device)
        return self


def rows_read_by(backbone: Backbone) -> ModalityInfo:
    """What a backbone reads."""
    return backbone.info if isinstance(backbone, VectorBackbone) else ModalityInfo(kind=backbone.kind)
