"""What a tower of a RUN holds: a transform that is fitted on a pool of features, and a head that is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from setclip_cli.encoders.base import Encoder, encoder_from_description
from setclip_cli.encoders.start import WithStart
from setclip_cli.encoders.transform import FeatureTransform

if TYPE_CHECKING:
    from collections.abc import Sequence


class Composed(Encoder):
    """An encoder behind a feature transform: what a tower of a RUN holds."""

    kind = "composed"

    def __init__(self, transform: FeatureTransform | WithStart, encoder: Encoder) -> None:
        super().__init__()
        self.transform = transform
        self.encoder = encoder
        self.dim = encoder.dim

    def forward(self, features: Tensor) -> Tensor:
        embeddings: Tensor = self.encoder(self.transform(features))
        return embeddings

    def describe(self) -> dict[str, Any]:
        transform = self.transform.transform if isinstance(self.transform, WithStart) else self.transform
        features, axes = transform.axes.shape
        described = {"kind": self.kind, "features": features, "axes": axes, "encoder": self.encoder.describe()}
        if isinstance(self.transform, WithStart):
            described["start"] = self.transform.start.describe()
        return described

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Composed:
        transform = FeatureTransform(description["features"], description["axes"])
        encoder = encoder_from_description(description["encoder"])
        if "start" in description:
            return cls(WithStart(transform, encoder_from_description(description["start"])), encoder)
        return cls(transform, encoder)


class ProjectionHead(Encoder):
    """The trained head: unit(LayerNorm(W2 gelu(p) + p)) with p = W1 x + b, or unit(W1 x + b) when linear."""

    kind = "projection"

    def __init__(
        self, features: int, dim: int, *, head: str = "mlp", seed: int = 0, nested: Sequence[int] | None = None
    ) -> None:
        """Weights are drawn from ``seed`` alone, whatever the state of torch's global generator.

        ``nested`` are the widths that the training nests; they change nothing here.
        """
        super().__init__()
        if head not in {"mlp", "linear"}:
            raise ValueError(f"head must be 'mlp' or 'linear', got {head!r}")
        self.features, self.dim, self.head = features, dim, head
        self._nested = list(nested or ())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.input = nn.Linear(features, dim)
            self.hidden = nn.Linear(dim, dim) if head == "mlp" else None
            self.norm = nn.LayerNorm(dim) if head == "mlp" else None

    def forward(self, features: Tensor) -> Tensor:
        projected = self.input(features)
        if self.hidden is not None and self.norm is not None:
            projected = self.norm(self.hidden(F.gelu(projected)) + projected)
        return F.normalize(projected, dim=1)

    def describe(self) -> dict[str, Any]:
        described = {"kind": self.kind, "features": self.features, "dim": self.dim, "head": self.head}
        return {**described, "nested": self._nested} if self._nested else described

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> ProjectionHead:
        return cls(
            description["features"], description["dim"], head=description["head"], nested=description.get("nested")
        )
