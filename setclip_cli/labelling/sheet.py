"""The files of a SHEET: a CSV to fill in, and a page that shows the items with candidates for their partners."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from setclip_cli.console import visible
from setclip_cli.dataset.dataset import NO_PARTNER
from setclip_cli.evaluation.examples import displayed_by_id
from setclip_cli.evaluation.static_page import static_page
from setclip_cli.ingest.annotations import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from setclip_cli.dataset.modality import Modality
    from setclip_cli.labelling.choose import Suggestion
    from setclip_cli.pools import Pools

TEMPLATES = Path(__file__).parent / "templates"
_SHOWN_LETTERS = 200  # of a text in the CSV


class Asked(NamedTuple):
    """A suggestion as a reader sees it."""

    suggestion: Suggestion
    item: dict[str, Any]  # of `shown_rows`
    candidates: list[dict[str, Any]]  # of the other side, the likeliest first


def shown_rows(pools: Pools, side: int, rows: set[int]) -> dict[int, dict[str, Any]]:
    """What a reader sees of some rows of a side: the id, and a thumbnail, the first residues or the text."""
    pool = pools.sides[side]
    row_of = {pool.ids[row]: row for row in rows}
    shown = displayed_by_id(pools.dataset, pool.modality, pools.split, row_of)
    return {row_of[name]: each for name, each in shown.items()}


def sheet_csv(names: tuple[Modality, Modality], side: int, asked: Sequence[Asked]) -> str:
    """The CSV: the ids of one side, an empty column for the partners, and two columns for the reader."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow([*names, "why", "shown"])
    for each in asked:
        ids = ["", ""]
        ids[side] = quoted(each.suggestion.id)
        writer.writerow([*ids, each.suggestion.reason, quoted(_in_a_line(each.item))])
    return written.getvalue()


def _in_a_line(shown: dict[str, Any]) -> str:
    """What a row says, in one line without control characters."""
    text = " ".join(visible(" ".join(str(shown.get("text") or "").split())).split())
    if "facts" in shown:
        text = f"{text}, {visible(shown['facts'])}".removeprefix(", ")
    return text if len(text) <= _SHOWN_LETTERS else text[: _SHOWN_LETTERS - 1] + "…"


def sheet_page(pools: Pools, side: int, asked: Sequence[Asked], *, csv: str, command: str) -> str:
    """The page, which loads nothing from elsewhere and runs no script.

    Args:
        csv: The name of the CSV.
        command: What takes the filled-in CSV, as typed where `suggest` was run.
    """
    return static_page(
        TEMPLATES / "suggest.html.j2",
        TEMPLATES / "suggest.css",
        filters={"quoted": quoted},
        asked=asked,
        modality=pools.sides[side].modality,
        other=pools.sides[1 - side].modality,
        rows=[len(pools.sides[each].ids) for each in (side, 1 - side)],
        known=len(set(pools.pairs[:, side].tolist())),
        command=command,
        split=pools.split,
        run=pools.run,
        csv=csv,
        no_partner=NO_PARTNER,
    )
