"""Known pairs that are held out of a fit, and how well it finds them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from setclip_cli.sampling import generator

if TYPE_CHECKING:
    from torch import Tensor

    from setclip_cli.encoders import Encoder

FOLDS = 5
GALLERY = 2000  # a held-out partner is ranked among this many rows of its pool


def mean_lead(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    """Mean difference over the items, and its standard error."""
    difference = ours - theirs
    return float(difference.mean()), float(difference.std()) / math.sqrt(len(difference))


def means_of_items(scores: Tensor, items: Tensor) -> Tensor:
    """(n,) the mean score of each item's pairs, of (b,) scores and the number of each pair's item, from 0 on."""
    counts = items.bincount()
    return torch.zeros(len(counts)).index_add_(0, items, scores) / counts


def folds(pairs: Tensor, seed: int, items: Tensor) -> Tensor:
    """(b,) int64: the fold in which each pair is held out. Pairs that share a row or an item are held out together.

    Otherwise a method would find the fifth caption of an image only because it was fitted to the other four.
    """
    left, right, item = (torch.unique(side, return_inverse=True)[1].numpy() for side in (*pairs.T, items))
    sizes = [int(numbers.max(initial=-1)) + 1 for numbers in (left, right, item)]
    edges = np.tile(left, 2), np.concatenate([sizes[0] + right, sizes[0] + sizes[1] + item])
    joined = coo_array((np.ones(len(edges[0])), edges), shape=(sum(sizes), sum(sizes)))
    count, component = connected_components(joined, directed=False)
    fold = torch.randperm(count, generator=generator(seed, "auto")) % FOLDS
    return fold[torch.from_numpy(component[left]).long()]


@torch.no_grad()
def partner_scores(
    encoders: tuple[Encoder, Encoder], left: Tensor, right: Tensor, pairs: Tensor, known: Tensor, items: Tensor
) -> Tensor:
    """(b,) how well each pair's items find each other: 1 - log rank / log gallery, the mean of both directions.

    The gallery is the pair's own partner among up to ``GALLERY`` rows of its pool, evenly spaced. Rows of the ``known``
    pairs are left out: a method that treats the rows it was fitted to in another way (ASIF's anchors) would find the
    partner by that alone. Other rows of the pair's item are right answers too, so they are not ahead of the partner:
    ``items`` has the number of each pair's item. Ties count half. Logs, because a user looks at the head of the
    ranking.
    """
    embeddings = [encoder(pool[rows]) for encoder, pool, rows in zip(encoders, (left, right), pairs.T, strict=True)]
    own = (embeddings[0] * embeddings[1]).sum(1, keepdim=True)
    scores = torch.zeros(len(pairs))
    for queries, encoder, pool, partners, fitted in (
        (embeddings[0], encoders[1], right, pairs[:, 1], known[:, 1]),
        (embeddings[1], encoders[0], left, pairs[:, 0], known[:, 0]),
    ):
        free = torch.ones(len(pool), dtype=torch.bool)
        free[fitted] = False
        rows = free.nonzero().squeeze(1)
        rows = rows[:: math.ceil(len(rows) / GALLERY)]
        gallery = encoder(pool[rows])
        item_of_row = torch.full((len(pool),), -1).index_copy_(0, partners, items)
        also_right = (item_of_row[rows] == items[:, None]) & (rows != partners[:, None])
        similarities = (queries @ gallery.T).masked_fill_(also_right, -torch.inf)
        ahead = (similarities > own).sum(1) + 0.5 * (similarities == own).sum(1)
        scores += (1 - torch.log1p(ahead) / math.log1p(len(gallery))) / 2
    return scores
