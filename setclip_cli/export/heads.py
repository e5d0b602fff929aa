"""The heads of a RUN as safetensors, for programs that make the features themselves.

DIR/heads.safetensors   the tensors of both towers' encoders, "<modality>.<tensor>"
DIR/heads.json          by modality: the encoder that they belong to, and where its features come from
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from setclip_cli.export.check import TOLERANCE, require_equal
from setclip_cli.export.modules.setclip_encoder import network
from setclip_cli.files import atomic
from setclip_cli.run import checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from setclip_cli.dataset.modality import Modality
    from setclip_cli.encoders import Encoder
    from setclip_cli.run.model import Model

TENSORS_NAME, HEADS_NAME = "heads.safetensors", "heads.json"
_ROWS = 64  # made-up rows of features that the written file is checked on


def write_heads(folder: Path, model: Model, encoders: Mapping[Modality, Encoder]) -> dict[Modality, float]:
    """Writes the heads into an empty folder, reads them back and compares what both give.

    Returns:
        By modality, the largest difference.

    Raises:
        SetClipError: they differ.
    """
    tensors = {
        f"{modality}.{name}": value.contiguous()
        for modality, encoder in encoders.items()
        for name, value in encoder.state_dict().items()
    }
    checkpoint.save_tensors(folder / TENSORS_NAME, tensors)
    atomic.write_json(folder / HEADS_NAME, {name: _described(model, name, one) for name, one in encoders.items()})
    written, _ = checkpoint.load_tensors(folder / TENSORS_NAME, fix="export again")
    differences = {}
    for modality, encoder in encoders.items():
        read = network(encoder.describe())
        of_tower = {key: value for key, value in written.items() if key.startswith(f"{modality}.")}
        read.load_state_dict({key.removeprefix(f"{modality}."): value for key, value in of_tower.items()})
        rows = torch.randn(_ROWS, model.config.towers[modality].dim, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            own, theirs = encoder(rows).numpy(), read(rows).numpy()
        differences[modality] = require_equal(modality, own, theirs, TOLERANCE)
    return differences


def _described(model: Model, modality: Modality, encoder: Encoder) -> dict[str, Any]:
    tower = model.config.towers[modality]
    return {
        "encoder": encoder.describe(),
        "features": {
            "backbone": tower.spec,
            "vectors_of": tower.vectors_of,
            "width": tower.dim,
            "pooling": tower.pooling,
            "layer": tower.layer,
            "preprocessing": tower.preprocessing,
            "trained": tower.tuned_sha256 is not None,
        },
        "dim": encoder.dim,
    }
