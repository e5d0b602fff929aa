"""The image reader of a sentence-transformers model that reads images and texts, such as ``clip-ViT-B-32``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from PIL import Image

from setclip_cli.backbones.base import counted_layer
from setclip_cli.backbones.devices import autocast
from setclip_cli.backbones.images import ImageBackbone
from setclip_cli.backbones.sentence import SETTINGS_FILES, keep_half, load_pipeline, settings_of, shared_space
from setclip_cli.backbones.tensors import identity_of
from setclip_cli.errors import UsageError, translated

if TYPE_CHECKING:
    from pathlib import Path

    from sentence_transformers import SentenceTransformer
    from torch import Tensor

    from setclip_cli.backbones.weights import Spec

IMAGE_SETTINGS_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "*/preprocessor_config.json",
    "*/processor_config.json",
)


class SentenceImageBackbone(ImageBackbone):
    """The part of a joint model that reads images: its own preprocessing, network and projection."""

    pooling = "default"

    def __init__(self, spec: str, model: SentenceTransformer, *, files: dict[str, str], joint: bool = False) -> None:
        super().__init__()
        self.spec, self.files = spec, files
        self.model = model.eval().requires_grad_(False)
        self.identity = self._identity()  # of the whole model, though half of it is dropped
        if joint:
            self.space = shared_space(spec, model)
        keep_half(model, "image")
        self.blocks = max(
            (part for part in model.modules() if isinstance(part, torch.nn.ModuleList)),
            key=len,
            default=torch.nn.ModuleList(),
        )
        self.layers = max(1, len(self.blocks))
        self.module, self.transform = model, self._pixels
        blank = self.transform(Image.new("RGB", (32, 32)))
        self.preprocessing = {"image_px": [int(side) for side in blank.shape[1:]]}
        with torch.inference_mode():
            self.dim = int(self.forward(blank[None]).shape[1])

    def _identity(self) -> str:
        return identity_of(self.model.state_dict(), {"kind": "sentence-transformers images", "files": self.files})

    def cut(self, layer: int) -> None:
        kept = counted_layer(layer, self)
        if kept < self.layers:
            del self.blocks[kept:]
            self.layers, self.identity = kept, self._identity()

    def _pixels(self, image: Image.Image) -> Tensor:
        made = self.model.preprocess([{"image": image}])
        pixels: Tensor = made["pixel_values"][0]
        return pixels

    def forward(self, pixels: Tensor) -> Tensor:
        """(b, 3, h, w) preprocessed pixels to (b, dim) float32."""
        with autocast(self.device, self.precision):
            pooled: Tensor = self.model({"pixel_values": pixels, "modality": "image"})["sentence_embedding"]
        return pooled.float()


def load_sentence_image(spec: Spec, folder: Path, *, pooling: str, joint: bool = False) -> SentenceImageBackbone:
    """Loads the image reader of a folder that `SentenceTransformer.save` wrote. Nothing in it is run as code.

    Args:
        joint: It is to be half of a joint model.

    Raises:
        SetClipError: it does not load, or it does not read images into one vector.
    """
    if pooling != "default":
        raise UsageError(
            f"pooling {pooling!r} of {spec}: of images it has its own pooling only", fix="choose the pooling default"
        )
    model = load_pipeline(folder, Image.linear_gradient("L").convert("RGB"))
    if not model.supports("image"):
        raise UsageError(
            f"towers.image.backbone {str(spec)!r}: this model reads {' and '.join(f'{k}s' for k in model.modalities)}, "
            "not images",
            fix="choose a model that reads images, such as sentence-transformers:clip-ViT-B-32, or a timm: backbone",
        )
    files = settings_of(folder, (*SETTINGS_FILES, *IMAGE_SETTINGS_FILES))
    with translated(
        folder,
        Exception,
        found=f"{spec} does not make one vector of an image",
        fix="choose a CLIP-like model, such as sentence-transformers:clip-ViT-B-32, or a timm: backbone",
    ):
        return SentenceImageBackbone(str(spec), model, files=files, joint=joint)
