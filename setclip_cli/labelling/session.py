"""One labelling session: the question that is open, its candidates, and what an answer does."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from setclip_cli.console import visible
from setclip_cli.dataset.modality import plural, singular
from setclip_cli.errors import SetClipError
from setclip_cli.labelling.answers import Answer, Answers, Question, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from setclip_cli.labelling.candidates import Partners
    from setclip_cli.labelling.labels_folder import Asked
    from setclip_cli.labelling.meaning import Meaning
    from setclip_cli.pools import Pools
    from setclip_cli.web.rows import Rows

SHOWN = 9  # candidates at a time, one for each key
FOUND = 30  # rows that a search shows


class StaleError(Exception):
    """A page answers a question that is not open any more, such as a second page of the same session."""


class MisfitError(Exception):
    """An answer that does not fit the open question. The page does not send such a one."""


class Session:
    """The questions of a LABELS folder and their answers, for one page. Several threads may call its methods."""

    def __init__(
        self,
        pools: Pools,
        rows: tuple[Rows, Rows],
        answers: Answers,
        asked: Sequence[Asked],
        partners: Partners,
        meaning: Meaning,
    ) -> None:
        self.pools, self.rows, self.answers = pools, rows, answers
        self._partners, self._meaning = partners, meaning
        self._lock = threading.Lock()
        self._sides = {pool.modality: side for side, pool in enumerate(pools.sides)}
        self.gone = {one.question for one in asked if not self._is_here(one.question)}
        self.gone |= {question for question, answer in answers.current.items() if not self._is_here(question, answer)}
        known = {(pools.left.ids[left], pools.right.ids[right]) for left, right in pools.pairs.tolist()}
        self.asked = [
            one
            for one in asked
            if self._is_here(one.question)
            and (one.question.kind == "partner" or one.question in answers.current or _pair(one.question) in known)
        ]
        self._open: Asked | None = None
        self._candidates: list[int] = []
        self._shown = SHOWN
        answers.write_tables(self.gone)
        self._go_on()

    def state(self) -> dict[str, Any]:
        """What the page shows now."""
        with self._lock:
            return self._state()

    def answer(self, revision: int, verdict: Verdict, row: int | None) -> dict[str, Any]:
        """Takes the answer to the open question; it is on disk when the next question is returned.

        Args:
            revision: The revision of the state that the person saw.
            row: The partner, for the verdict ``partner``.

        Raises:
            StaleError: the state has changed since.
            MisfitError: the verdict does not fit the question, or the row is not there.
            WriteError: the answer cannot be written; nothing has changed then.
        """
        with self._lock:
            self._require_current(revision)
            if self._open is None:
                raise StaleError
            question = self._open.question
            other = self.rows[1 - self._sides[question.modality]]
            if row is not None and not 0 <= row < len(other):
                raise MisfitError
            ids = other.ids
            shown = [ids[each] for each in self._candidates[: self._shown]] if question.kind == "partner" else []
            partner = None if row is None else ids[row]
            try:
                taken = Answer(question=question, answer=verdict, partner=partner, shown=tuple(shown))
            except ValidationError as error:
                raise MisfitError from error
            self.answers.add(taken)
            return self._changed()

    def undo(self, revision: int) -> dict[str, Any]:
        """Takes the last answer back. Raises StaleError and WriteError as `answer`."""
        with self._lock:
            self._require_current(revision)
            self.answers.undo()
            return self._changed()

    def look_again(self, revision: int) -> dict[str, Any]:
        """Asks again what was skipped. Raises StaleError and WriteError as `answer`."""
        with self._lock:
            self._require_current(revision)
            self.answers.look_again()
            return self._changed()

    def more(self) -> list[dict[str, Any]]:
        """Further candidates of the open question; empty if there are none."""
        with self._lock:
            if self._open is None or self._open.question.kind == "check":
                return []
            self._find_candidates(self._shown + SHOWN)
            new = self._candidates[self._shown :]
            self._shown = len(self._candidates)
            side = 1 - self._sides[self._open.question.modality]
            return [self._row(side, row) for row in new]

    def search(self, words: str) -> tuple[list[dict[str, Any]], int, str | None]:
        """Rows of the other side that hold the words, then rows near to their meaning if a tower can tell.

        Returns:
            The first rows, how many hold the words, and why there was no search by meaning if that failed.
        """
        with self._lock:
            if self._open is None or self._open.question.kind == "check":
                return [], 0, None
            own = self._sides[self._open.question.modality]
            likely = self._partners.scores(own, self.rows[own].row_of[self._open.question.id])
        side, problem = 1 - own, None
        holding = self.rows[side].with_words(words, likely)
        found = holding[:FOUND]
        if len(found) < FOUND and words.strip():
            try:
                near = self._meaning.nearest(side, words, FOUND)
            except SetClipError as error:
                near, problem = [], error.problem
            found += [row for row in near if row not in set(found)][: FOUND - len(found)]
        return [self._row(side, row) for row in found], len(holding), problem

    def _state(self) -> dict[str, Any]:
        counts = self.answers.counts()
        done = sum(one.question in self.answers.current for one in self.asked)
        left, right = self.pools.left.modality, self.pools.right.modality
        last = self.answers.last
        return {
            "revision": self.answers.revision,
            "sides": [{"singular": singular(name), "plural": plural(name)} for name in (left, right)],
            "done": done,
            "total": len(self.asked),
            "counts": {verdict: counts[verdict] for verdict in ("partner", "none", "skip", "right", "wrong")},
            "undo": None if last is None else visible(last.question.id) if isinstance(last, Answer) else "",
            "question": None if self._open is None else self._question(self._open),
        }

    def _question(self, asked: Asked) -> dict[str, Any]:
        question = asked.question
        side = self._sides[question.modality]
        row = self.rows[side].row_of[question.id]
        shown = {"kind": question.kind, "reason": visible(asked.reason), "item": self._row(side, row)}
        other = 1 - side
        if question.partner is not None:
            return shown | {"partner": self._row(other, self.rows[other].row_of[question.partner])}
        candidates = self._candidates[: self._shown]
        return shown | {"candidates": [self._row(other, each) for each in candidates]}

    def _row(self, side: int, row: int) -> dict[str, Any]:
        return {"side": side, **self.rows[side].shown(row)}

    def _changed(self) -> dict[str, Any]:
        """After a line was added to the journal."""
        self._go_on()
        self.answers.write_tables(self.gone)
        return self._state()

    def _go_on(self) -> None:
        """Opens the first question without an answer."""
        rows = [
            (self.rows[0].row_of[left], self.rows[1].row_of[right])
            for left, right in self.answers.pairs()
            if left in self.rows[0].row_of and right in self.rows[1].row_of
        ]
        self._partners.learn(rows)
        self._open = next((one for one in self.asked if one.question not in self.answers.current), None)
        self._candidates, self._shown = [], SHOWN
        if self._open is not None and self._open.question.kind == "partner":
            self._find_candidates(SHOWN)

    def _find_candidates(self, count: int) -> None:
        assert self._open is not None
        side = self._sides[self._open.question.modality]
        row = self.rows[side].row_of[self._open.question.id]
        self._candidates = self._partners.likely(side, row, count)

    def _require_current(self, revision: int) -> None:
        if revision != self.answers.revision:
            raise StaleError

    def _is_here(self, question: Question, answer: Answer | None = None) -> bool:
        """Whether the rows of a question, and of its answer, are in the DATASET."""
        if question.modality not in self._sides:
            return False
        side = self._sides[question.modality]
        partners = [name for name in (question.partner, answer and answer.partner) if name is not None]
        return question.id in self.rows[side].row_of and all(name in self.rows[1 - side].row_of for name in partners)


def _pair(question: Question) -> tuple[str, str | None]:
    return question.id, question.partner


def gone_in_words(session: Session) -> str | None:
    """What to say about rows that are not in the DATASET any more; None if all are there."""
    answered = [question for question in session.gone if question in session.answers.current]
    open_ones = len(session.gone) - len(answered)
    told = []
    if answered:
        first = sorted(question.id for question in answered)[0]
        told.append(
            f"{len(answered)} answer{'' if len(answered) == 1 else 's'} about rows that are not in "
            f"{session.pools.dataset.root} any more (the first: {first!r}) "
            f"{'is' if len(answered) == 1 else 'are'} kept in {session.answers.journal} and left out of pairs.csv"
        )
    if open_ones:
        told.append(f"{open_ones} question{'' if open_ones == 1 else 's'} about such rows will not be asked")
    return "; ".join(told) or None


def require_known_rows(session: Session) -> None:
    """Raises SetClipError if LABELS belongs to another DATASET: none of its rows are here."""
    if session.gone and not session.asked:
        raise SetClipError(
            f"{session.answers.folder}: none of the rows that it asks about are in {session.pools.dataset.root}",
            fix="give the DATASET with which it was begun, or choose a new folder",
        )
