"""Maps from frozen features to embeddings: what a RUN trains or fits, and saves.

Every encoder is a torch module from (n, p) features to (n, d) embeddings, L2-normalised rows. ``describe()`` gives its
kind and sizes as plain JSON values, ``encoder_from_description`` builds an empty one of them to load tensors into:
a saved encoder is data, never code.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from setclip_cli.encoders.neighbours import Neighbours
from setclip_cli.errors import SetClipError

if TYPE_CHECKING:
    from collections.abc import Sequence


class Encoder(nn.Module):
    """(n, p) features -> (n, dim) embeddings, unit rows.

    Attributes:
        dim: Width of the embeddings.
    """

    kind: ClassVar[str]
    dim: int

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Kind and sizes as JSON values: enough to build an encoder of the same shapes."""

    @classmethod
    @abstractmethod
    def from_description(cls, description: dict[str, Any]) -> Encoder:
        """An encoder of the described shapes, its tensors still to be loaded."""


class FeatureTransform(nn.Module):
    """L2-normalise, centre, project on principal axes, scale to a mean norm of 1: (n, p) -> (n, axes).

    It is fitted on an unlabelled pool. Its output is not of unit length: the norm is the distance from the mean.
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
            axes: Principal axes to keep, at most min(n, p) of them exist; 0 keeps all.

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
    """An encoder of transformed features: what a tower of a RUN holds."""

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

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize((features - self.offset) @ self.weight, dim=1)

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "features": len(self.weight), "dim": self.dim}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> LinearMap:
        return cls(torch.zeros(description["features"], description["dim"]))


class RelativeMap(Encoder):
    """Similarities to the anchors: unit(unit((relu cos(x, a_j))^power) - offset). One coordinate an anchor.

    Source: relative representations with sparse powers, ASIF (Norelli et al. 2023, arXiv:2210.01738).
    """

    kind = "relative"
    _FLOOR = 1e-6  # a row that is like no anchor becomes the uniform one, not a row of zeros

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
        """Sets the offset to the mean of a pool's coordinates, so that cosines compare departures from it."""
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
    """Values of a pool's rows, read at any point off its nearest rows in the pool.

    out = unit(Σ_j w_j z_j), w the softmax of cos(x, x_j) / temperature over the k nearest rows
    """

    kind = "pool"

    def __init__(self, pool: Tensor, values: Tensor, *, neighbours: int = 15, temperature: float = 0.1) -> None:
        """``pool`` is (n, p), ``values`` (n, d): z_j of each pool row."""
        super().__init__()
        self.pool: Tensor
        self.values: Tensor
        self.register_buffer("pool", F.normalize(pool.float(), dim=1))
        self.register_buffer("values", values.float().clone())
        self.neighbours, self.temperature = neighbours, temperature
        self.dim = values.shape[1]
        self._finder: tuple[Tensor, Neighbours] | None = None  # of the pool as it was when rows were last asked for

    def coordinates(self) -> Tensor:
        """(n, d) unit rows: those of the pool itself."""
        return F.normalize(self._told(self.values), dim=1)

    def forward(self, features: Tensor) -> Tensor:
        if self._finder is None or self._finder[0] is not self.pool:
            self._finder = (self.pool, Neighbours(self.pool))
        rows, cosines = self._finder[1].nearest(features, self.neighbours)
        weights = torch.softmax(cosines / self.temperature, dim=1)
        mean = F.embedding_bag(rows, self.values, per_sample_weights=weights, mode="sum")
        return F.normalize(self._told(mean), dim=1)

    def _told(self, values: Tensor) -> Tensor:
        """What values say of a row, before it is scaled to unit length."""
        return values

    def _load_from_state_dict(self, *given: Any) -> None:
        super()._load_from_state_dict(*given)
        self._finder = None  # the pool may hold other rows now

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
    """A pool map of masses, how much of each source has arrived at a row: unit(sqrt(Σ_j w_j z_j)), z_j >= 0."""

    kind = "graph"

    def _told(self, values: Tensor) -> Tensor:
        return values.sqrt()


