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
    frames: int | None = None  # at most, of each video that it was trained on


def load_towers(model: Model, *, graphs: bool) -> list[Tower]:
    """Both towers with their weights after training, the left one first.

    Args:
        graphs: They are to become graphs of ONNX, which can read videos.

    Raises:
        SetClipError: as `Model.load_backbone` does, or a tower reads videos.
    """
    towers = model.config.towers
    for modality in model.encoders:
        if not graphs and towers[modality].info(modality).kind == "video":
            raise UsageError(
                f"{model.run}: its {modality} tower reads videos, which a model of sentence-transformers cannot",
                fix="write graphs that read frames with --to onnx, or the heads alone with --to safetensors",
            )
    return [
        Tower(modality, model.load_backbone(modality), encoder, towers[modality].frames)
        for modality, encoder in model.encoders.items()
    ]
