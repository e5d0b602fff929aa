"""The page of `setclip check-pairs`: the suspect pairs, each beside the known item that fits better."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from setclip_cli.evaluation.examples import displayed_by_id
from setclip_cli.evaluation.static_page import static_page

if TYPE_CHECKING:
    from setclip_cli.pools import Pools

TEMPLATES = Path(__file__).parent / "templates"
SHOWN = 50  # suspects


def check_pairs_page(pools: Pools, content: dict[str, Any], sentence: str, gain: str | None) -> str:
    """The page, which loads nothing from elsewhere and runs no script.

    Args:
        content: What check_pairs.json holds.
        sentence: How many pairs are likely wrong.
        gain: What an alignment gains without them.
    """
    first = content["suspects"][:SHOWN]
    lefts = {pair[key] for pair in first for key in ("left_id", "best_left_id")}
    left = displayed_by_id(pools.dataset, pools.left.modality, pools.split, lefts)
    right = displayed_by_id(pools.dataset, pools.right.modality, pools.split, {pair["right_id"] for pair in first})
    return static_page(
        TEMPLATES / "check_pairs.html.j2",
        TEMPLATES / "inspect.css",
        TEMPLATES / "check_pairs.css",
        content=content,
        sentence=sentence,
        gain=gain,
        suspects=[(pair, left[pair["left_id"]], right[pair["right_id"]], left[pair["best_left_id"]]) for pair in first],
    )
