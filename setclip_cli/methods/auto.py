"""`method = "auto"`, the default: the method that is best for the goal, the one partner of an item or all of its kind.

Some data have one right answer for each item: this image's caption. There ``transport`` is far ahead. Others have many:
any caption of the same scene. There ``set-clip-plus`` is ahead, because it draws items of one kind together, which is
just what hides the one partner (benchmarks/results.md). ``goal`` says which. With ``goal = "auto"`` it is what the data
can answer: kinds, if somebody has named them on both sides and most known items have one partner; else partners.

Asking held-out pairs was tried. How far transport leads a method that draws kinds together does not tell which goal a
user has: with 50 pairs of proteins it may be behind although partners are wanted (benchmarks/results.md).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from setclip_cli.dataset.dataset import pairs_in_words
from setclip_cli.methods.pairs_needed import require_pairs_of
from setclip_cli.recipe.presets import GOAL_METHODS, PAIRS_NEEDED

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from setclip_cli.recipe.recipe import Recipe

    Ends = tuple[Hashable, Hashable]

Goal = Literal["partner", "kind"]


@dataclass(frozen=True)
class Choice:
    """Which method was chosen, and why.

    Attributes:
        recipe: The recipe with the chosen method.
        reason: In words.
    """

    recipe: Recipe
    goal: Goal
    reason: str

    def summary(self) -> str:
        """One line for a person."""
        return f"auto: {self.recipe.method}, for the goal {self.goal!r}: {self.reason}"

    def as_json(self) -> dict[str, Any]:
        """What the RUN records about the choice."""
        return {"method": self.recipe.method, "goal": self.goal, "reason": self.reason}


def choose(recipe: Recipe, pairs: Sequence[Ends], items: Sequence[int], *, labelled: bool = False) -> Choice:
    """Chooses a method.

    Args:
        recipe: One with method ``auto``.
        pairs: The left and the right item of each known pair, as ids or row numbers.
        items: For each pair the number of its item, such as an image with five captions.
        labelled: Whether rows of both sides have labels, so that kinds can be asked for. What the labels are is never
            looked at.

    Raises:
        SetClipError: the goal is ``partner``, and there are not enough pairs.
    """
    require_pairs_of(recipe, pairs)
    goal, reason = _goal(recipe, pairs, items, labelled=labelled)
    return Choice(recipe.with_settings(method=GOAL_METHODS[goal], goal="auto"), goal, reason)


def _with_several(items: Sequence[int]) -> int:
    """How many items have several pairs. A few have them by chance, where two items were given one partner."""
    return sum(times > 1 for times in Counter(items).values())


def _goal(recipe: Recipe, pairs: Sequence[Ends], items: Sequence[int], *, labelled: bool) -> tuple[Goal, str]:
    count = len(set(items))
    if recipe.goal != "auto":
        return recipe.goal, "the recipe asks for it"
    if not all(tower.frozen for tower in recipe.towers.values()):
        return "kind", "a tower is tuned, and transport fits frozen features"
    if recipe.joint:
        return "partner", "the towers are aligned already, and transport goes on from there"
    if recipe.init_from is not None:
        return "kind", "training goes on from another RUN"
    if min(len({pair[side] for pair in pairs}) for side in (0, 1)) < PAIRS_NEEDED[GOAL_METHODS["partner"]]:
        return "kind", f"{pairs_in_words(len(pairs), count)} cannot tell what makes a partner"
    if 2 * _with_several(items) >= count:
        return "partner", "most known items have several partners of their own"
    if labelled:
        return "kind", "both sides have labels, and most known items have one partner each"
    return "partner", "there are no labels on both sides that would name kinds"
