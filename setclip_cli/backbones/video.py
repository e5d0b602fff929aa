"""Videos by an image backbone: features of each frame, then one vector for all frames of a video."""

from __future__ import annotations

import hashlib
import json
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from setclip_cli.backbones.base import Encoded
from setclip_cli.errors import SetClipError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from torch import Tensor, nn

    from setclip_cli.backbones.batching import Budget
    from setclip_cli.backbones.timm_image import TimmBackbone
    from setclip_cli.dataset.modality import Modality, RowKind

ATTENTION_TEMPERATURE = 0.1


class PreparedVideos(NamedTuple):
    pixels: Any  # of the frames of all videos, one after the other, as the image backbone prepares them
    counts: tuple[int, ...]  # frames of each video


class VideoBackbone:
    """A `Backbone` of videos: an image backbone, whose features of the frames f_1 ... f_m are pooled.

    ``mean``: (f_1 + ... + f_m) / m. ``attention``: see `attend_to_frames`. Neither has weights. The order of the frames
    does not change the result.
    """

    kind: RowKind = "video"
    column = "frames"

    def __init__(self, images: TimmBackbone, *, pooling: str) -> None:
        self.images = images
        self.spec, self.dim, self.layers = images.spec, images.dim, images.layers
        self.space: str | None = None
        self.modality: Modality = "video"
        self.pooling = pooling
        self.preprocessing: dict[str, Any] = images.preprocessing | {"frames": pooling}
        self.identity = self._identity()

    def _identity(self) -> str:
        settings = ["video", self.images.identity, self.pooling, ATTENTION_TEMPERATURE]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()

    @property
    def module(self) -> nn.Module:
        module: nn.Module = self.images.module
        return module

    @module.setter
    def module(self, module: nn.Module) -> None:
        self.images.module = module

    @property
    def budget(self) -> Budget:
        """Rows are frames here."""
        return self.images.budget

    @budget.setter
    def budget(self, budget: Budget) -> None:
        self.images.budget = budget

    @property
    def precision(self) -> torch.dtype:
        return self.images.precision

    @precision.setter
    def precision(self, precision: torch.dtype) -> None:
        self.images.precision = precision

    @property
    def device(self) -> torch.device:
        return self.images.device

    @device.setter
    def device(self, device: torch.device) -> None:
        self.to(device)

    def to(self, device: torch.device) -> Self:
        self.images.to(device)
        return self

    def cut(self, layer: int) -> None:
        self.images.modality = self.modality
        self.images.cut(layer)
        self.dim, self.layers, self.identity = self.images.dim, self.images.layers, self._identity()

    def encode(self, items: Sequence[Any]) -> Encoded:
        """Features of videos, each a list of encoded pictures. A video with a frame that cannot be read fails."""
        counts = [len(frames) for frames in items]
        encoded = self.images.encode([frame for frames in items for frame in frames])
        features = torch.zeros(len(items), self.dim)
        failed: dict[int, str] = {}
        for row, (count, end) in enumerate(zip(counts, accumulate(counts), strict=True)):
            bad = next((at for at in range(end - count, end) if at in encoded.failed), None)
            if not count:
                failed[row] = "has no frames"
            elif bad is not None:
                failed[row] = f"its frame {bad - end + count + 1} {encoded.failed[bad]}"
            else:
                features[row] = pool_frames(encoded.features[end - count : end], self.pooling)
        return Encoded(features, failed=failed)

    def prepare(self, items: Sequence[Any], *, views: Sequence[int] | None = None) -> PreparedVideos:
        """The pixels of all frames. The frames of a video get the same view: a camera does not turn between frames."""
        counts = tuple(len(frames) for frames in items)
        if 0 in counts:
            raise SetClipError("a video has no frames", fix="remove it from its source and ingest again")
        seeds = (
            None if views is None else [seed for seed, count in zip(views, counts, strict=True) for _ in range(count)]
        )
        frames = [frame for frames in items for frame in frames]
        return PreparedVideos(self.images.prepare(frames, views=seeds), counts)

    def features(self, prepared: PreparedVideos) -> Tensor:
        of_frames = self.images.features(prepared.pixels)
        return torch.stack(
            [pool_frames(frames, self.pooling) for frames in torch.split(of_frames, list(prepared.counts))]
        )


def pool_frames(frames: Tensor, pooling: str) -> Tensor:
    """(..., m, d) features of the frames of videos to (..., d), by one of ``backbones.FRAME_POOLINGS``."""
    return frames.mean(-2) if pooling == "mean" else attend_to_frames(frames)


def attend_to_frames(frames: Tensor) -> Tensor:
    """The mean of frames, weighted by how like each is to their plain mean.

    w_i = softmax_i(cos(f_i, c) / t),  c = (f_1 + ... + f_m) / m,  result Σ_i w_i f_i,  with t = 0.1

    So a black frame, a title or a cloudy tile counts less than what most frames show. It has no weights to train.

    Args:
        frames: (..., m, d), m > 0.

    Returns:
        (..., d); equal frames give that frame.
    """
    similarity = torch.nn.functional.cosine_similarity(frames, frames.mean(-2, keepdim=True), dim=-1)
    weights = torch.softmax(similarity / ATTENTION_TEMPERATURE, -1)
    return (weights.unsqueeze(-2) @ frames).squeeze(-2)
