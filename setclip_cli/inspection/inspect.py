"""`setclip inspect` as a function: do the pools overlap, and has training seen what tests ask for?"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setclip_cli.console import text_of_lines
from setclip_cli.dataset.modality import plural
from setclip_cli.errors import SetClipError
from setclip_cli.files import atomic
from setclip_cli.files.folders import refuse_foreign
from setclip_cli.files.lock import exclusive
from setclip_cli.ingest.annotations import quoted
from setclip_cli.inspection.inspect_page import inspect_page
from setclip_cli.inspection.leakage import NearCopy, SplitCopies, near_copies
from setclip_cli.inspection.options import InspectOptions
from setclip_cli.options import path_of
from setclip_cli.pools import open_towers, read_pools
from setclip_cli.remote.arguments import takes_places
from setclip_cli.trust.unmatched import UnmatchedRows, unmatched_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from setclip_cli.dataset.modality import Modality
    from setclip_cli.pools import Pools

JSON_NAME, PAGE_NAME, UNMATCHED_NAME, COPIES_NAME = (
    "inspect.json",
    "inspect.html",
    "unmatched.csv",
    "near_copies.csv",
)
LIKELY = 0.5  # probability from which a row looks as if it had no partner


@dataclass(frozen=True)
class Overlap:
    """How much of a pool has no partner in the other one.

    Attributes:
        modality: Of the pool.
        other: Of the other pool.
        found: The estimate.
        ids: Rows that look as if they had no partner, the surest first, each with its probability.
    """

    modality: Modality
    other: Modality
    found: UnmatchedRows
    ids: list[tuple[str, float]]

    def as_json(self) -> dict[str, Any]:
        return {
            "modality": self.modality,
            "share_without_partner": self.found.share,
            "interval": [*self.found.interval],
            "mix_difference": self.found.difference,
            "mix_difference_interval": [*self.found.difference_interval],
            "rows_that_look_unmatched": len(self.ids),
        }

    def sentence(self) -> str:
        """What it says, and how sure that is."""
        low, high = self.found.interval
        return (
            f"{100 * self.found.share:.0f} % of the {plural(self.modality)} seem to have no partner among the "
            f"{plural(self.other)} (95% interval {100 * low:.0f} to {100 * high:.0f} %)"
        )


@dataclass(frozen=True)
class InspectResult:
    """What was found.

    Attributes:
        dataset: The DATASET.
        split: The training split.
        rows: Of each modality in it, the left one first.
        pairs: Known pairs of the split.
        items: Known items, to which the pairs belong.
        overlaps: Of the left pool and the right one; empty if nothing can be said.
        why_not: Why nothing can be said about the overlap; None if something can.
        copies: Of each modality and other split.
        least_cosine: Of near copies.
        out: The folder that was written; None if none was asked for.
    """

    dataset: Path
    split: str
    rows: dict[Modality, int]
    pairs: int
    items: int
    overlaps: list[Overlap]
    why_not: SetClipError | None
    copies: list[SplitCopies]
    least_cosine: float
    out: Path | None

    def as_json(self) -> dict[str, Any]:
        return {
            "dataset": str(self.dataset),
            "split": self.split,
            "rows": self.rows,
            "pairs": self.pairs,
            "known_items": self.items,
            "overlap": [each.as_json() for each in self.overlaps],
            "why_no_overlap": None if self.why_not is None else self.why_not.problem,
            "near_copies": [
                {"modality": each.modality, "split": each.split, "rows": each.rows, "near_copies": len(each.copies)}
                for each in self.copies
            ],
            "near_copies_from_cosine": self.least_cosine,
            "out": None if self.out is None else str(self.out),
        }

    def summary(self) -> str:
        counts = ", ".join(f"{count:,} {plural(name)}" for name, count in self.rows.items())
        known = f"{self.pairs:,} known pair{'' if self.pairs == 1 else 's'}"
        lines = [f"{self.dataset}, split {self.split}: {counts}, {known}"]
        if self.why_not is not None:
            lines += [f"overlap: {self.why_not.problem}", f"  {self.why_not.fix}"]
        for each in self.overlaps:
            low, high = each.found.difference_interval
            lines += [
                f"overlap: {each.sentence()}",
                f"  {100 * each.found.difference:.0f} % of them would have to be others, for the mix to be that of "
                f"rows with a partner ({100 * low:.0f} to {100 * high:.0f} %)",
            ]
        for split in self.copies:
            lines.append(
                f"near copies: {len(split.copies):,} of {split.rows:,} {plural(split.modality)} of split {split.split} "
                f"have a near copy in split {self.split}"
            )
        if not self.copies:
            lines.append(f"near copies: there is no split beside {self.split} to compare with")
        if self.out:
            lines.append(
                f"look at {self.out / PAGE_NAME}; the rows are in {UNMATCHED_NAME} and {COPIES_NAME} beside it"
            )
        return text_of_lines(lines)


@takes_places("dataset", writes="out")
def inspect(dataset: str | Path, out: str | Path | None = None, options: InspectOptions | None = None) -> InspectResult:
    """Estimates how much of each pool has no partner in the other, and finds near copies across splits.

    Labels are not read.

    Args:
        dataset: A DATASET of two modalities. Fewer than 20 known items say nothing about the overlap.
        out: Where inspect.html, inspect.json, unmatched.csv and near_copies.csv are written; None writes nothing.
        options: What to look at.

    Raises:
        SetClipError: the DATASET lacks a side or the split, or ``out`` holds other things.
    """
    options, dataset = options or InspectOptions(), path_of(dataset, "dataset")
    folder = None if out is None else path_of(out, "out")
    if folder is not None:
        refuse_foreign(folder, "a folder of setclip inspect", (JSON_NAME, PAGE_NAME, UNMATCHED_NAME, COPIES_NAME))
    towers = open_towers(dataset, run=options.run, recipe=options.recipe, split=options.split)
    pools = read_pools(dataset, split=options.split, towers=towers)
    overlaps: list[Overlap] = []
    why_not = None
    try:
        overlaps = _overlaps(pools, options.seed)
    except SetClipError as error:
        why_not = error
    copies = near_copies(towers, pools.sides, pools.split, least=options.near_duplicates)
    result = InspectResult(
        dataset=dataset,
        split=pools.split,
        rows={side.modality: len(side.ids) for side in pools.sides},
        pairs=len(pools.pairs),
        items=pools.item_count,
        overlaps=overlaps,
        why_not=why_not,
        copies=copies,
        least_cosine=options.near_duplicates,
        out=folder,
    )
    if folder is not None:
        page = inspect_page(pools, result.as_json(), [(each.sentence(), each.ids) for each in overlaps], copies)
        with exclusive(folder):
            atomic.write_texts(
                {
                    folder / UNMATCHED_NAME: _unmatched_csv(overlaps),
                    folder / COPIES_NAME: _copies_csv([copy for split in copies for copy in split.copies], pools.split),
                    folder / PAGE_NAME: page,
                    folder / JSON_NAME: atomic.json_text(result.as_json()),
                }
            )
    return result


def _overlaps(pools: Pools, seed: int) -> list[Overlap]:
    found = unmatched_rows(pools.left.features, pools.right.features, pools.pairs, pools.items, seed=seed)
    overlaps = []
    for side, other, of_side in zip(pools.sides, reversed(pools.sides), found, strict=True):
        order = of_side.probabilities.argsort(descending=True, stable=True).tolist()
        probabilities = of_side.probabilities.tolist()
        ids = [(side.ids[row], probabilities[row]) for row in order if probabilities[row] >= LIKELY]
        overlaps.append(Overlap(side.modality, other.modality, of_side, ids))
    return overlaps


def _unmatched_csv(overlaps: Sequence[Overlap]) -> str:
    rows = [(each.modality, quoted(name), f"{value:.3f}") for each in overlaps for name, value in each.ids]
    return _csv(("modality", "id", "no_partner"), rows)


def _copies_csv(copies: Sequence[NearCopy], split: str) -> str:
    rows = [
        (copy.modality, copy.split, quoted(copy.id), quoted(copy.training_id), f"{copy.cosine:.4f}") for copy in copies
    ]
    return _csv(("modality", "split", "id", f"id_in_{split}", "cosine"), rows)


def _csv(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return written.getvalue()
