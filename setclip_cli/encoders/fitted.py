"""Maps that are fitted to pools and pairs in closed form, without a training step."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from setclip_cli.encoders.base import Encoder
from setclip_cli.encoders.neighbours import Neighbours


class LinearMap(Encoder):
    """A fitted linear map: unit((x - offset) W)."""

    kind = "linear"

    def __init__(self, weight: Tensor, offset: Tensor | None = None) -> None:
        """``weight`` is (p, d), ``offset`` (p,)."""
        super().__init__()
        self.weight: Tensor
        self.offset: Tensor
        # contiguous, as a loaded one is: another memory layout would round products differently
        self.register_buffer("weight", weight.detach().float().clone(memory_format=torch.contiguous_format))
        self.register_buffer("offset", torch.zeros(len(weight)) if offset is None else offset.float().clone())
        self.dim = weight.shape[1]

    def project(self, features: Tensor) -> Tensor:
        """(x - offset) W, of any length."""
        return (features - self.offset) @ self.weight

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(self.project(features), dim=1)

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "features": len(self.weight), "dim": self.dim}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> LinearMap:
        return cls(torch.zeros(description["features"], description["dim"]))


class KernelMap(Encoder):
    """A fitted kernel regression: unit(Σ_j exp((cos(x, a_j) - 1) / width) c_j)."""

    kind = "kernel"
    keeps = ("anchors",)

    def __init__(self, anchors: Tensor, coefficients: Tensor, width: float) -> None:
        """``anchors`` is (c, p), unit rows; ``coefficients`` is (c, d)."""
        super().__init__()
        if not width > 0:
            raise ValueError(f"KernelMap needs a width above 0, got {width}")
        self.anchors: Tensor
        self.coefficients: Tensor
        layout = torch.contiguous_format  # as of a loaded one, see LinearMap
        self.register_buffer("anchors", anchors.detach().float().clone(memory_format=layout))
        self.register_buffer("coefficients", coefficients.detach().float().clone(memory_format=layout))
        self.width = width
        self.dim = coefficients.shape[1]

    @staticmethod
    def similarities(rows: Tensor, anchors: Tensor, width: float) -> Tensor:
        """(n, c) kernel values of rows and unit anchors, each in (0, 1]."""
        return ((F.normalize(rows, dim=1) @ anchors.T - 1) / width).exp_()

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(self.similarities(features, self.anchors, self.width) @ self.coefficients, dim=1)

    def describe(self) -> dict[str, Any]:
        anchors, features = self.anchors.shape
        return {"kind": self.kind, "features": features, "anchors": anchors, "dim": self.dim, "width": self.width}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> KernelMap:
        anchors = torch.zeros(description["anchors"], description["features"])
        return cls(anchors, torch.zeros(description["anchors"], description["dim"]), description["width"])


class RelativeMap(Encoder):
    """Similarities to the anchors: unit(unit((relu cos(x, a_j))^power) - offset). One coordinate an anchor.

    Source: relative representations with sparse powers, ASIF (Norelli et al. 2023, arXiv:2210.01738).
    """

    kind = "relative"
    keeps = ("anchors",)
    _FLOOR = 1e-6  # a row that is like none of the anchors becomes the uniform row, not a row of zeros

    def __init__(self, anchors: Tensor, power: float = 4.0) -> None:
        """``anchors`` is (c, p): row j of both towers belongs to the same pair. The offset starts at 0."""
        super().__init__()
        self.anchors: Tensor
        self.offset: Tensor
        self.register_buffer("anchors", F.normalize(anchors.float(), dim=1))
        self.register_buffer("offset", torch.zeros(len(anchors)))
        self.power = power
        self.dim = len(anchors)

    def centre(self, pool: Tensor) -> RelativeMap:
        """Sets the offset to the mean of a pool's coordinates, so that cosines compare differences from this mean."""
        self.offset.copy_(self._coordinates(pool).mean(0))
        return self

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(self._coordinates(features) - self.offset, dim=1)

    def _coordinates(self, features: Tensor) -> Tensor:
        cosines = F.normalize(features, dim=1) @ self.anchors.T
        return F.normalize(cosines.clamp_min(0).pow(self.power) + self._FLOOR, dim=1)

    def describe(self) -> dict[str, Any]:
        anchors, features = self.anchors.shape
        return {"kind": self.kind, "features": features, "anchors": anchors, "power": self.power}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> RelativeMap:
        return cls(torch.zeros(description["anchors"], description["features"]), description["power"])


class PoolMap(Encoder):
    """Any row gets the weighted mean of the values of its nearest rows in a pool.

    out = unit(Σ_j w_j z_j), w the softmax of cos(x, x_j) / temperature over the k nearest rows
    """

    kind = "pool"
    keeps = ("pool",)

    def __init__(self, pool: Tensor, values: Tensor, *, neighbours: int = 15, temperature: float = 0.1) -> None:
        """``pool`` is (n, p), ``values`` (n, d): z_j of each pool row."""
        super().__init__()
        self.pool: Tensor
        self.values: Tensor
        self.register_buffer("pool", F.normalize(pool.float(), dim=1))
        self.register_buffer("values", values.float().clone())
        self.neighbours, self.temperature = neighbours, temperature
        self.dim = values.shape[1]
        self._finder: tuple[Tensor, Neighbours] | None = None  # with the pool that it was made of

    def coordinates(self) -> Tensor:
        """(n, d) unit rows: the embeddings of the pool itself, each by its own value."""
        return F.normalize(self._transform(self.values), dim=1)

    def forward(self, features: Tensor) -> Tensor:
        if self._finder is None or self._finder[0] is not self.pool:
            self._finder = (self.pool, Neighbours(self.pool))
        rows, cosines = self._finder[1].nearest(features, self.neighbours)
        weights = torch.softmax(cosines / self.temperature, dim=1)
        mean = F.embedding_bag(rows, self.values, per_sample_weights=weights, mode="sum")
        return F.normalize(self._transform(mean), dim=1)

    def _transform(self, values: Tensor) -> Tensor:
        """What is done to the mean value of a row before it is scaled to unit length."""
        return values

    def _load_from_state_dict(self, *given: Any) -> None:
        super()._load_from_state_dict(*given)
        self._finder = None  # the pool may have other rows now

    def describe(self) -> dict[str, Any]:
        pool, features = self.pool.shape
        return {
            "kind": self.kind,
            "features": features,
            "pool": pool,
            "dim": self.dim,
            "neighbours": self.neighbours,
            "temperature": self.temperature,
        }

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> PoolMap:
        return cls(
            torch.zeros(description["pool"], description["features"]),
            torch.zeros(description["pool"], description["dim"]),
            neighbours=description["neighbours"],
            temperature=description["temperature"],
        )


class GraphMap(PoolMap):
    """A pool map of masses, z_j >= 0: how much of each source arrives at a row. out = unit(sqrt(Σ_j w_j z_j))."""

    kind = "graph"

    def _transform(self, values: Tensor) -> Tensor:
        return values.sqrt()
