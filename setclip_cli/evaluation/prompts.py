"""The classes of a task set as embeddings of their prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from setclip_cli.evaluation.similarity import unit_rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from setclip_cli.backbones.base import Backbone
    from setclip_cli.encoders import Encoder
    from setclip_cli.evaluation.arrays import Embeddings
    from setclip_cli.evaluation.task_set import TaskSet


def prompt_prototypes(task: TaskSet, classes: Iterable[str], encoder: Encoder, backbone: Backbone) -> Embeddings:
    """(c, d) one unit row for each class: the mean of its prompts' unit embeddings (prompt ensemble, arXiv:2103.00020).

    Args:
        encoder, backbone: Those of the model's text tower.
    """
    rows = []
    for label in classes:
        with torch.inference_mode():
            embedded = encoder(backbone.encode(task.prompts(label)).features)
        rows.append(unit_rows(embedded.float().cpu().numpy()).mean(0))
    return unit_rows(np.stack(rows))
