"""What `align` does about known pairs that are likely wrong: it warns, or leaves them out if it is asked to."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, NamedTuple

import torch

from setclip_cli.console import note
from setclip_cli.errors import SetClipError
from setclip_cli.ingest.annotations import quoted
from setclip_cli.methods.pairs_needed import require_pairs_of
from setclip_cli.training.known_pairs import KnownPairs
from setclip_cli.trust.suspects import LEAST_ITEMS, suspect_scores

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from setclip_cli.dataset.dataset import Dataset, Pair
    from setclip_cli.recipe.recipe import Recipe

WARN_ITEMS = 100  # known items from which `align` looks for wrong pairs unasked: with fewer, right ones look wrong
WARN_PAIRS = 1_000  # that it looks at: bounds the time
WARN_SHARE = 0.08  # of the pairs, from which it warns: up to 5 in 100 right pairs may look wrong


class Kept(NamedTuple):
    """The pairs to train on, and those that were left out, each with the probability that it is wrong."""

    known: KnownPairs
    rows: Tensor
    dropped: list[tuple[Pair, float]]


def without_suspects(recipe: Recipe, left: Tensor, right: Tensor, known: KnownPairs, rows: Tensor) -> Kept:
    """Leaves out the pairs that are likely wrong, and says how many.

    Args:
        left: (n, p) frozen features of the left pool.
        right: (m, q) of the right one.
        rows: (b, 2) int64, the rows of the pairs.

    Raises:
        SetClipError: there are too few items to tell, or too few pairs are left for the method.
    """
    items = torch.tensor(known.items, dtype=torch.int64)
    require_items(len(set(known.items)), 'drop_suspect = "auto"')
    found = suspect_scores(left, right, rows, items, seed=recipe.seed)
    kept = torch.ones(len(rows), dtype=torch.bool)
    kept[found.likely()] = False
    dropped = [(known.pairs[place], float(found.probability[place])) for place in found.likely().tolist()]
    places = kept.nonzero().squeeze(1).tolist()
    pairs = [known.pairs[place] for place in places]
    require_pairs_of(recipe, [(pair.left_id, pair.right_id) for pair in pairs])
    return Kept(KnownPairs(pairs, [known.items[place] for place in places], known.by_item), rows[kept], dropped)


def require_items(count: int, what: str) -> None:
    """Raises SetClipError if there are too few known items to tell which pairs are wrong."""
    if count < LEAST_ITEMS:
        raise SetClipError(
            f"{what}: each pair is judged by the other ones, which takes {LEAST_ITEMS} known items or more; "
            f"there {'is' if count == 1 else 'are'} {count or 'none'}",
            fix="add pairs with `setclip ingest --pairs`; `setclip suggest` says which items to label",
        )


def warn_of_suspects(
    recipe: Recipe, dataset: Dataset, left: Tensor, right: Tensor, rows: Tensor, items: Tensor
) -> None:
    """Writes one line if several of the pairs are likely wrong.

    It looks at whole items of ``WARN_PAIRS`` pairs at most, which takes one to two seconds.
    """
    first = torch.unique(items)[: _items_within(items)]
    looked = torch.isin(items, first)
    if len(first) < WARN_ITEMS:
        return
    found = suspect_scores(left, right, rows[looked], items[looked], seed=recipe.seed)
    likely = len(found.likely())
    if likely >= max(2, WARN_SHARE * int(looked.sum())):
        note(
            f"warning: {likely:,} of {int(looked.sum()):,} known pairs are likely wrong; look at them: "
            f"setclip check-pairs {dataset.root} --split {recipe.train.split} --out FOLDER; or leave them out: "
            "--drop-suspect"
        )


def _items_within(items: Tensor) -> int:
    """How many of the first items have ``WARN_PAIRS`` pairs together."""
    counts = torch.unique(items, return_counts=True)[1]
    return int((counts.cumsum(0) <= WARN_PAIRS).sum())


def dropped_csv(dropped: list[tuple[Pair, float]]) -> str:
    """The pairs that were left out, the most suspect first, in the form that `ingest --pairs` reads."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    pair = dropped[0][0] if dropped else None
    writer.writerow([*((pair.left_modality, pair.right_modality) if pair else ("left", "right")), "probability"])
    writer.writerows((quoted(pair.left_id), quoted(pair.right_id), f"{value:.3f}") for pair, value in dropped)
    return written.getvalue()


def told_of_dropped(dropped: list[tuple[Pair, float]], kept: int, items: int, path: Path) -> str:
    """What was left out, in a line.

    Args:
        kept: Pairs that are trained on.
        items: Known items before.
        path: The list of the pairs that were left out.
    """
    told = f"drop_suspect: {len(dropped):,} of {kept + len(dropped):,} known pairs are likely wrong and are left out"
    if not dropped:
        return told
    few = f"; with {items} known items some of them may be right, so look at them" if items < WARN_ITEMS else ""
    return f"{told}; they are listed in {path}{few}"
