"""timm image models: bytes as found in the file to pooled features, with the model's own preprocessing."""

from __future__ import annotations

import io
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import timm
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor

from setclip_cli.backbones.base import Encoded
from setclip_cli.backbones.weights import identity_of, read_checkpoint
from setclip_cli.errors import SetClipError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from setclip_cli.backbones.weights import Spec
    from setclip_cli.shards import Modality

# Checkpoints under other names whose tensors stand in the order of timm's.
SAME_ORDER = {"efficientnet-lite0-57934424.pth"}
BATCH = 32
DECODERS = 2  # threads; decoding and resizing leave the interpreter lock


class TimmBackbone:
    """A timm model without its classifier.

    ``default`` pooling is what the model feeds its classifier; ``avg`` is the mean over patch tokens (or the feature
    map), ``cls`` the class token.
    """

    modality: Modality = "image"
    column = "image"

    def __init__(self, spec: str, module: Any, *, pooling: str = "default", data_config: dict[str, Any]) -> None:
        self.spec = spec
        self.module = module.eval().requires_grad_(False)
        self.pooling = pooling
        self.data_config = data_config
        self.transform: Callable[[Image.Image], Tensor] = create_transform(**data_config, is_training=False)
        self.dim = int(getattr(module, "head_hidden_size", None) or module.num_features)
        self.device = torch.device("cpu")
        weights = module.state_dict()
        settings = {"kind": "timm", "name": spec, "pooling": pooling, "data": _plain(data_config)}
        self.identity = identity_of(weights, settings)

    def to(self, device: torch.device) -> TimmBackbone:
        self.module.to(device)
        self.device = torch.device(device)
        return self

    def encode(self, items: Sequence[str] | Sequence[bytes], *, batch_size: int | None = None) -> Encoded:
        """Encoded image files to (n, dim). A file that does not decode fails alone."""
        features = torch.zeros(len(items), self.dim)
        failed: dict[int, str] = {}
        size = batch_size or BATCH
        with ThreadPoolExecutor(DECODERS) as pool, torch.inference_mode():
            for start in range(0, len(items), size):
                decoded = list(pool.map(self._decode, items[start : start + size]))
                rows = [start + at for at, image in enumerate(decoded) if isinstance(image, Tensor)]
                failed |= {start + at: image for at, image in enumerate(decoded) if isinstance(image, str)}
                if rows:
                    pixels = torch.stack([image for image in decoded if isinstance(image, Tensor)])
                    features[rows] = self.forward(pixels.to(self.device)).cpu()
        return Encoded(features, failed=failed)

    def forward(self, pixels: Tensor) -> Tensor:
        """(b, 3, h, w) preprocessed pixels to (b, dim) float32."""
        hidden = self.module.forward_features(pixels.contiguous(memory_format=torch.channels_last))
        if self.pooling == "default":
            pooled = self.module.forward_head(hidden, pre_logits=True)
        elif self.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            prefix = int(getattr(self.module, "num_prefix_tokens", 0))
            pooled = hidden[:, prefix:].mean(1) if hidden.ndim == 3 else hidden.mean((2, 3))
        features: Tensor = pooled.float()
        return features

    def _decode(self, content: str | bytes) -> Tensor | str:
        """The preprocessed pixels, or why there are none."""
        assert isinstance(content, bytes)
        try:
            return self.transform(open_rgb(content))
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            return f"cannot be decoded ({error})"


def open_rgb(content: bytes) -> Image.Image:
    """Decodes to 8-bit RGB, upright as its EXIF orientation says.

    Raises:
        OSError, ValueError, SyntaxError, Image.DecompressionBombError: not decodable, or over Pillow's pixel cap.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
        except Image.DecompressionBombWarning as error:
            raise ValueError(str(error)) from error
    if image.mode.startswith(("I", "F")):  # 16 and 32 bit: convert() would clip, not scale
        return _scaled_to_8_bit(image).convert("RGB")
    return image.convert("RGB")


def _scaled_to_8_bit(image: Image.Image) -> Image.Image:
    """16-bit grey to 8-bit by its full range of 65,535."""
    import numpy as np

    return Image.fromarray((np.asarray(image).astype("float64") / 257).clip(0, 255).round().astype("uint8"))


def load_timm(spec: Spec, path: Path, *, pooling: str, device: torch.device | str) -> TimmBackbone:
    """Builds the timm model of the name and fills it from the checkpoint.

    Raises:
        SetClipError: the tensors do not fit the model, or the model has no class token to pool.
    """
    tensors = read_checkpoint(path)
    for wrapper in ("state_dict_ema", "state_dict", "model"):
        if isinstance(tensors, dict) and isinstance(tensors.get(wrapper), dict):
            tensors = tensors[wrapper]
            break
    if path.name in SAME_ORDER:
        tensors = _in_timm_names(spec.name, tensors, path)
    try:
        module = timm.create_model(
            spec.name,
            pretrained=True,
            pretrained_cfg_overlay={"state_dict": tensors},  # timm's own renaming of published layouts applies
            num_classes=0,
        )
    except (RuntimeError, KeyError, AttributeError, TypeError) as error:
        raise SetClipError(
            f"{path}: its tensors do not fit {spec} ({str(error).splitlines()[0]})",
            fix=f"give the weights that timm publishes for {spec.name}",
        ) from error
    if pooling == "cls" and not getattr(module, "num_prefix_tokens", 0):
        raise SetClipError(f"towers.image.pooling 'cls': {spec} has no class token", fix="use default or avg")
    data_config = resolve_model_data_config(module)  # type: ignore[no-untyped-call]
    module = module.to(memory_format=torch.channels_last)
    return TimmBackbone(str(spec), module, pooling=pooling, data_config=data_config).to(torch.device(device))


def _in_timm_names(name: str, tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Gives each tensor the name of timm's tensor at its place; shapes and kinds must agree one by one."""
    expected = timm.create_model(name, pretrained=False).state_dict()
    pairs = list(zip(tensors.items(), expected.items(), strict=False))
    agree = all(
        found.shape == wanted.shape and theirs.rpartition(".")[2] == ours.rpartition(".")[2]
        for (theirs, found), (ours, wanted) in pairs
    )
    if len(tensors) != len(expected) or not agree:
        raise SetClipError(
            f"{path}: its {len(tensors)} tensors do not match the {len(expected)} of timm's {name} one by one",
            fix="install the package again, or give timm's own weights",
        )
    return {ours: found for (_, found), (ours, _) in pairs}


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}
