"""The page of `setclip inspect`: how much the pools overlap, rows that look unmatched, and near copies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from setclip_cli.evaluation.examples import displayed_by_id
from setclip_cli.evaluation.static_page import static_page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from setclip_cli.inspection.leakage import SplitCopies
    from setclip_cli.pools import Pools

TEMPLATES = Path(__file__).parent / "templates"
SHOWN = 12  # rows of each list
LOOKED_AT = 10  # times as many rows are read, to show such that differ


def inspect_page(
    pools: Pools,
    content: dict[str, Any],
    unmatched: Sequence[tuple[str, Sequence[tuple[str, float]]]],
    copies: Sequence[SplitCopies],
) -> str:
    """The page, which loads nothing from elsewhere and runs no script.

    Args:
        content: What inspect.json holds.
        unmatched: For each side a sentence, and the rows that look as if they had no partner, the surest first.
        copies: Of each modality and other split.
    """
    sides = []
    for side, (sentence, rows) in zip(pools.sides, unmatched, strict=False):
        first = dict(rows[: SHOWN * LOOKED_AT])
        shown = displayed_by_id(pools.dataset, side.modality, pools.split, first)
        listed = [shown[name] | {"no_partner": first[name]} for name in _unlike(shown, [*first])]
        sides.append((side.modality, sentence, len(rows), listed))
    pairs = []
    for each in copies:
        some = {copy.id: copy for copy in each.copies[: SHOWN * LOOKED_AT]}
        rows_of = displayed_by_id(pools.dataset, each.modality, each.split, some)
        unlike = [some[name] for name in _unlike(rows_of, [*some])]
        seen = displayed_by_id(pools.dataset, each.modality, pools.split, {copy.training_id for copy in unlike})
        pairs.append((each, [(copy, rows_of[copy.id], seen[copy.training_id]) for copy in unlike]))
    return static_page(
        TEMPLATES / "inspect.html.j2",
        TEMPLATES / "inspect.css",
        content=content,
        sides=sides,
        copies=pairs,
    )


def _unlike(shown: dict[str, dict[str, Any]], ids: Sequence[str]) -> list[str]:
    """The first ``SHOWN`` of the ids whose rows look unlike to a reader: one of many equal captions says enough."""
    looks: dict[str, str] = {}
    for name in ids:
        row = shown[name]
        looks.setdefault(str(row.get("image") or row.get("residues") or row.get("text") or name), name)
    return [*looks.values()][:SHOWN]
