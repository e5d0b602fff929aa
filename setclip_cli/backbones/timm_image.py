"""timm image models: the bytes of an image file become pooled features, with the model's own preprocessing."""

from __future__ import annotations

import io
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import timm
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor

from setclip_cli.backbones.augment import augment_image
from setclip_cli.backbones.base import Encoded, counted_layer
from setclip_cli.backbones.batching import Budget
from setclip_cli.backbones.devices import autocast, pinned
from setclip_cli.backbones.pooling import AttentionPooling
from setclip_cli.backbones.tensors import identity_of, read_checkpoint
from setclip_cli.errors import SetClipError, translated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from setclip_cli.backbones.weights import Spec
    from setclip_cli.dataset.modality import Modality

T = TypeVar("T")

# Files whose tensors have other names than timm's, but the same order.
SAME_ORDER = {"efficientnet-lite0-57934424.pth"}
ROWS_PER_BATCH = 8  # on a CPU more is slower: activations should fit in the processor's cache
ROWS_PER_GPU_BATCH = 1024  # tried first; halved when memory runs out
DECODERS = 2  # threads; decoding and resizing release the interpreter lock
DECODED_AHEAD = 4  # batches
MAX_ASPECT = 100  # of an image; of longer ones the middle is read


class TimmBackbone:
    """A timm model without its classifier.

    ``default`` pooling is the input of the model's classifier; ``avg`` is the mean over patch tokens (or the positions
    of the feature map), ``cls`` the class token, ``attention`` a learned mean over what ``avg`` averages. A layer is a
    block of a transformer or a stage of a convolutional model. For an inner layer, ``default`` is ``cls`` if the
    model's own classifier reads the class token, else ``avg``.
    """

    modality: Modality = "image"
    column = "image"

    def __init__(self, spec: str, module: Any, *, pooling: str = "default", data_config: dict[str, Any]) -> None:
        self.spec = spec
        self.dim = int(getattr(module, "head_hidden_size", None) or module.num_features)
        self.attention_pooling = None
        if pooling == "attention":
            self.dim = int(module.num_features)
            self.attention_pooling = AttentionPooling(self.dim)
            module.add_module("attention_pooling", self.attention_pooling)
        self.module = module.eval().requires_grad_(False)
        self.layers = len(module.feature_info) if hasattr(module, "prune_intermediate_layers") else 1
        self.pooling = self._tokens = pooling
        self.data_config = data_config
        self.transform: Callable[[Image.Image], Tensor] = create_transform(**data_config, is_training=False)
        self.budget = Budget(rows=ROWS_PER_BATCH)
        self.decoders = DECODERS
        self.precision = torch.float32
        self.device = torch.device("cpu")
        self.preprocessing = _plain(data_config)
        self.identity = self._identity()

    def _identity(self) -> str:
        settings = {"kind": "timm", "name": self.spec, "pooling": self.pooling, "data": self.preprocessing}
        return identity_of(self.module.state_dict(), settings)

    def cut(self, layer: int) -> None:
        kept = counted_layer(layer, self)
        if kept == self.layers:
            return
        if self.pooling == "default":
            self._tokens = "cls" if getattr(self.module, "global_pool", "avg") == "token" else "avg"
        self.dim = int(self.module.feature_info[kept - 1]["num_chs"])
        if self.pooling == "attention":
            self.attention_pooling = self.module.attention_pooling = AttentionPooling(self.dim).requires_grad_(False)
        self.module.prune_intermediate_layers([kept - 1], prune_norm=True)
        self.layers, self.identity = kept, self._identity()

    def to(self, device: torch.device) -> TimmBackbone:
        self.module.to(device)
        self.device = torch.device(device)
        if self.device.type == "cuda" and self.budget.rows == ROWS_PER_BATCH:
            self.budget = Budget(rows=ROWS_PER_GPU_BATCH)
        return self

    def encode(self, items: Sequence[str] | Sequence[bytes]) -> Encoded:
        """Encoded image files to (n, dim); some batches are decoded ahead. A file that does not decode fails alone."""
        features = torch.zeros(len(items), self.dim)
        failed: dict[int, str] = {}
        rows = self.budget.rows_of(1)
        with ThreadPoolExecutor(self.decoders) as pool, torch.inference_mode():
            images = _in_order(pool, self._decode, items, ahead=DECODED_AHEAD * rows)
            for start in range(0, len(items), rows):
                decoded = dict(enumerate(islice(images, rows), start))
                failed |= {at: image for at, image in decoded.items() if isinstance(image, str)}
                whole = [(at, image) for at, image in decoded.items() if isinstance(image, Tensor)]
                for at, pooled in self._pooled(whole):
                    features[at] = pooled
        return Encoded(features, failed=failed)

    def _pooled(self, images: list[tuple[int, Tensor]]) -> Iterator[tuple[list[int], Tensor]]:
        """The features of decoded images, with their positions; in smaller batches when memory runs out."""

        def forward(batch: list[int]) -> Tensor:
            return self.forward(_channels_last([images[row][1] for row in batch]).to(self.device)).cpu()

        for batch, pooled in self.budget.map([1] * len(images), forward):
            yield [images[row][0] for row in batch], pooled

    def prepare(self, items: Sequence[str] | Sequence[bytes], *, views: Sequence[int] | None = None) -> Tensor:
        """(n, 3, h, w) pixels, decoded in threads."""
        seeds: Sequence[int | None] = [None] * len(items) if views is None else views
        jobs = list(zip(items, seeds, strict=True))
        with ThreadPoolExecutor(self.decoders) as pool:
            decoded = list(pool.map(lambda job: self._decode(job[0], view=job[1]), jobs))
        for image in decoded:
            if isinstance(image, str):
                raise SetClipError(f"an image {image}", fix="remove it from its source and ingest again")
        return pinned(_channels_last([image for image in decoded if isinstance(image, Tensor)]), self.device)

    def features(self, prepared: Tensor) -> Tensor:
        return self.forward(prepared.to(self.device, non_blocking=True))

    def forward(self, pixels: Tensor) -> Tensor:
        """(b, 3, h, w) preprocessed pixels to (b, dim) float32."""
        with autocast(self.device, self.precision):
            hidden = self.module.forward_features(pixels.contiguous(memory_format=torch.channels_last))
            if self._tokens == "default":
                pooled = self.module.forward_head(hidden, pre_logits=True)
            elif self._tokens == "cls":
                pooled = hidden[:, 0]
            else:
                tokens = self._patches(hidden)
                pooled = tokens.mean(1) if self.attention_pooling is None else self._attended(tokens)
        features: Tensor = pooled.float()
        return features

    def _patches(self, hidden: Tensor) -> Tensor:
        """(b, t, d): the patch tokens, or the positions of the feature map."""
        if hidden.ndim == 3:
            return hidden[:, int(getattr(self.module, "num_prefix_tokens", 0)) :]
        last = getattr(self.module, "output_fmt", "NCHW") == "NHWC"
        return hidden.flatten(1, 2) if last else hidden.flatten(2).transpose(1, 2)

    def _attended(self, tokens: Tensor) -> Tensor:
        assert self.attention_pooling is not None
        even = tokens.new_full(tokens.shape[:2], 1 / tokens.shape[1], dtype=torch.float32)
        return torch.bmm(self.attention_pooling(tokens, even)[:, None].to(tokens.dtype), tokens)[:, 0]

    def _decode(self, content: str | bytes, *, view: int | None = None) -> Tensor | str:
        """The preprocessed pixels, or why the image cannot be read."""
        if isinstance(content, str):
            raise TypeError("an image backbone reads encoded image bytes, not text")
        try:
            image = _middle_of_a_strip(open_rgb(content))
            return self.transform(image if view is None else augment_image(image, view))
        except UnidentifiedImageError:
            return "cannot be decoded (no known image format)"
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            return f"cannot be decoded ({error})"


