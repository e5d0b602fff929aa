"""Seven pictures and some captions, an untrained RUN over both, and its EMBEDDINGS."""

from __future__ import annotations

from pathlib import Path

import tiny

from setclip_cli.backbones import load_backbone
from setclip_cli.dataset.dataset import open_dataset
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
    towers, encoders = {}, {}
    for modality, spec, weights in (
        ("image", f"timm:{tiny.TINY_TIMM}", images),
        ("caption", "sentence-transformers:tiny", texts),
    ):
        backbone = load_backbone(spec, modality=modality, weights=str(weights))
        encoders[modality] = ProjectionHead(backbone.dim, 8, seed=len(towers))
        towers[modality] = TowerConfig(
            spec=spec,
            weights=str(weights),
            pooling="default",
            identity=backbone.identity,
            dim=backbone.dim,
            encoder=encoders[modality].describe(),
            initial=encoders[modality].describe(),
        )
    config = ModelConfig(method="clip", seed=0, pairs=3, dataset_sha256="0", towers=towers)
    save_model(folder / "run", config, encoders, encoders)
    embed(folder / "run", open_dataset(folder / "data"), folder / "embeddings")
    return folder
