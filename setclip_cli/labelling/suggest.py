"""`setclip suggest` as a function: a folder with a CSV to fill in, and a page that shows what it asks about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setclip_cli.console import text_of_lines, visible
from setclip_cli.dataset.modality import plural
from setclip_cli.errors import SetClipError, argument
from setclip_cli.files import atomic
from setclip_cli.files.folders import refuse_foreign
from setclip_cli.files.lock import exclusive
from setclip_cli.ingest.annotations import read_pairs
from setclip_cli.labelling.candidates import Partners
from setclip_cli.labelling.choose import Suggestion, choose_items, side_of
from setclip_cli.labelling.next_steps import as_typed
from setclip_cli.labelling.sheet import Asked, sheet_csv, sheet_page, shown_rows
from setclip_cli.labelling.suggest_options import SuggestOptions
from setclip_cli.options import path_of
from setclip_cli.pools import read_pools
from setclip_cli.remote.arguments import takes_places

if TYPE_CHECKING:
    from collections.abc import Sequence

    from setclip_cli.dataset.modality import Modality
    from setclip_cli.pools import Pools

CSV_NAME, PAGE_NAME = "suggest.csv", "suggest.html"


@dataclass(frozen=True)
class SuggestResult:
    """What was suggested.

    Attributes:
        out: The SHEET folder.
        dataset: The DATASET.
        asked: The modality of the items, and that of their partners.
        rows: Of the modality of the items, in the split.
        known: Rows of it that have a known partner.
        suggestions: The items, the most worth asking about first.
        candidates: For each the ids of rows that may be its partner.
    """

    out: Path
    dataset: Path
    asked: tuple[Modality, Modality]
    rows: int
    known: int
    suggestions: list[Suggestion]
    candidates: list[list[str]]

    def as_json(self) -> dict[str, Any]:
        return {
            "out": str(self.out),
            "csv": str(self.out / CSV_NAME),
            "page": str(self.out / PAGE_NAME),
            "modality": self.asked[0],
            "partner_modality": self.asked[1],
            "rows": self.rows,
            "known": self.known,
            "suggestions": [
                {"id": each.id, "score": each.score, "reason": each.reason, "candidates": candidates}
                for each, candidates in zip(self.suggestions, self.candidates, strict=True)
            ],
        }

    def summary(self) -> str:
        """What to do with the files."""
        item, partner = self.asked
        return text_of_lines(
            [
                f"{self.out}: {len(self.suggestions):,} of {self.rows:,} {plural(item)} to find the {partner} of, in "
                f"{CSV_NAME} and {PAGE_NAME}",
                f"  look at {self.out / PAGE_NAME}, and fill in the column {partner} of {self.out / CSV_NAME}",
                f"  then: {_next_command(self.out, self.dataset)}",
            ]
        )


@takes_places("dataset", writes="out")
def suggest(dataset: str | Path, out: str | Path, options: SuggestOptions | None = None) -> SuggestResult:
    """Writes suggest.csv and suggest.html: the items whose partners are most worth knowing.

    Args:
        dataset: A DATASET with two modalities; pairs need not be known. Labels are not read.
        out: The SHEET folder.
        options: Which items.

    Raises:
        SetClipError: the DATASET lacks a side, no item is left to ask about, ``out`` holds other things, or a sheet in
            it has answers.
    """
    options, dataset, out = options or SuggestOptions(), path_of(dataset, "dataset"), path_of(out, "out")
    refuse_foreign(out, "a SHEET folder", (CSV_NAME, PAGE_NAME))
    pools = read_pools(dataset, run=options.run, recipe=options.recipe, split=options.split)
    side = side_of(pools, options.side) or 0
    names = [pool.modality for pool in pools.sides]
    _refuse_answered(out, names)
    suggestions = choose_items(pools, options.count, seed=options.seed, side=side)
    if not suggestions:
        raise SetClipError(
            f"{dataset}: no {names[side]} of split {pools.split!r} is left to ask about: a partner of each is known",
            fix=f"align with the pairs that are known: setclip align RECIPE --data {dataset} --out RUN",
        )
    asked = _asked(pools, suggestions, options.candidates)
    with exclusive(out):
        _refuse_answered(out, names)
        atomic.write_texts(
            {
                out / PAGE_NAME: sheet_page(pools, side, asked, csv=CSV_NAME, command=_next_command(out, dataset)),
                out / CSV_NAME: sheet_csv((names[0], names[1]), side, asked),
            }
        )
    return SuggestResult(
        out=out,
        dataset=dataset,
        asked=(names[side], names[1 - side]),
        rows=len(pools.sides[side].ids),
        known=len(set(pools.pairs[:, side].tolist())),
        suggestions=suggestions,
        candidates=[[candidate["id"] for candidate in each.candidates] for each in asked],
    )


def _next_command(out: Path, dataset: Path) -> str:
    """What takes the filled-in sheet, as typed in a shell where `suggest` was run."""
    return as_typed(["ingest", "--pairs", str(out / CSV_NAME), "--out", str(dataset)])


def _asked(pools: Pools, suggestions: Sequence[Suggestion], count: int) -> list[Asked]:
    """The suggestions, with their candidates and what a reader sees of all of them."""
    partners = Partners(pools)
    likely = [partners.likely(each.side, each.row, count) for each in suggestions]
    side = suggestions[0].side
    items = shown_rows(pools, side, {each.row for each in suggestions})
    others = shown_rows(pools, 1 - side, {row for rows in likely for row in rows})
    return [
        Asked(each, items[each.row], [others[row] for row in rows])
        for each, rows in zip(suggestions, likely, strict=True)
    ]


def _refuse_answered(out: Path, names: Sequence[Modality]) -> None:
    """Refuses to write over a sheet in which somebody has filled in a partner, or that has other columns."""
    path = out / CSV_NAME
    if not path.exists():
        return
    try:
        found = read_pairs(path, names)
    except SetClipError as error:
        raise SetClipError(
            f"{path}: is not a sheet that can be replaced: {error.problem}",
            fix=f"choose another {argument('out')}; nothing was changed",
        ) from error
    if answered := len(found.pairs) + len(found.lone):
        raise SetClipError(
            f"{visible(path)}: has {answered:,} answers, which a new sheet would replace",
            fix=f"give it to ingest (setclip ingest --pairs {path} --out DATASET), then choose another "
            f"{argument('out')} or remove it; nothing was changed",
        )
