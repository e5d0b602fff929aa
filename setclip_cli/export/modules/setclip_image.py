"""Images to features: a timm model with the image opening, preprocessing and pooling of setclip.

Takes Pillow images, paths and the bytes of image files; with `bands` also arrays of (bands, height, width), and TIFF
files if rasterio is installed. Pictures are turned upright as EXIF says and become RGB.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image, ImageOps
from sentence_transformers.base.modules import InputModule
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn

MAX_ASPECT = 100  # of longer images the middle is read
NEARLY_BLACK = 0.25  # of white: a grey picture of more than 8 bits is stretched if it is darker


class SetClipImage(InputModule):
    """Image files to ``sentence_embedding``."""

    config_file_name = "setclip_image.json"
    config_keys: list[str] = ["architecture", "data_config", "pooling", "layer", "dim", "bands", "projection"]  # noqa: RUF012
    save_in_root = False

    def __init__(
        self,
        architecture: str,
        data_config: dict[str, Any],
        pooling: str,
        dim: int,
        layer: int | None = None,
        bands: dict[str, list[float]] | None = None,
        projection: int | None = None,
    ) -> None:
        """
        Args:
            architecture: timm's name of the model.
            data_config: What timm's `create_transform` takes.
            pooling: default (the input of the classifier, or the projection), avg, cls or attention.
            layer: The stage or block, counted from 0, whose output is taken; None for the last.
            bands: mean and std of the bands, for images of bands; a missing value is the mean of its band.
            projection: Width of the projection that the model keeps; None for a model without its classifier.
        """
        super().__init__()
        self.architecture, self.data_config, self.pooling = architecture, data_config, pooling
        self.layer, self.bands, self.dim, self.projection = layer, bands, dim, projection
        channels = 3 if bands is None else len(bands["mean"])
        classes = {} if projection is None else {"num_classes": projection}
        self.model = timm.create_model(architecture, pretrained=False, in_chans=channels, **classes)
        if projection is None:
            self.model.reset_classifier(0)
        if layer is not None:
            self.model.prune_intermediate_layers([layer], prune_norm=True)
        self.query = nn.Parameter(torch.zeros(dim)) if pooling == "attention" else None
        tuples = {key: tuple(value) if isinstance(value, list) else value for key, value in data_config.items()}
        self.transform = create_transform(**tuples, is_training=False)

    @property
    def modalities(self) -> list[str]:
        return ["image"]

    def preprocess(self, inputs: list[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        opened = [item["image"] if isinstance(item, dict) else item for item in inputs]
        return {"pixel_values": torch.stack([self.pixels(item) for item in opened]), "modality": "image"}

    def pixels(self, item: Any) -> Tensor:
        """What the model sees of one image."""
        if self.bands is not None:
            samples = torch.from_numpy(np.ascontiguousarray(self.samples(item)))
            left, top, right, bottom = middle(samples.shape[2], samples.shape[1])
            of_bands: Tensor = self.transform(samples[:, top:bottom, left:right])
            return of_bands
        image = open_rgb(item)
        box = middle(*image.size)
        pixels: Tensor = self.transform(image if box == (0, 0, *image.size) else image.crop(box))
        return pixels

    def samples(self, item: Any) -> np.ndarray[Any, Any]:
        """(bands, height, width) float32 of an array or a TIFF."""
        assert self.bands is not None
        if isinstance(item, np.ndarray | Tensor):
            samples = np.array(item, dtype=np.float32)
            missing = ~np.isfinite(samples)
        else:
            import rasterio

            content = item if isinstance(item, bytes) else Path(item).read_bytes()
            driver = "GTiff" if content.startswith((b"II", b"MM")) else "JP2OpenJPEG"  # others open what a file names
            with warnings.catch_warnings(), rasterio.MemoryFile(content) as file:
                warnings.simplefilter("ignore")  # that an image has no place on the ground
                with file.open(driver=driver) as scene:
                    read = scene.read(masked=True)
            samples = np.ma.getdata(read).astype(np.float32)
            missing = np.ma.getmaskarray(read) | ~np.isfinite(samples)
        wanted = len(self.bands["mean"])
        if samples.ndim != 3 or len(samples) != wanted:
            raise ValueError(f"this model reads images of {wanted} bands, got an array of shape {samples.shape}")
        for band, absent, mean in zip(samples, missing, self.bands["mean"], strict=True):
            band[absent] = mean
        return samples

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        features["sentence_embedding"] = self.pooled(features["pixel_values"])
        return features

    def pooled(self, pixels: Tensor) -> Tensor:
        hidden: Tensor = self.model.forward_features(pixels)
        if self.pooling == "default":
            head: Tensor = self.model.forward_head(hidden, pre_logits=self.projection is None)
            return head.float()
        if self.pooling == "cls":
            return hidden[:, 0].float()
        tokens = self.tokens(hidden)
        if self.query is None:
            return tokens.mean(1).float()
        scores = tokens.float() @ self.query * len(self.query) ** -0.5
        return torch.bmm(torch.softmax(scores, dim=1)[:, None], tokens.float())[:, 0]

    def tokens(self, hidden: Tensor) -> Tensor:
        """(n, t, d): the patch tokens, or the positions of the feature map."""
        if hidden.ndim == 3:
            return hidden[:, int(getattr(self.model, "num_prefix_tokens", 0)) :]
        last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
        return hidden.flatten(1, 2) if last else hidden.flatten(2).transpose(1, 2)

    def get_embedding_dimension(self) -> int:
        return self.dim

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> SetClipImage:
        where = {
            key: kwargs[key] for key in ("token", "cache_folder", "revision", "local_files_only") if key in kwargs
        } | {"subfolder": subfolder}
        model = cls(**cls.load_config(model_name_or_path, **where))
        cls.load_torch_weights(model_name_or_path, model=model, **where)
        return model


def open_rgb(item: Any) -> Image.Image:
    """An upright RGB picture of a Pillow image, a path, or the bytes of a file."""
    if isinstance(item, str | Path | bytes):
        item = Image.open(io.BytesIO(item) if isinstance(item, bytes) else item)
    if not isinstance(item, Image.Image):
        raise ValueError(f"needs Pillow images, paths or bytes of image files, got a {type(item).__name__}")
    image = ImageOps.exif_transpose(item)
    if image.mode.startswith(("I", "F")):  # 16 and 32 bits: convert() would clip
        samples = np.asarray(image)
        whole = image.mode == "I" and 255 < samples.max() <= 65535 and samples.min() >= 0
        image = Image.fromarray(eight_bits(samples, image.mode.startswith("I;16") or whole))
    return image.convert("RGB")


def eight_bits(samples: np.ndarray[Any, Any], unsigned_16: bool) -> np.ndarray[Any, Any]:
    """Grey of 16 or 32 bits to 0..255: unsigned 16 bits keep their scale unless the picture would be nearly black."""
    values = samples.astype(np.float64)
    valid = np.isfinite(values)
    low, high = 0.0, 65535.0
    if not unsigned_16:
        low, high = (float(values[valid].min()), float(values[valid].max())) if valid.any() else (0.0, 1.0)
    some = tuple(slice(None, None, -(-side // 1024)) for side in values.shape)
    seen = values[some][valid[some]]
    dark, bright = (float(each) for each in np.percentile(seen, (2.0, 98.0))) if seen.size else (low, low)
    if bright - low < NEARLY_BLACK * (high - low) and dark != bright:
        low, high = dark, bright
    with np.errstate(all="ignore"):
        scaled = np.nan_to_num((values - low) / max(high - low, 1e-12), nan=0.0, posinf=1.0, neginf=0.0)
    pixels: np.ndarray[Any, Any] = np.rint(scaled.clip(0, 1) * 255).astype(np.uint8)
    return pixels


def middle(width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the middle of a long strip; of any other image, its edges."""
    w, h = (min(side, MAX_ASPECT * min(width, height)) for side in (width, height))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
