"""LABELS, the folder of a labelling session: what is asked, and of which DATASET.

LABELS/labels.json   LabelsFile: written when questions are added
LABELS/labels.jsonl, pairs.csv, wrong.csv   see `answers`
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from pydantic import BaseModel, ConfigDict

from setclip_cli.console import warning
from setclip_cli.errors import UsageError, argument
from setclip_cli.files.documents import read_json, write_document
from setclip_cli.files.folders import refuse_foreign
from setclip_cli.files.lock import exclusive
from setclip_cli.files.write_errors import InUseError
from setclip_cli.labelling.answers import JOURNAL_NAME, Question

if TYPE_CHECKING:
    from collections.abc import Iterator

    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.dataset.modality import Modality

INDEX_NAME: Final = "labels.json"


class Asked(BaseModel):
    """A question, and why it is asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: Question
    reason: str


class LabelsFile(BaseModel):
    """labels.json.

    Attributes:
        dataset: The path of the DATASET, as it was given.
        dataset_sha256: Its identity when questions were added last.
        modalities: The left and the right side.
        questions: In the order in which they are asked.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    dataset: str
    dataset_sha256: str
    modalities: tuple[str, str]
    split: str
    questions: tuple[Asked, ...] = ()


@contextmanager
def one_session(folder: Path) -> Iterator[None]:
    """Holds LABELS for this process alone.

    Raises:
        SetClipError: the folder holds other things.
        InUseError: another session has it.
    """
    refuse_foreign(folder, "a LABELS folder", [INDEX_NAME, JOURNAL_NAME])
    try:
        with exclusive(folder):
            yield
    except InUseError as error:
        if not str(error.problem).startswith(f"{folder}:"):
            raise
        raise InUseError(
            f"{folder}: another `setclip label` asks these questions now",
            fix=f"answer in its page, or stop it (Ctrl-C) and run this again, or choose another {argument('out')}",
        ) from error


def read_labels_file(folder: Path, dataset: Dataset, names: tuple[Modality, Modality], split: str) -> LabelsFile:
    """What was asked in this folder; a new, empty one for a new folder. Warns if it was about another DATASET.

    Args:
        names: The left and the right side.

    Raises:
        SetClipError: it cannot be read, or was made for other sides or another split.
    """
    fresh = LabelsFile(dataset=str(dataset.root), dataset_sha256=dataset.identity(), modalities=names, split=split)
    path = folder / INDEX_NAME
    if not path.exists():
        return fresh
    found = read_json(path, LabelsFile, fix=f"choose a new folder with {argument('out')}")
    if (found.modalities, found.split) != (names, split):
        was, now = (" and ".join(sides) for sides in (found.modalities, names))
        raise UsageError(
            f"{folder}: asks about {was} rows of the split {found.split}, and this command about {now} rows of {split}",
            fix=f"choose a new folder with {argument('out')}",
        )
    if found.dataset_sha256 != fresh.dataset_sha256 and Path(found.dataset).resolve() != dataset.root.resolve():
        warning(
            f"{folder}: was begun with the DATASET {found.dataset}, and goes on with {dataset.root}: its answers stay "
            "with the rows that have the same ids"
        )
    return fresh.model_copy(update={"questions": found.questions})


def write_labels_file(folder: Path, content: LabelsFile) -> None:
    """Raises WriteError if it cannot be written."""
    write_document(folder / INDEX_NAME, content.model_dump(mode="json", exclude_none=True))
