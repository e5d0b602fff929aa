"""What image backbones share: image files are decoded in threads, prepared and put through a network in batches."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor, nn

from setclip_cli.backbones.augment import augment_image
from setclip_cli.backbones.band_images import open_bands, refuse_bands
from setclip_cli.backbones.base import Encoded
from setclip_cli.backbones.batching import Budget
from setclip_cli.backbones.devices import pinned
from setclip_cli.errors import SetClipError
from setclip_cli.pixels.rgb import open_rgb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future
    from typing import Self

    from setclip_cli.dataset.modality import Modality, RowKind
    from setclip_cli.pixels.bands import BandScale

T = TypeVar("T")

ROWS_PER_BATCH = 8  # on a CPU more is slower: activations should fit in the processor's cache
ROWS_PER_GPU_BATCH = 1024  # tried first; halved when memory runs out
DECODERS = 2  # threads; decoding and resizing release the interpreter lock
DECODED_AHEAD = 4  # batches
MAX_ASPECT = 100  # of an image; of longer ones the middle is read


class ImageBackbone:
    """A `Backbone` of images. A subclass has the network and says how an image becomes pixels.

    Attributes:
        module: The network.
        transform: From a decoded image to (3, h, w) pixels, as the network takes them; with bands, from (bands, h, w)
            numbers to as many.
        bands: How the numbers of bands are scaled, if it reads images of bands and not pictures.
    """

    modality: Modality = "image"
    kind: RowKind = "image"
    column = "image"
    spec: str
    dim: int
    layers: int
    pooling: str
    identity: str
    preprocessing: dict[str, Any]
    space: str | None = None
    module: nn.Module
    transform: Callable[[Any], Tensor]
    bands: BandScale | None = None

    def __init__(self) -> None:
        self.budget = Budget(rows=ROWS_PER_BATCH)
        self.decoders = DECODERS
        self.precision = torch.float32
        self.device = torch.device("cpu")

    @abstractmethod
    def forward(self, pixels: Tensor) -> Tensor:
        """(b, 3, h, w) preprocessed pixels to (b, dim) float32."""

    def to(self, device: torch.device) -> Self:
        self.module.to(device)
        self.device = torch.device(device)
        if self.device.type == "cuda" and self.budget.rows == ROWS_PER_BATCH:
            rows = ROWS_PER_GPU_BATCH if self.bands is None else ROWS_PER_GPU_BATCH * 3 // len(self.bands.mean)
            self.budget = Budget(rows=max(ROWS_PER_BATCH, rows))
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

    def _decode(self, content: str | bytes, *, view: int | None = None) -> Tensor | str:
        """The preprocessed pixels, or why the image cannot be read.

        Raises:
            SetClipError: its number of bands is another than this backbone reads.
        """
        if isinstance(content, str):
            raise TypeError("an image backbone reads encoded image bytes, not text")
        try:
            if self.bands is not None:
                samples = open_bands(content, self.bands, spec=self.spec, view=view)
                left, top, right, bottom = _middle_of_a_strip(samples.shape[2], samples.shape[1])
                return self.transform(samples[:, top:bottom, left:right])
            image = open_rgb(content)
            if (box := _middle_of_a_strip(*image.size)) != (0, 0, *image.size):
                image = image.crop(box)
            return self.transform(image if view is None else augment_image(image, view))
        except UnidentifiedImageError:
            refuse_bands(content, self.spec)
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


def _middle_of_a_strip(width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the middle of an image that is over ``MAX_ASPECT`` times as long as wide; of any
    other image, its edges.

    The preprocessing scales the short side to some 224 pixels and then keeps the middle. The long side of a strip of
    1 x 60,000 pixels would be 13 million pixels in between.
    """
    short = min(width, height)
    w, h = (min(side, MAX_ASPECT * short) for side in (width, height))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
