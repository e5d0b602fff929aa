"""What every backbone is: a named, hashed map from raw items to feature vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor

    from setclip_cli.shards import Modality


@dataclass(frozen=True)
class Encoded:
    """Features of a batch of items, and what was done to the items on the way.

    Attributes:
        features: (n, dim) float32 on the CPU, row i for item i.
        windows: For proteins, how many overlapping windows each item took; None elsewhere.
        truncated: Rows whose text was longer than the backbone reads and was cut.
    """

    features: Tensor
    windows: list[int] | None = None
    truncated: int = 0


class Backbone(Protocol):
    """A pretrained feature extractor.

    Attributes:
        spec: The name a recipe gives it: ``esm:NAME``, ``timm:NAME`` or ``sentence-transformers:NAME``.
        modality: What it reads.
        dim: Width of the features.
        column: The shard column it reads: ``sequence``, ``image`` or ``text``.
        identity: sha256 over weights, preprocessing and pooling: equal identity means equal features.
    """

    spec: str
    modality: Modality
    dim: int
    column: str
    identity: str

    def encode(self, items: Sequence[str] | Sequence[bytes], *, batch_size: int = 64) -> Encoded:
        """Features of raw shard values: residues, encoded image bytes or text. No gradient."""
        ...

    def to(self, device: torch.device) -> Backbone: ...
