"""Zero-shot task sets: names for the classes of a data set, and the sentences that the names are put into.

Those that come with the package are in the folder `task_sets`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from setclip_cli.dataset.modality import Modality
from setclip_cli.evaluation.similarity import unit_rows
from setclip_cli.files.documents import read_settings
from setclip_cli.files.shipped import find

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from setclip_cli.backbones.base import Backbone
    from setclip_cli.evaluation.arrays import Embeddings
    from setclip_cli.run.model import Model


class TaskSet(BaseModel):
    """A task set file.

    Attributes:
        modality: The modality that is classified.
        templates: Sentences with one ``{}``; their embeddings are averaged.
        classes: Label -> one or several names; the report shows the classes in this order.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1]
    modality: Modality
    source: str
    templates: Annotated[list[Annotated[str, Field(pattern=r"^[^{}]*\{\}[^{}]*$")]], Field(min_length=1)]
    classes: Annotated[dict[str, str | list[str]], Field(min_length=2)]

    def prompts(self, label: str) -> list[str]:
        """Every template, filled with every name of the class."""
        names = self.classes[label]
        listed = [names] if isinstance(names, str) else names
        return [template.replace("{}", name) for template in self.templates for name in listed]

    def matching(self, labels: Iterable[str | None]) -> dict[str, str]:
        """Label as the data spell it -> label of the task set; case and all but letters and digits are ignored."""
        known = {_letters_and_digits(label): label for label in self.classes}
        spelled = sorted({label for label in labels if label is not None})
        return {label: known[plain] for label in spelled if (plain := _letters_and_digits(label)) in known}


def load_task_set(name: str | Path) -> TaskSet:
    """Reads a task set by its path, or by the name of one that comes with the package.

    Raises:
        SetClipError: exit code 2; there is no such task set, or the file is not valid.
    """
    example = "compare it with one that comes with setclip: `setclip tasks show rsscn7`"
    return read_settings(find("tasks", name), TaskSet, fix=example)


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


def _letters_and_digits(label: str) -> str:
    return "".join(letter for letter in label.casefold() if letter.isalnum())
