"""The towers of a RUN, loaded to be exported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from setclip_cli.backbones.base import Backbone
    from setclip_cli.dataset.modality import Modality
    from setclip_cli.encoders import Encoder
    from setclip_cli.run.model import Model


@dataclass(frozen=True)
class Tower:
    """One tower of a RUN."""

    modality: Modality
    backbone: Backbone
    encoder: Encoder


def load_towers(model: Model) -> list[Tower]:
    """Both towers with their weights after training, the left one first.

    Raises:
        SetClipError: as `Model.load_backbone` does.
    """
    return [Tower(modality, model.load_backbone(modality), encoder) for modality, encoder in model.encoders.items()]
