"""Features to embeddings: the encoders of setclip, as one module of sentence-transformers.

`config.json` beside the tensors says which encoders these are and how they are nested. Every encoder maps (n, p) rows
to (n, d) rows of length 1. Where setclip searches a large pool approximately, this file searches it exactly.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from sentence_transformers.base.modules import Module
from torch import Tensor, nn


class Transform(nn.Module):
    """(unit(x) - mean) axes · scale."""

    def __init__(self, features: int, axes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("axes", torch.zeros(features, axes))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = (F.normalize(x, dim=1) - self.mean) @ self.axes * self.scale
        return projected


class WithStart(nn.Module):
    """[transformed x | the embedding of x that training began with]."""

    def __init__(self, transform: nn.Module, start: nn.Module) -> None:
        super().__init__()
        self.transform, self.start = transform, start

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.transform(x), self.start(x)], dim=1)


class Composed(nn.Module):
    """An encoder behind a transform."""

    def __init__(self, d: dict[str, Any]) -> None:
        super().__init__()
        self.transform: nn.Module = Transform(d["features"], d["axes"])
        if "start" in d:
            self.transform = WithStart(self.transform, network(d["start"]))
        self.encoder = network(d["encoder"])

    def forward(self, x: Tensor) -> Tensor:
        embeddings: Tensor = self.encoder(self.transform(x))
        return embeddings


class Projection(nn.Module):
    """unit(LayerNorm(W2 gelu(p) + p)) with p = W1 x + b, or unit(p) if linear."""

    def __init__(self, d: dict[str, Any]) -> None:
        super().__init__()
        self.input = nn.Linear(d["features"], d["dim"])
        self.deep = d["head"] == "mlp"
        if self.deep:
            self.hidden, self.norm = nn.Linear(d["dim"], d["dim"]), nn.LayerNorm(d["dim"])

    def forward(self, x: Tensor) -> Tensor:
        p = self.input(x)
        return F.normalize(self.norm(self.hidden(F.gelu(p)) + p) if self.deep else p, dim=1)


class Residual(nn.Module):
    """Rows [x | s] to unit(s + W2 gelu(W1 x + b1) + b2), or unit(s + W2 x + b2) if linear."""

    def __init__(self, d: dict[str, Any]) -> None:
        super().__init__()
        self.features = d["features"]
        self.deep = d["head"] == "mlp"
        if self.deep:
            self.input = nn.Linear(d["features"], d["hidden"])
        self.output = nn.Linear(d["hidden"] if self.deep else d["features"], d["dim"])

    def forward(self, rows: Tensor) -> Tensor:
        x, start = rows[:, : self.features], rows[:, self.features :]
        return F.normalize(start + self.output(F.gelu(self.input(x)) if self.deep else x), dim=1)


class Unit(nn.Module):
    """unit(x)."""

    def __init__(self, d: dict[str, Any]) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1)


class Linear(nn.Module):
    """unit((x - offset) W)."""

    def __init__(self, d: dict[str, Any]) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(d["features"], d["dim"]))
        self.register_buffer("offset", torch.zeros(d["features"]))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize((x - self.offset) @ self.weight, dim=1)


class Kernel(nn.Module):
    """unit(Σ_j exp((cos(x, a_j) - 1) / width) c_j)."""

    def __init__(self, d: dict[str, Any]) -> None:
        super().__init__()
        self.width = d["width"]
        self.register_buffer("anchors", torch.zeros(d["anchors"], d["features"]))
        self.register_buffer("coefficients", torch.zeros(d["anchors"], d["dim"]))

    def forward(self, x: Tensor) -> Tensor:
        kernel = torch.exp((F.normalize(x, dim=1) @ self.anchors.T - 1) / self.width)
        return F.normalize(kernel @ self.coefficients, dim=1)


class Relative(nn.Module):
    """unit(unit((relu cos(x, a_j))^power) - offset); one coordinate an anchor."""

    def __init__(self, d: dict[str, Any]) -> None:
        super().__init__()
        self.power = d["power"]
        self.register_buffer("anchors", torch.zeros(d["anchors"], d["features"]))
        self.register_buffer("offset", torch.zeros(d["anchors"]))

    def forward(self, x: Tensor) -> Tensor:
        cosines = F.normalize(x, dim=1) @ self.anchors.T
        return F.normalize(F.normalize(cosines.clamp_min(0).pow(self.power) + 1e-6, dim=1) - self.offset, dim=1)


class Pool(nn.Module):
    """unit(Σ_j w_j z_j) over the k nearest rows of a pool, w the softmax of cos / temperature."""

    def __init__(self, d: dict[str, Any]) -> None:
        super().__init__()
        self.k, self.temperature = min(d["neighbours"], d["pool"]), d["temperature"]
        self.masses = d["kind"] == "graph"  # then the root of the mean, before it is scaled to length 1
        self.register_buffer("pool", torch.zeros(d["pool"], d["features"]))
        self.register_buffer("values", torch.zeros(d["pool"], d["dim"]))

    def forward(self, x: Tensor) -> Tensor:
        cosines, rows = (F.normalize(x, dim=1) @ self.pool.T).topk(self.k, dim=1)
        weights = torch.softmax(cosines / self.temperature, dim=1)
        mean = torch.bmm(weights[:, None], self.values[rows])[:, 0]
        return F.normalize(mean.sqrt() if self.masses else mean, dim=1)


class Concatenated(nn.Module):
    """Encoders side by side; a cosine is the mean of theirs, weighted by `shares`."""

    def __init__(self, d: dict[str, Any]) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(network(part) for part in d["encoders"])
        self.register_buffer("shares", torch.ones(len(self.encoders)))

    def forward(self, x: Tensor) -> Tensor:
        parts = [encoder(x) * share.sqrt() for encoder, share in zip(self.encoders, self.shares, strict=True)]
        return F.normalize(torch.cat(parts, dim=1), dim=1)


class MeanShift(nn.Module):
    """unit(u + share · m): m climbs from u to where the known embeddings of both sides are dense."""

    def __init__(self, d: dict[str, Any]) -> None:
        super().__init__()
        self.encoder = network(d["encoder"])
        self.share, self.bandwidth, self.steps = d["share"], d["bandwidth"], d["steps"]
        self.register_buffer("left", torch.zeros(d["left"], d["dim"]))
        self.register_buffer("right", torch.zeros(d["right"], d["dim"]))

    def forward(self, x: Tensor) -> Tensor:
        own: Tensor = self.encoder(x)
        shifted = own
        for _ in range(self.steps):
            shifted = F.normalize(self.mean(shifted, self.left) + self.mean(shifted, self.right), dim=1)
        return F.normalize(own + self.share * shifted, dim=1)

    def mean(self, at: Tensor, known: Tensor) -> Tensor:
        return torch.softmax(at @ known.T * (2 / self.bandwidth), dim=1) @ known


KINDS: dict[str, type[nn.Module]] = {
    "composed": Composed,
    "projection": Projection,
    "residual": Residual,
    "unit": Unit,
    "linear": Linear,
    "kernel": Kernel,
    "relative": Relative,
    "pool": Pool,
    "graph": Pool,
    "concatenated": Concatenated,
    "mean-shift": MeanShift,
}


def network(description: dict[str, Any]) -> nn.Module:
    """The encoder that a description names, its tensors still to be loaded."""
    return KINDS[description["kind"]](description)


class SetClipEncoder(Module):
    """Puts ``sentence_embedding`` through the encoders of a tower."""

    config_keys: list[str] = ["description", "dim"]  # noqa: RUF012  # as the library declares it

    def __init__(self, description: dict[str, Any], dim: int) -> None:
        super().__init__()
        self.description, self.dim = description, dim
        self.network = network(description)

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        features["sentence_embedding"] = self.network(features["sentence_embedding"].float())
        return features

    def get_embedding_dimension(self) -> int:
        return self.dim

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> SetClipEncoder:
        where = {
            key: kwargs[key] for key in ("token", "cache_folder", "revision", "local_files_only") if key in kwargs
        } | {"subfolder": subfolder}
        model = cls(**cls.load_config(model_name_or_path, **where))
        cls.load_torch_weights(model_name_or_path, model=model, **where)
        return model
