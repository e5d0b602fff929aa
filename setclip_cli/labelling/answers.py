"""The answers of a person: a journal to which each answer is added before the next question is shown.

LABELS/labels.jsonl   one line an action: an answer, the undoing of the last one, or a second look at what was skipped
LABELS/pairs.csv      what the answers say now, for `setclip ingest --pairs`: `-` where an item has no partner
LABELS/wrong.csv      the known pairs that the person calls wrong, in the form of pairs.csv; only if there are some
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from setclip_cli.dataset.dataset import NO_PARTNER
from setclip_cli.errors import SetClipError, translated
from setclip_cli.files import atomic
from setclip_cli.files.write_errors import writing
from setclip_cli.ingest.annotations import quoted

JOURNAL_NAME: Final = "labels.jsonl"
PAIRS_NAME: Final = "pairs.csv"
WRONG_NAME: Final = "wrong.csv"

Verdict = Literal["partner", "none", "skip", "right", "wrong"]
_ANSWERS_TO: dict[str, tuple[Verdict, ...]] = {
    "partner": ("partner", "none", "skip"),
    "check": ("right", "wrong", "skip"),
}


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Question(_Frozen):
    """What is asked: who the partner of a row is, or whether a known pair is right.

    Attributes:
        kind: ``partner`` or ``check``.
        modality: Of the row; of a pair, the left one.
        id: The row.
        partner: The other row of a pair that is to be checked.
    """

    kind: Literal["partner", "check"]
    modality: str
    id: str
    partner: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.partner is None) != (self.kind == "partner"):
            raise ValueError("a question about a pair, and only that, names its partner")
        return self


class Answer(_Frozen):
    """One line of the journal that answers a question.

    Attributes:
        answer: ``partner`` (it is the row ``partner``), ``none`` (it has none), ``right`` or ``wrong`` (of a pair), or
            ``skip``.
        shown: Ids of the candidates that the person saw.
        at: When.
    """

    do: Literal["answer"] = "answer"
    question: Question
    answer: Verdict
    partner: str | None = None
    shown: tuple[str, ...] = ()
    at: str = Field(default_factory=lambda: _now())

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.answer not in _ANSWERS_TO[self.question.kind]:
            raise ValueError(f"{self.answer!r} is not an answer to a question of the kind {self.question.kind!r}")
        if (self.partner is None) == (self.answer == "partner"):
            raise ValueError("the answer 'partner', and only that, names the partner")
        return self


class _Move(_Frozen):
    """A line that changes what earlier lines say."""

    do: Literal["undo", "look again"]
    at: str = Field(default_factory=lambda: _now())


class _Line(_Frozen):
    line: Answer | _Move = Field(discriminator="do")


class Answers:
    """The answers in a LABELS folder. One process writes to it at a time; see `files.lock`.

    Attributes:
        current: Question -> its answer as it stands now, in the order of the answers. What was skipped is in it.
        revision: How many lines the journal has.
    """

    def __init__(self, folder: Path, modalities: tuple[str, str]) -> None:
        """Reads the journal. A last line that a killed process left cut short is removed.

        Args:
            folder: LABELS.
            modalities: The names of the two sides: the columns of pairs.csv.

        Raises:
            SetClipError: the journal cannot be read, or a line in it is not one of ours.
            WriteError: the folder cannot be written to.
        """
        self.folder, self.modalities = folder, modalities
        self.journal = folder / JOURNAL_NAME
        self._history: list[Answer | _Move] = []  # without what was undone
        self.revision = 0
        lines, size = _read_lines(self.journal)
        for number, line in enumerate(lines, 1):
            self._take(_parsed(line, f"{self.journal}: line {number}"))
        if not self.journal.exists():
            atomic.write_bytes(self.journal, b"")  # its name is on disk before the first answer
        with writing(self.journal):
            os.truncate(self.journal, size)
        self.current = self._replayed()

    def add(self, answer: Answer) -> None:
        """Writes an answer to disk. It is on disk when this returns; if it fails, nothing has changed.

        Raises:
            WriteError: it cannot be written.
        """
        self._write(answer)

    @property
    def last(self) -> Answer | _Move | None:
        """What `undo` would undo."""
        return self._history[-1] if self._history else None

    def undo(self) -> Question | None:
        """Takes the last action back; returns the question that is open again, if it was an answer.

        Raises:
            WriteError: as `add`.
        """
        last = self.last
        if last is None:
            return None
        self._write(_Move(do="undo"))
        return last.question if isinstance(last, Answer) else None

    def look_again(self) -> None:
        """Opens the questions again that were skipped. Raises WriteError as `add` does."""
        self._write(_Move(do="look again"))

    def counts(self) -> Counter[Verdict]:
        """How many questions have each answer."""
        return Counter(answer.answer for answer in self.current.values())

    def pairs(self) -> list[tuple[str, str]]:
        """(left id, right id) of each answer that names a partner."""
        return [(left, right) for left, right in self._rows("partner") if left is not None and right is not None]

    def write_tables(self, gone: set[Question] | frozenset[Question] = frozenset()) -> None:
        """Writes pairs.csv, and wrong.csv if there is something for it, from the answers as they are now.

        The journal is on disk already, and the next session makes both of it again, so the disk is not waited for.

        Args:
            gone: Questions whose rows, or whose answers' rows, are not in the DATASET any more; they are left out.

        Raises:
            WriteError: a file cannot be written.
        """
        atomic.write_text(self.folder / PAIRS_NAME, self._csv(self._rows("partner", "none", gone=gone)), sync=False)
        wrong = self._rows("wrong", gone=gone)
        if wrong or (self.folder / WRONG_NAME).exists():
            atomic.write_text(self.folder / WRONG_NAME, self._csv(wrong), sync=False)

    def _rows(
        self, *verdicts: Verdict, gone: set[Question] | frozenset[Question] = frozenset()
    ) -> list[tuple[str | None, str | None]]:
        """(left id, right id) of each such answer; None for the partner that an item does not have."""
        rows: list[tuple[str | None, str | None]] = []
        for question, answer in self.current.items():
            if answer.answer in verdicts and question not in gone:
                item, other = question.id, answer.partner or question.partner
                rows.append((item, other) if question.modality == self.modalities[0] else (other, item))
        return rows

    def _csv(self, rows: list[tuple[str | None, str | None]]) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.modalities)
        writer.writerows([[NO_PARTNER if name is None else quoted(name) for name in row] for row in rows])
        return text.getvalue()

    def _write(self, line: Answer | _Move) -> None:
        content = line.model_dump_json(exclude_none=True).encode() + b"\n"
        with writing(self.journal, needs=len(content)):
            descriptor = os.open(self.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                size = os.fstat(descriptor).st_size
                try:
                    remaining = memoryview(content)
                    while remaining:
                        remaining = remaining[os.write(descriptor, remaining) :]
                    os.fsync(descriptor)
                except OSError:
                    os.ftruncate(descriptor, size)  # half a line would spoil the next one
                    raise
            finally:
                os.close(descriptor)
        self._take(line)
        self.current = self._replayed()

    def _take(self, line: Answer | _Move) -> None:
        self.revision += 1
        if line.do != "undo":
            self._history.append(line)
        elif self._history:
            self._history.pop()

    def _replayed(self) -> dict[Question, Answer]:
        current: dict[Question, Answer] = {}
        for line in self._history:
            if isinstance(line, Answer):
                current.pop(line.question, None)
                current[line.question] = line
            else:
                current = {question: answer for question, answer in current.items() if answer.answer != "skip"}
        return current


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _read_lines(journal: Path) -> tuple[list[bytes], int]:
    """The whole lines of the journal, and how many bytes they have together."""
    with translated(journal, OSError, found="cannot be read", fix="check the path"):
        content = journal.read_bytes() if journal.exists() else b""
    size = content.rfind(b"\n") + 1  # a line is written with its end, so what follows is cut short
    return content[:size].splitlines(), size


def _parsed(line: bytes, place: str) -> Answer | _Move:
    try:
        return _Line.model_validate_json(b'{"line":' + line + b"}").line
    except ValidationError as error:
        raise SetClipError(
            f"{place}: is not a line that `setclip label` writes ({error.errors()[0]['msg']})",
            fix="restore the file from a copy, or remove this line",
        ) from error
