"""What a tower of a RUN holds: a transform that is fitted on a pool of features, and a head that is trained."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from setclip_cli.encoders.base import Encoder, encoder_from_description


class FeatureTransform(nn.Module):
    """L2-normalise, centre, project on principal axes, scale to a mean norm of 1: (n, p) -> (n, axes).

    It is fitted on an unlabelled pool. Its rows do not have unit length: the norm is the distance from the mean.
    """

    def __init__(self, features: int, axes: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.axes: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("axes", torch.zeros(features, axes))
        self.register_buffer("scale", torch.ones(()))

    @classmethod
    def fit(cls, pool: Tensor, axes: int = 64) -> FeatureTransform:
        """Fits mean, principal axes and scale on a pool of (n, p) features.

        Args:
            pool: The unlabelled features of one modality.
            axes: Number of principal axes to keep; 0 keeps all, which is at most min(n, p).

        Raises:
            ValueError: an empty pool, or NaN or inf in it.
        """
        if pool.ndim != 2 or not len(pool) or not bool(torch.isfinite(pool).all()):
            raise ValueError(f"FeatureTransform needs finite (n, p) features, n > 0; got {tuple(pool.shape)}")
        unit = F.normalize(pool.double(), dim=1)
        mean = unit.mean(0)
        centred = unit - mean
        _, vectors = torch.linalg.eigh(centred.T @ centred)  # ascending
        largest = min(len(pool), pool.shape[1])
        kept = vectors.flip(1)[:, : min(axes or largest, largest)]
        # An axis has no direction of its own: its largest entry is made positive, so that equal pools give equal axes.
        kept = kept * torch.sign(kept.gather(0, kept.abs().argmax(0, keepdim=True)))
        norm = (centred @ kept).norm(dim=1).mean()
        transform = cls(pool.shape[1], kept.shape[1])
        transform.mean.copy_(mean)
        transform.axes.copy_(kept)
        transform.scale.copy_(1 / norm if norm > 1e-12 else torch.ones(()))
        return transform

    def forward(self, features: Tensor) -> Tensor:
        projected: Tensor = (F.normalize(features.to(self.mean.dtype), dim=1) - self.mean) @ self.axes * self.scale
        return projected


class Composed(Encoder):
    """An encoder behind a feature transform: what a tower of a RUN holds."""

    kind = "composed"

    def __init__(self, transform: FeatureTransform, encoder: Encoder) -> None:
        super().__init__()
        self.transform = transform
        self.encoder = encoder
        self.dim = encoder.dim

    def forward(self, features: Tensor) -> Tensor:
        embeddings: Tensor = self.encoder(self.transform(features))
        return embeddings

    def describe(self) -> dict[str, Any]:
        features, axes = self.transform.axes.shape
        return {"kind": self.kind, "features": features, "axes": axes, "encoder": self.encoder.describe()}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Composed:
        transform = FeatureTransform(description["features"], description["axes"])
        return cls(transform, encoder_from_description(description["encoder"]))


class ProjectionHead(Encoder):
    """The trained head: unit(LayerNorm(W2 gelu(p) + p)) with p = W1 x + b, or unit(W1 x + b) when linear."""

    kind = "projection"

    def __init__(self, features: int, dim: int, *, head: str = "mlp", seed: int = 0) -> None:
        """Weights are drawn from ``seed`` alone, whatever the state of torch's global generator."""
        super().__init__()
        if head not in {"mlp", "linear"}:
            raise ValueError(f"head must be 'mlp' or 'linear', got {head!r}")
        self.features, self.dim, self.head = features, dim, head
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
        return {"kind": self.kind, "features": self.features, "dim": self.dim, "head": self.head}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> ProjectionHead:
        return cls(description["features"], description["dim"], head=description["head"])
