"""RUNs of tiny backbones and untrained encoders, for exports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from setclip_cli.backbones import load_backbone
from setclip_cli.dataset.schemas import ModalityInfo
from setclip_cli.encoders import (
    Composed,
    Concatenated,
    Encoder,
    FeatureTransform,
    GraphMap,
    KernelMap,
    LinearMap,
    MeanShift,
    PoolMap,
    ProjectionHead,
    RelativeMap,
    ResidualHead,
    UnitRows,
    WithStart,
)
from setclip_cli.run.config import ModelConfig, TowerConfig
from setclip_cli.run.model import save_model

KINDS = {
    "image": "timm:resnet10t.c3_in1k",
    "caption": "sentence-transformers:all-MiniLM-L6-v2",
    "protein": "esm:esm2_t6_8M_UR50D",
}


def pool(width: int, rows: int = 30, *, seed: int = 0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) + 0.3


def encoder(kind: str, width: int, *, seed: int = 0) -> Encoder:
    """An encoder of a kind, for features of a width; all of one kind have embeddings of one width."""
    features = pool(width, seed=seed)
    transform = FeatureTransform.fit(features, 8)
    rows = transform(features)
    made: dict[str, Any] = {
        "projection": lambda: Composed(transform, _moved(ProjectionHead(8, 6, seed=seed))),
        "projection-linear": lambda: Composed(transform, ProjectionHead(8, 6, head="linear", seed=seed)),
        "projection-half-as-wide-as-the-features": lambda: Composed(
            transform, _moved(ProjectionHead(8, width // 2, seed=seed))
        ),
        "bare": lambda: _moved(ProjectionHead(width, 6, seed=seed)),
        "residual": lambda: Composed(
            WithStart(transform, UnitRows(width)), _moved(ResidualHead(8, width, hidden=10, seed=seed))
        ),
        "residual-linear": lambda: Composed(
            WithStart(transform, UnitRows(width)), _moved(ResidualHead(8, width, hidden=10, head="linear", seed=seed))
        ),
        "unit": lambda: UnitRows(width),
        "linear": lambda: Composed(transform, LinearMap(pool(6, 8, seed=seed), pool(8, 1)[0])),
        "kernel": lambda: Composed(
            transform, KernelMap(torch.nn.functional.normalize(rows[:10], dim=1), pool(6, 10), 0.3)
        ),
        "relative": lambda: Composed(transform, RelativeMap(rows[:9], 4.0).centre(rows)),
        "pool": lambda: Composed(transform, PoolMap(rows, pool(6, seed=3))),
        "graph": lambda: Composed(transform, GraphMap(rows, pool(6, seed=3).abs())),
        "ensemble": lambda: Composed(
            transform, Concatenated([_moved(ProjectionHead(8, 6, seed=member)) for member in (seed, seed + 9)])
        ),
    }
    if kind == "all":
        parts = Concatenated([encoder(part, width, seed=seed) for part in ("projection", "linear", "pool")], [1, 2, 3])
        return MeanShift(parts, *(_unit(pool(parts.dim, 7, seed=side)) for side in (1, 2)), share=0.5).eval()
    chosen: Encoder = made[kind]()
    return chosen.eval()


def _unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=1)


def _moved(head: Encoder) -> Encoder:
    """Every weight away from where training starts: a slip with a bias, or with a zero, then shows."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))
    return head


def make_run(
    folder: Path,
    weights: dict[str, Path | int],
    *,
    kind: str = "projection",
    specs: dict[str, str] = KINDS,
    of_images: dict[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """A RUN of untrained encoders of one kind.

    Args:
        weights: By modality; of vectors their width.
        specs: Backbones by modality.
        of_images: Of `load_backbone`, for the tower of images.
        settings: Of `load_backbone`, for both towers; for the other one, if there are ``of_images``.
    """
    towers, encoders = {}, {}
    for number, (modality, place) in enumerate(weights.items()):
        vectors = isinstance(place, int)
        info = ModalityInfo(kind="vector", width=place, dtype="float32", encoder="probe") if vectors else None
        spec = "vector" if vectors else specs[modality]
        own = {} if vectors else of_images if modality == "image" and of_images is not None else settings
        where = "auto" if vectors else str(place)
        backbone = load_backbone(spec, modality=modality, info=info, weights=where, **own)
        encoders[modality] = encoder(kind, backbone.dim, seed=number)
        towers[modality] = TowerConfig(
            kind="vector" if vectors else None,
            vectors_of="probe" if vectors else None,
            spec=spec,
            weights="auto" if vectors else str(place),
            pooling=backbone.pooling,
            layer=own.get("layer", -1),
            joint=own.get("joint", False),
            preprocessing=backbone.preprocessing,
            identity=backbone.identity,
            dim=backbone.dim,
            encoder=encoders[modality].describe(),
            initial=encoders[modality].describe(),
        )
    config = ModelConfig(method="clip", seed=0, pairs=3, dataset_sha256="0", towers=towers)
    save_model(folder, config, encoders, encoders)
    return folder
