"""The classes of a task set as embeddings of their prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from setclip_cli.evaluation.similarity import unit_rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from setclip_cli.backbones.base import Backbone
    from setclip_cli.evaluation.arrays import Embeddings
    from setclip_cli.evaluation.task_set import TaskSet
    from setclip_cli.run.model import Model


def prompt_prototypes(task: TaskSet, classes: Iterable[str], model: Model, backbone: Backbone) -> Embeddings:
    """(c, d) one unit row for each class: the mean of its prompts' unit embeddings (prompt ensemble, arXiv:2103.00020).

    Args:
        backbone: That of the model's caption tower.
    """
    rows = []
    for label in classes:
        with torch.inference_mode():
            embedded = model.encoders["caption"](backbone.encode(task.prompts(label)).features)
        rows.append(unit_rows(embedded.float().cpu().numpy()).mean(0))
    return unit_rows(np.stack(rows))
