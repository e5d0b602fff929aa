"""Encoders that start from embeddings which are aligned already, and learn how far to move away from them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from setclip_cli.encoders.base import Encoder
from setclip_cli.encoders.transform import FeatureTransform


class UnitRows(Encoder):
    """The features themselves, scaled to unit length: what a joint model compares."""

    kind = "unit"

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(features, dim=1)

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "dim": self.dim}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> UnitRows:
        return cls(description["dim"])


class WithStart(nn.Module):
    """Transformed features, and beside them the embeddings to start from: (n, p) -> (n, axes + dim).

    The start has no part in training. It sees the features as they are: centred ones are no longer aligned.
    """

    def __init__(self, transform: FeatureTransform, start: Encoder) -> None:
        super().__init__()
        self.transform = transform
        self.start = start.requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([self.transform(features), self.start(features)], dim=1)


class ResidualHead(Encoder):
    """The trained head of a tower with a start s: unit(s + W2 gelu(W1 x + b1) + b2), or unit(s + W2 x + b2) if linear.

    W2 and b2 begin at 0: before the first step the embedding is the start. The rows it reads are [x | s].
    """

    kind = "residual"

    def __init__(self, features: int, dim: int, *, hidden: int, head: str = "mlp", seed: int = 0) -> None:
        """Weights are drawn from ``seed`` alone, whatever the state of torch's global generator.

        Args:
            features: Width of x, the transformed features.
            dim: Width of the start and of the embeddings.
            hidden: Width of the layer between them, if there is one.
        """
        super().__init__()
        if head not in {"mlp", "linear"}:
            raise ValueError(f"head must be 'mlp' or 'linear', got {head!r}")
        self.features, self.dim, self.width, self.head = features, dim, hidden, head
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.input = nn.Linear(features, hidden) if head == "mlp" else None
            self.output = nn.Linear(hidden if head == "mlp" else features, dim)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, features: Tensor) -> Tensor:
        x, start = features[:, : self.features], features[:, self.features :]
        if self.input is not None:
            x = F.gelu(self.input(x))
        return F.normalize(start + self.output(x), dim=1)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "features": self.features,
            "dim": self.dim,
            "hidden": self.width,
            "head": self.head,
        }

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> ResidualHead:
        return cls(description["features"], description["dim"], hidden=description["hidden"], head=description["head"])
