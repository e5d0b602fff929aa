"""`setclip check-pairs` as a function: every known pair with the probability that it is wrong, suspects first."""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setclip_cli.console import note, text_of_lines
from setclip_cli.dataset.modality import plural, singular
from setclip_cli.errors import SetClipError, argument
from setclip_cli.files import atomic
from setclip_cli.files.folders import refuse_foreign
from setclip_cli.files.lock import exclusive
from setclip_cli.ingest.annotations import quoted
from setclip_cli.inspection.check_pairs_options import CheckPairsOptions
from setclip_cli.inspection.check_pairs_page import check_pairs_page
from setclip_cli.inspection.pairs_gain import Gain, gain_without
from setclip_cli.options import path_of
from setclip_cli.pools import read_pools
from setclip_cli.remote.arguments import takes_places
from setclip_cli.training.suspect_pairs import require_items
from setclip_cli.trust.suspects import LIKELY, suspect_scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from setclip_cli.dataset.modality import Modality
    from setclip_cli.pools import Pools
    from setclip_cli.trust.suspects import Suspects

JSON_NAME, PAGE_NAME, CSV_NAME, KEPT_NAME = "check_pairs.json", "check_pairs.html", "check_pairs.csv", "pairs_kept.csv"
_LISTED = 5  # suspects in the summary


@dataclass(frozen=True)
class CheckedPair:
    """A known pair.

    Attributes:
        left: The id of its left row.
        right: Of its right row.
        probability: That the pair is wrong, from 0 to 1.
        reason: What speaks for or against it, in a sentence.
        best: The id of the known left row that fits the right one best.
    """

    left: str
    right: str
    probability: float
    reason: str
    best: str

    @property
    def likely_wrong(self) -> bool:
        return self.probability >= LIKELY

    def as_json(self) -> dict[str, Any]:
        return {
            "left_id": self.left,
            "right_id": self.right,
            "probability": self.probability,
            "reason": self.reason,
            "best_left_id": self.best,
        }


@dataclass(frozen=True)
class CheckPairsResult:
    """What was found.

    Attributes:
        dataset: The DATASET.
        split: Whose pairs these are.
        modalities: Of the left side and of the right one.
        out: The folder that was written.
        pairs: All known pairs of the split, the most suspect first.
        items: Known items, to which they belong.
        expected: The number of wrong pairs, as the probabilities add up.
        interval: 90% of it over samples of the items; that right pairs may look wrong is not in it.
        gain: What an alignment gains without the suspects; None if nothing is suspect or there are too few items.
    """

    dataset: Path
    split: str
    modalities: tuple[Modality, Modality]
    out: Path
    pairs: list[CheckedPair]
    items: int
    expected: float
    interval: tuple[float, float]
    gain: Gain | None

    @property
    def suspects(self) -> list[CheckedPair]:
        """The pairs that are likely wrong, the most probable first."""
        return [pair for pair in self.pairs if pair.likely_wrong]

    def as_json(self) -> dict[str, Any]:
        return {
            "dataset": str(self.dataset),
            "split": self.split,
            "left_modality": self.modalities[0],
            "right_modality": self.modalities[1],
            "pairs": len(self.pairs),
            "known_items": self.items,
            "likely_wrong": len(self.suspects),
            "expected_wrong": self.expected,
            "expected_wrong_interval": [*self.interval],
            "gain": None if self.gain is None else self.gain.as_json(),
            "suspects": [pair.as_json() for pair in self.suspects],
            "out": str(self.out),
        }

    def summary(self) -> str:
        lines = [self.sentence()]
        lines += [
            f"  {pair.left} - {pair.right}: {pair.probability:.2f}, {pair.reason}" for pair in self.suspects[:_LISTED]
        ]
        if len(self.suspects) > _LISTED:
            lines.append(f"  and {len(self.suspects) - _LISTED:,} more")
        lines += [f"  {self.gain.sentence()}"] if self.gain else []
        lines.append(f"look at {self.out / PAGE_NAME}; all pairs are in {CSV_NAME} beside it")
        if self.suspects:
            lines.append(
                f"to leave the suspects out: setclip align RECIPE --data {self.dataset} --out RUN --drop-suspect, or "
                f"give {self.out / KEPT_NAME} to `setclip ingest --pairs` for a new DATASET"
            )
        return text_of_lines(lines)

    def sentence(self) -> str:
        """How many are likely wrong."""
        low, high = self.interval
        return (
            f"{self.dataset}, split {self.split}: {len(self.suspects):,} of {len(self.pairs):,} known pairs are likely "
            f"wrong; {self.expected:.0f} wrong pairs are expected ({low:.0f} to {high:.0f} by resampling)"
        )


