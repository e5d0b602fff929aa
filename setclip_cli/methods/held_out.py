"""Known pairs that are held out of a fit, and how well it finds them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from setclip_cli.sampling import generator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from setclip_cli.encoders import Encoder

FOLDS = 5
LEAST_ITEMS = 40  # with 20, a handful of ranks took worse shares than the default ones (benchmarks/results.md)
ENOUGH_ITEMS = 300  # held out so far: further folds would change little, and each costs a fit
GALLERY = 2000  # a held-out partner is ranked among this many rows of its pool

Encoders = tuple["Encoder", "Encoder"]


class Fold(NamedTuple):
    """One part of the known pairs, held out of a fit to the others.

    Attributes:
        hidden: (b,) bool, the pairs that are held out.
        known: (k, 2) the other pairs.
    """

    hidden: Tensor
    known: Tensor


@dataclass(frozen=True)
class FoldFit:
    """A fit to the known pairs of the other folds: to it, the hidden pairs are new.

    Attributes:
        hidden: (b,) bool, the pairs that are held out.
        known: (k, 2) the pairs that were fitted.
        encoders: Of both sides, as that fit made them.
    """

    hidden: Tensor
    known: Tensor
    encoders: Encoders


def means_of_items(scores: Tensor, items: Tensor) -> Tensor:
    """(n,) the mean score of each item's pairs, of (b,) scores and the number of each pair's item.

    Pairs that were never held out have a score that is not a number. An item without any other is left out.
    """
    there = ~scores.isnan()
    numbers: Tensor = torch.unique(items[there], return_inverse=True)[1]
    counts = numbers.bincount()
    means: Tensor = torch.zeros(len(counts)).index_add_(0, numbers, scores[there]) / counts
    return means


def folds(pairs: Tensor, seed: int, items: Tensor) -> Tensor:
    """(b,) int64: the fold in which each pair is held out. Pairs that share a row or an item are held out together.

    Otherwise a method would find the fifth caption of an image only because it was fitted to the other four.
    """
    left, right, item = (torch.unique(side, return_inverse=True)[1].numpy() for side in (*pairs.T, items))
    sizes = [int(numbers.max(initial=-1)) + 1 for numbers in (left, right, item)]
    edges = np.tile(left, 2), np.concatenate([sizes[0] + right, sizes[0] + sizes[1] + item])
    joined = coo_array((np.ones(len(edges[0])), edges), shape=(sum(sizes), sum(sizes)))
    count, component = connected_components(joined, directed=False)
    fold = torch.randperm(count, generator=generator(seed, "auto")) % FOLDS  # the older name: it decides the draw
    return fold[torch.from_numpy(component[left]).long()]


def held_out(pairs: Tensor, seed: int, items: Tensor, *, least: int = LEAST_ITEMS) -> Iterator[Fold]:
    """The folds, in turn, up to the one with which ``ENOUGH_ITEMS`` were held out. None if there are too few items.

    Args:
        pairs: (b, 2) int64, rows of the known pairs.
        seed: Decides the folds.
        items: (b,) int64, the number of each pair's item.
        least: Fewer items than these are too few.
    """
    fold = folds(pairs, seed, items)
    if len(set(items.tolist())) < least or len(set(fold.tolist())) < FOLDS:
        return
    seen = 0
    for number in range(FOLDS):
        hidden = fold == number
        yield Fold(hidden, pairs[~hidden])
        seen += len(set(items[hidden].tolist()))
        if seen >= ENOUGH_ITEMS:
            return


@torch.no_grad()
def partner_scores(
    parts: Sequence[Encoders],
    weights: Tensor,
    left: Tensor,
    right: Tensor,
    pairs: Tensor,
    known: Tensor,
    items: Tensor,
) -> Tensor:
    """(w, b) how well each pair's items find each other: 1 - log rank / log gallery, the mean of both directions.

    A pair's own partner is ranked among up to ``GALLERY`` rows of its pool, evenly spaced. Rows of the ``known`` pairs
    are left out: a method that treats the rows it was fitted to in another way (ASIF's anchors) would find the partner
    by that alone. Other rows of the pair's item are right answers too, so they are not ahead of the partner: ``items``
    has the number of each pair's item. Ties count half. Logs, because a user looks at the head of the ranking.

    Args:
        parts: Encoders of both sides. Rows are ranked by a weighted sum of their cosines.
        weights: (w, parts) those of each sum that is scored.
    """
    scores = torch.zeros(len(weights), len(pairs))
    for own, other, pool, (rows_of_queries, partners), fitted in (
        (0, 1, (left, right), pairs.T, known[:, 1]),
        (1, 0, (right, left), pairs.T.flip(0), known[:, 0]),
    ):
        queries, galleries = pool
        free = torch.ones(len(galleries), dtype=torch.bool)
        free[fitted] = False
        rows = free.nonzero().squeeze(1)
        rows = rows[:: math.ceil(len(rows) / GALLERY)]
        item_of_row = torch.full((len(galleries),), -1).index_copy_(0, partners, items)
        right_answers = item_of_row[rows] == items[:, None]
        cosines, of_partner = [], []
        for part in parts:
            embeddings = part[own](queries[rows_of_queries])
            cosines.append(embeddings @ part[other](galleries[rows]).T)
            of_partner.append((embeddings * part[other](galleries[partners])).sum(1, keepdim=True))
        for place, weight in enumerate(weights):
            similarities = _weighted(cosines, weight).masked_fill_(right_answers, -torch.inf)
            own_partner = _weighted(of_partner, weight)
            ahead = (similarities > own_partner).sum(1) + 0.5 * (similarities == own_partner).sum(1)
            scores[place] += (1 - torch.log1p(ahead) / math.log1p(len(rows))) / 2
    return scores


def _weighted(cosines: Sequence[Tensor], weight: Tensor) -> Tensor:
    total = torch.zeros_like(cosines[0])
    for part, share in zip(cosines, weight.tolist(), strict=True):
        if share:
            total.add_(part, alpha=share)
    return total
