"""The towers of a RUN, loaded to be exported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from setclip_cli.errors import UsageError

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
        SetClipError: as `Model.load_backbone` does, or a tower reads videos.
    """
    for modality in model.encoders:
        if model.config.towers[modality].info(modality).kind == "video":
            raise UsageError(
                f"{model.run}: its {modality} tower reads videos, which cannot be exported yet",
                fix="use load_model of setclip_cli, or export the heads alone with --to safetensors",
            )
    return [Tower(modality, model.load_backbone(modality), encoder) for modality, encoder in model.encoders.items()]
