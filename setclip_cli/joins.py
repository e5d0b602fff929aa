"""The report of a join: what of each side found a partner, and an example of what did not.

Labels and records, pairs and rows, groups and images, the classes of two modalities: every join gives a `Join` and goes
through `check`. A join that matches nothing is an error, and one that matches less than half is a warning.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from setclip_cli import console
from setclip_cli.errors import SetClipError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

WARNING_BELOW = 0.5


@dataclass(frozen=True)
class Side:
    """One side of a join.

    Attributes:
        name: What its entries are, such as ``labels of labels.csv``.
        total: How many there are.
        matched: How many have a partner.
        example: One that has none; or one that has, if all have.
    """

    name: str
    total: int
    matched: int
    example: str | None = None

    @staticmethod
    def of(name: str, entries: Iterable[str], matched: Collection[str]) -> Side:
        """The side of these entries, each counted once."""
        every = list(dict.fromkeys(entries))
        example = next((entry for entry in every if entry not in matched), every[0] if every else None)
        return Side(name, len(every), sum(entry in matched for entry in every), example)

    @property
    def share(self) -> float:
        return self.matched / self.total if self.total else 1.0


@dataclass(frozen=True)
class Join:
    """What one join matched.

    Attributes:
        left: What was to be joined.
        right: What it was joined to.
        ambiguous: How many of the left side have several candidates, and so no partner.
        candidates: One of them with its candidates, in words.
        by: How they were matched -> how many of the left side.
        both: Whether a small share of the right side is worth a warning too.
    """

    left: Side
    right: Side
    ambiguous: int = 0
    candidates: str | None = None
    by: Mapping[str, int] = field(default_factory=dict)
    both: bool = False

    def as_json(self) -> dict[str, Any]:
        return {
            "left": self.left.name,
            "right": self.right.name,
            "matched": self.left.matched,
            "matched_right": self.right.matched,
            "unmatched_left": self.left.total - self.left.matched - self.ambiguous,
            "unmatched_right": self.right.total - self.right.matched,
            "ambiguous": self.ambiguous,
            "example_left": self.left.example,
            "example_right": self.right.example,
            "example_ambiguous": self.candidates,
            "by": dict(self.by),
        }

    def sentence(self) -> str:
        """For a person: the counts of both sides, and an example of each that has no partner."""
        parts = [f"{side.matched:,} of {side.total:,} {side.name}{_without(side)}" for side in (self.left, self.right)]
        text = f"{parts[0]} match {parts[1]}"
        if self.ambiguous:
            text += f"; {self.ambiguous:,} have several candidates and match none ({self.candidates})"
        return text


def check(join: Join, *, fix: str, tried: str = "") -> Join:
    """Returns the join if it matched something; warns if it matched less than half of a side.

    Args:
        join: The join.
        fix: What a person can do if nothing matched.
        tried: What was compared.

    Raises:
        SetClipError: nothing matched, although both sides have entries.
    """
    if join.left.total and not join.left.matched:
        found = f"; all {join.ambiguous:,} that match have several candidates ({join.candidates})"
        raise SetClipError(
            f"none of the {join.left.total:,} {join.left.name} matches one of the {join.right.total:,} "
            f"{join.right.name}: for example {join.left.example!r} on one side, {join.right.example!r} on the other"
            f"{found if join.ambiguous else ''}{f'; compared: {tried}' if tried else ''}",
            fix=fix if join.ambiguous < join.left.total else "write more of each path, so that it means one only",
        )
    if join.left.share < WARNING_BELOW or (join.both and join.right.share < WARNING_BELOW):
        console.warning(join.sentence())
    return join


def _without(side: Side) -> str:
    return f" (not {side.example!r})" if side.matched < side.total and side.example is not None else ""
