"""What every backbone offers: features of raw items, under a name and a hash."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from setclip_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor, nn

    from setclip_cli.backbones.batching import Budget
    from setclip_cli.dataset.modality import Modality, RowKind


@dataclass(frozen=True)
class Encoded:
    """Features of a batch of items, and what was done to the items.

    Attributes:
        features: (n, dim) float32 on the CPU, row i for item i; the rows named in ``failed`` are zero.
        windows: For proteins, how many overlapping windows each item took; None elsewhere.
        truncated: Number of texts that were longer than the backbone reads, and were cut.
        replaced_letters: Number of residues outside the backbone's alphabet; they were read as X.
        failed: Rows that could not be read (position -> reason).
    """

    features: Tensor
    windows: list[int] | None = None
    truncated: int = 0
    replaced_letters: int = 0
    failed: dict[int, str] = field(default_factory=dict)


class Backbone(Protocol):
    """A pretrained feature extractor.

    Attributes:
        spec: The name a recipe gives it: ``esm:NAME``, ``timm:NAME``, ``sentence-transformers:NAME`` or ``vector``.
        modality: The name of the modality whose rows it reads here.
        kind: The kind of rows that it can read.
        dim: Width of the features.
        column: The shard column it reads: ``sequence``, ``image``, ``text`` or ``vector``.
        layers: Number of blocks (of a convolutional model: stages) that the features pass.
        pooling: How token features become one vector: one of ``POOLINGS`` of its kind.
        identity: sha256 over weights, preprocessing, layer and pooling. Equal identities mean equal features.
        space: The space that the features share with another modality's, if it was loaded as half of a joint model.
        preprocessing: What happens to an item before the weights see it, as JSON values.
        device: Where the weights are.
        budget: How many rows or tokens one forward pass takes.
        precision: Of the matrix products; float32 unless set otherwise.
    """

    spec: str
    modality: Modality
    kind: RowKind
    dim: int
    column: str
    layers: int
    pooling: str
    identity: str
    space: str | None
    preprocessing: dict[str, Any]
    device: torch.device
    budget: Budget
    precision: torch.dtype

    def encode(self, items: Sequence[str] | Sequence[bytes]) -> Encoded:
        """Features of raw shard values: residues, encoded image bytes or text. No gradient.

        The features of an item do not depend on the items beside it (within 1e-5), and the same call gives the same
        bytes.
        """
        ...

    @property
    def module(self) -> nn.Module:
        """The network itself, for training."""
        ...

    def prepare(self, items: Sequence[str] | Sequence[bytes], *, views: Sequence[int] | None = None) -> Any:
        """Does the part of encoding that needs no weights. A worker thread may call it; ``features`` takes the result.

        Args:
            views: A seed for each item, to prepare another view of it (see `augment`) instead of the item itself.

        Raises:
            SetClipError: an item cannot be read.
        """
        ...

    def features(self, prepared: Any) -> Tensor:
        """(n, dim) float32 features on the backbone's device, with gradients for the weights that are trained."""
        ...

    def cut(self, layer: int) -> None:
        """Drops every block after ``layer`` (see `counted_layer`) and the final norm; updates ``dim`` and ``identity``.

        The features are then the output of that block, pooled as before. The last layer leaves the model as it is.

        Raises:
            SetClipError: there is no such layer.
        """
        ...

    def to(self, device: torch.device) -> Backbone: ...


def counted_layer(layer: int, backbone: Backbone) -> int:
    """The number of a layer, counted from the input: 1 is the first block, -1 the last, -2 the one before it.

    Raises:
        SetClipError: there is no such layer.
    """
    counted = layer if layer > 0 else backbone.layers + 1 + layer
    if layer == 0 or not 1 <= counted <= backbone.layers:
        raise UsageError(
            f"towers.{backbone.modality}.layer = {layer}: {backbone.spec} has layers 1 to {backbone.layers}",
            fix=f"choose one of them, or -1 to -{backbone.layers}, counted back from the last",
        )
    return counted