@takes_places("dataset", writes="out")
def check_pairs(dataset: str | Path, out: str | Path, options: CheckPairsOptions | None = None) -> CheckPairsResult:
    """Judges every known pair of a split by the other ones, and writes what it found.

    Nothing is removed. Labels are not read.

    Args:
        dataset: A DATASET with 20 known items or more.
        out: The folder for check_pairs.html, check_pairs.csv, pairs_kept.csv and check_pairs.json.
        options: Which pairs, and through which towers.

    Raises:
        SetClipError: the DATASET lacks a side or has too few known items, or ``out`` holds other things.
    """
    options, dataset, out = options or CheckPairsOptions(), path_of(dataset, "dataset"), path_of(out, "out")
    refuse_foreign(out, "a folder of setclip check-pairs", (JSON_NAME, PAGE_NAME, CSV_NAME, KEPT_NAME))
    pools = read_pools(dataset, run=options.run, recipe=options.recipe, split=options.split)
    if not len(pools.pairs):
        left, right = (side.modality for side in pools.sides)
        elsewhere = sorted({pair.split for pair in pools.dataset.pairs()})
        raise SetClipError(
            f"{dataset}: no {left}-{right} pair is known in split {pools.split!r}, so there is nothing to check",
            fix="add pairs with `setclip ingest --pairs`; `setclip suggest` says which items to label"
            + (f"; or check those of {argument('split')} {elsewhere[0]}" if elsewhere else ""),
        )
    require_items(pools.item_count, f"{dataset}, split {pools.split!r}")
    _note_trained_towers(pools)
    found = suspect_scores(pools.left.features, pools.right.features, pools.pairs, pools.items, seed=options.seed)
    gain = gain_without(pools, found.likely(), seed=options.seed)
    result = CheckPairsResult(
        dataset=dataset,
        split=pools.split,
        modalities=(pools.left.modality, pools.right.modality),
        out=out,
        pairs=_checked(pools, found),
        items=pools.item_count,
        expected=found.expected,
        interval=found.interval,
        gain=gain,
    )
    page = check_pairs_page(pools, result.as_json(), result.sentence(), gain.sentence() if gain else None)
    with exclusive(out):
        atomic.write_texts(
            {
                out / CSV_NAME: _pairs_csv(result.modalities, result.pairs, judged=True),
                out / KEPT_NAME: _pairs_csv(
                    result.modalities, [pair for pair in result.pairs if not pair.likely_wrong], judged=False
                ),
                out / PAGE_NAME: page,
                out / JSON_NAME: atomic.json_text(result.as_json()),
            }
        )
    return result


def _note_trained_towers(pools: Pools) -> None:
    tuned = [modality for modality, tower in pools.recipe.towers.items() if not tower.frozen]
    if pools.run is not None and tuned:
        note(
            f"warning: {pools.run} tuned its {' and '.join(tuned)} backbone on known pairs, so wrong ones may look "
            f"right; without {argument('run')} the features know nothing of them"
        )


def _checked(pools: Pools, found: Suspects) -> list[CheckedPair]:
    """All pairs, the most suspect first; of equals in the order of their ids."""
    left, right = pools.sides
    names = [(left.ids[row], right.ids[other]) for row, other in pools.pairs.tolist()]
    probabilities = found.probability.tolist()
    size_of = Counter(pools.items.tolist())
    order = sorted(range(len(names)), key=lambda place: (-round(probabilities[place], 6), names[place]))
    return [
        CheckedPair(
            *names[place],
            probability=round(probabilities[place], 6),
            reason=_reason(pools, found, place, size_of[int(pools.items[place])], names[int(found.nearest[place])][0]),
            best=names[int(found.nearest[place])][0],
        )
        for place in order
    ]


def _reason(pools: Pools, found: Suspects, place: int, size: int, best: str) -> str:
    """What speaks for or against a pair, in ids and counts."""
    item, partner = (singular(side.modality) for side in pools.sides)
    partners = plural(pools.right.modality)
    if float(found.of_texts[place]) > float(found.of_item[place]):
        return f"this {partner} or {item} is unlike the others of the {size} pairs of its item"
    others, better = int(found.others[place]), int(found.better_items[place])
    whose = f"this {partner}" if size == 1 else f"the {partners} of this {item}"
    backward = f"{int(found.better_partners[place]):,} have {partners} that fit this {item} better"
    if not better:
        return f"no other of {others + 1:,} known items fits {whose} better, {backward}"
    return f"{better:,} of {others:,} other known items fit {whose} better, first {item} {best}; {backward}"


def _pairs_csv(modalities: tuple[Modality, Modality], pairs: Sequence[CheckedPair], *, judged: bool) -> str:
    """In the form that `ingest --pairs` reads."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow([*modalities, *(["probability", "likely_wrong", "reason"] if judged else [])])
    for pair in pairs:
        more = [f"{pair.probability:.3f}", "yes" if pair.likely_wrong else "no", pair.reason] if judged else []
        writer.writerow([quoted(pair.left), quoted(pair.right), *more])
    return written.getvalue()
