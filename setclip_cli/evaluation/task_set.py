"""Zero-shot task sets: names for the classes of a data set, and the sentences that the names are put into.

Those that come with the package are in the folder `task_sets`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from setclip_cli.files.documents import read_settings
from setclip_cli.files.shipped import find

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Name = Annotated[str, Field(pattern=r"\S")]


class TaskSet(BaseModel):
    """A task set file.

    Attributes:
        modality: The kind of rows that are classified.
        templates: Sentences with one ``{}``; their embeddings are averaged.
        classes: Label -> one or several names; the report shows the classes in this order.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1]
    modality: Literal["protein", "image"]
    source: str
    templates: Annotated[list[Annotated[str, Field(pattern=r"^[^{}]*\{\}[^{}]*$")]], Field(min_length=1)]
    classes: Annotated[dict[str, Name | Annotated[list[Name], Field(min_length=1)]], Field(min_length=2)]

    @model_validator(mode="after")
    def _labels_differ(self) -> TaskSet:
        seen: dict[str, str] = {}
        for label in self.classes:
            plain = _letters_and_digits(label)
            if not plain:
                raise ValueError(f"classes: {label!r} has no letter and no digit")
            if plain in seen:
                raise ValueError(f"classes: {seen[plain]!r} and {label!r} differ in case and signs only")
            seen[plain] = label
        return self

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


def _letters_and_digits(label: str) -> str:
    return "".join(letter for letter in label.casefold() if letter.isalnum())
