"""Seven pictures and some captions, an untrained RUN over both, and its EMBEDDINGS."""

from __future__ import annotations

from pathlib import Path

import tiny

from setclip_cli.backbones import load_backbone
from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.dataset.schemas import ModalityInfo
from setclip_cli.embedding.embed import embed
from setclip_cli.encoders import ProjectionHead
from setclip_cli.run.config import ModelConfig, TowerConfig
from setclip_cli.run.model import save_model

CAPTIONS = ["a harbour", "boats in a harbour", "forest", "a long meadow", "sea and sand", "two runways"]


def make_pictures(folder: Path, images: Path, texts: Path, captions: list[str] = CAPTIONS) -> Path:
    """data, an untrained run, and embeddings of pictures and captions.

    Args:
        images, texts: Weights of tiny backbones.
    """
    tiny.write_dataset(
        folder / "data", {"image": [tiny.jpeg(seed) for seed in range(7)], "caption": captions}, rows_per_shard=3
    )
    towers = {"image": (f"timm:{tiny.TINY_TIMM}", images), "caption": ("sentence-transformers:tiny", texts)}
    untrained_run(folder / "run", towers)
    embed(folder / "run", open_dataset(folder / "data"), folder / "embeddings")
    return folder


def untrained_run(folder: Path, weights: dict[str, tuple[str, Path]]) -> Path:
    """A RUN of tiny towers with random heads.

    Args:
        weights: Modality -> a backbone, and where its weights are.
    """
    towers, encoders = {}, {}
    for modality, (spec, place) in weights.items():
        kind = "video" if modality == "video" else None
        info = None if kind is None else ModalityInfo(kind=kind)
        backbone = load_backbone(spec, modality=modality, info=info, weights=str(place))
        encoders[modality] = ProjectionHead(backbone.dim, 8, seed=len(towers))
        towers[modality] = TowerConfig(
            kind=kind,
            spec=spec,
            weights=str(place),
            pooling=backbone.pooling,
            preprocessing=backbone.preprocessing,
            identity=backbone.identity,
            dim=backbone.dim,
            encoder=encoders[modality].describe(),
            initial=encoders[modality].describe(),
        )
    config = ModelConfig(method="clip", seed=0, pairs=3, dataset_sha256="0", towers=towers)
    save_model(folder, config, encoders, encoders)
    return folder