class Concatenated(Encoder):
    """Several encoders side by side; the cosine of two rows is the weighted mean of the encoders' cosines."""

    kind = "concatenated"

    def __init__(self, encoders: Sequence[Encoder], weights: Sequence[float] | None = None) -> None:
        """``weights`` are positive shares of the cosine, equal by default."""
        super().__init__()
        if not encoders:
            raise ValueError("Concatenated needs at least one encoder")
        self.encoders = nn.ModuleList(encoders)
        shares = torch.ones(len(encoders)) if weights is None else torch.tensor(weights, dtype=torch.float32)
        if shares.shape != (len(encoders),) or not bool((shares > 0).all()):
            raise ValueError(
                f"Concatenated needs a positive weight for each of {len(encoders)} encoders, got {weights}"
            )
        self.shares: Tensor
        self.register_buffer("shares", shares / shares.sum())
        self.dim = sum(encoder.dim for encoder in encoders)

    def forward(self, features: Tensor) -> Tensor:
        parts = [encoder(features) * share.sqrt() for encoder, share in zip(self.encoders, self.shares, strict=True)]
        return F.normalize(torch.cat(parts, dim=1), dim=1)

    def describe(self) -> dict[str, Any]:
        encoders = [encoder.describe() for encoder in self.encoders if isinstance(encoder, Encoder)]
        return {"kind": self.kind, "encoders": encoders}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> Concatenated:
        return cls([encoder_from_description(encoder) for encoder in description["encoders"]])


class MeanShift(Encoder):
    """An encoder's embeddings drawn to where those of both sides are dense: unit(u + share · m).

    m <- unit(½ Σ_i w_i x_i + ½ Σ_j v_j y_j), from u on and ``steps`` times; w the softmax of -‖m - x_i‖²/bandwidth over
    known embeddings of the left side, v that of -‖m - y_j‖²/bandwidth over those of the right.

    Each step climbs log p_X + log p_Y, the kernel densities that the density loss makes equal on both sides, so that
    items of one kind come together, from either side.

    Source: mean shift, Cheng 1995 (IEEE TPAMI 17, 790-799), of two densities that count alike, on unit vectors; there
        it is retrieval of a modern Hopfield network, Ramsauer et al. 2020, arXiv:2008.02217.
    """

    kind = "mean-shift"
    _MOST_STEPS = 100  # it has long arrived

    def __init__(
        self, encoder: Encoder, left: Tensor, right: Tensor, *, share: float, bandwidth: float = 0.1, steps: int = 3
    ) -> None:
        """``left`` is (n, d), ``right`` (m, d): unit embeddings of rows of either side, the same in both encoders."""
        super().__init__()
        if not (share > 0 and bandwidth > 0 and 1 <= steps <= self._MOST_STEPS):
            raise ValueError(
                f"MeanShift needs a share and a bandwidth above 0 and 1 to {self._MOST_STEPS} steps, "
                f"got {share}, {bandwidth} and {steps}"
            )
        self.encoder = encoder
        self.left: Tensor
        self.right: Tensor
        self.register_buffer("left", left.float().clone())
        self.register_buffer("right", right.float().clone())
        self.share, self.bandwidth, self.steps = share, bandwidth, steps
        self.dim = encoder.dim

    def forward(self, features: Tensor) -> Tensor:
        own: Tensor = self.encoder(features)
        shifted = own
        for _ in range(self.steps):
            shifted = F.normalize(self._mean(shifted, self.left) + self._mean(shifted, self.right), dim=1)
        return F.normalize(own + self.share * shifted, dim=1)

    def _mean(self, at: Tensor, known: Tensor) -> Tensor:
        """The known embeddings' mean, weighted by the kernel: ‖x - y‖² = 2 - 2 cos, and the 2 cancels."""
        return torch.softmax(at @ known.T * (2 / self.bandwidth), dim=1) @ known

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "encoder": self.encoder.describe(),
            "dim": self.dim,
            "left": len(self.left),
            "right": len(self.right),
            "share": self.share,
            "bandwidth": self.bandwidth,
            "steps": self.steps,
        }

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> MeanShift:
        return cls(
            encoder_from_description(description["encoder"]),
            torch.zeros(description["left"], description["dim"]),
            torch.zeros(description["right"], description["dim"]),
            share=description["share"],
            bandwidth=description["bandwidth"],
            steps=description["steps"],
        )


_KINDS: dict[str, type[Encoder]] = {
    encoder.kind: encoder
    for encoder in (Composed, ProjectionHead, LinearMap, RelativeMap, PoolMap, GraphMap, Concatenated, MeanShift)
}


def encoder_from_description(description: dict[str, Any]) -> Encoder:
    """Builds the encoder that ``describe()`` described; load its tensors with ``load_state_dict``.

    Raises:
        SetClipError: a kind this version does not know, or a size that is missing or wrong.
    """
    kind = description.get("kind")
    if kind not in _KINDS:
        raise SetClipError(
            f"encoder description: unknown kind {kind!r}; this version knows {', '.join(sorted(_KINDS))}",
            fix="load the run with the version of setclip that its config.json names",
        )
    try:
        return _KINDS[kind].from_description(description)
    except (KeyError, TypeError, ValueError) as error:
        raise SetClipError(
            f"encoder description of kind {kind!r}: not usable ({error!r})", fix="restore config.json of the run"
        ) from error