def _channels_last(images: list[Tensor]) -> Tensor:
    """Stacks (3, h, w) pixels in one copy, in the memory order that is fastest for convolutions."""
    batch = torch.empty((len(images), *images[0].shape), memory_format=torch.channels_last)
    return torch.stack(images, out=batch)


def _in_order(
    pool: ThreadPoolExecutor,
    decode: Callable[[str | bytes], T],
    items: Sequence[str] | Sequence[bytes],
    *,
    ahead: int,
) -> Iterator[T]:
    """Decodes in threads and yields results in order; at most ``ahead`` of them wait to be used."""
    waiting: deque[Future[T]] = deque()
    for item in items:
        waiting.append(pool.submit(decode, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


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


def _middle_of_a_strip(image: Image.Image) -> Image.Image:
    """The middle of an image that is over ``MAX_ASPECT`` times as long as wide; any other image as it is.

    The preprocessing scales the short side to some 224 pixels and then keeps the middle. The long side of a strip of
    1 x 60,000 pixels would be 13 million pixels in between.
    """
    short = min(image.size)
    width, height = (min(side, MAX_ASPECT * short) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image if (width, height) == image.size else image.crop((left, top, left + width, top + height))


def _scaled_to_8_bit(image: Image.Image) -> Image.Image:
    """16-bit grey to 8-bit by its full range of 65,535."""
    import numpy as np

    return Image.fromarray((np.asarray(image).astype("float64") / 257).clip(0, 255).round().astype("uint8"))


def load_timm(spec: Spec, path: Path, *, pooling: str) -> TimmBackbone:
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
    with translated(
        path,
        Exception,
        found=f"its tensors do not fit {spec}",
        fix=f"give the weights that timm publishes for {spec.name}",
    ):
        module: Any = timm.create_model(
            spec.name,
            pretrained=True,
            pretrained_cfg_overlay={"state_dict": tensors},  # timm's own renaming of published layouts applies
        )  # with its classifier: without one, timm would fill whatever is missing with random numbers
        module.reset_classifier(0)
    if pooling == "cls" and not getattr(module, "num_prefix_tokens", 0):
        raise SetClipError(
            f"pooling 'cls' of {spec}: the model has no class token", fix="choose the pooling default or avg"
        )
    data_config = resolve_model_data_config(module)  # type: ignore[no-untyped-call]
    module = module.to(memory_format=torch.channels_last)
    return TimmBackbone(str(spec), module, pooling=pooling, data_config=data_config)


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
