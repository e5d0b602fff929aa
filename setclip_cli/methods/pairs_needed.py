"""How many known pairs a method needs: it refuses fewer before anything is fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from setclip_cli.errors import UsageError, argument
from setclip_cli.recipe.presets import GOAL_METHODS, pairs_needed

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from setclip_cli.recipe.recipe import Recipe


def require_pairs_of(recipe: Recipe, pairs: Sequence[tuple[Hashable, Hashable]]) -> None:
    """`require_pairs` of the recipe's method; of that for the goal where the method is still to be chosen."""
    method = recipe.method if recipe.goal == "auto" else GOAL_METHODS[recipe.goal]
    require_pairs(method, pairs, joint=recipe.joint)


def require_pairs(method: str, pairs: Sequence[tuple[Hashable, Hashable]], *, joint: bool = False) -> None:
    """Checks that a method has the pairs that it needs.

    Args:
        method: A method of the recipe.
        pairs: The left and the right item of each known pair, as ids or row numbers.
        joint: Whether the towers are aligned already.

    Raises:
        SetClipError: exit code 2; there are too few pairs, or too few different items in them.
    """
    needed = pairs_needed(method, joint=joint)
    left, right = len({pair[0] for pair in pairs}), len({pair[1] for pair in pairs})
    if min(left, right) >= needed:
        return
    found = (
        f"{len(pairs)}" if min(left, right) == len(pairs) else f"{len(pairs)}, of {left} left and {right} right items"
    )
    raise UsageError(
        f"method {method!r}: learns from known pairs alone and needs {needed} or more of different items; "
        f"there {'is' if len(pairs) == 1 else 'are'} {found if pairs else 'none'}",
        fix=f"add pairs with `{argument('pairs', 'setclip ingest --pairs')}`, or set method = 'set-clip-plus', which "
        "also learns from rows without a partner",
    )
