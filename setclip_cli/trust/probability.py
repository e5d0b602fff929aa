"""Probabilities of answers, and who belongs to a conformal set, for the rows of two pools by a calibration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from setclip_cli.trust.answers import Answers, cosine_blocks, partners_here, standing_out
from setclip_cli.trust.calibration import Direction, pair_scores

if TYPE_CHECKING:
    from torch import Tensor

Directions = tuple[Direction, Direction]
Both = tuple[Answers, Answers]


def probabilities(
    directions: Directions, answers: Both, side: int, queries: Tensor, rows: Tensor, cosines: Tensor
) -> Tensor:
    """The probability that an answer is right, if the query has a partner in the pool at all.

    Args:
        directions: Of the answers to left rows and to right rows.
        answers: The masses of both pools, from `best_answers` at the temperatures of the directions.
        side: Where the queries are: 0 for left, 1 for right.
        queries: (q,) int64, their rows.
        rows: (q, k) int64, rows of the other side.
        cosines: (q, k) of these.

    Returns:
        (q, k) in [0, 1].
    """
    own, other = directions[side], directions[1 - side]
    there, here = answers[side].others, answers[1 - side].others
    ahead = standing_out(
        cosines, answers[side].mass[queries, None], own.temperature, partners_here(own.partners, here, there)
    )
    back = standing_out(
        cosines, answers[1 - side].mass[rows], other.temperature, partners_here(other.partners, there, here)
    )
    return own.in_pool((ahead + back) / 2)


def probabilities_alone(direction: Direction, cosines: Tensor, mass: float, *, queries: int, gallery: int) -> Tensor:
    """The same for a query that comes alone.

    Args:
        cosines: (k,) of the answers.
        mass: Of the query, see `Answers`.
        queries: Rows of the query's side that belong to the gallery; 0 if nothing is known of them.
        gallery: Rows of the gallery.
    """
    partners = partners_here(direction.partners, queries, gallery) if queries else 1.0
    return direction.alone(standing_out(cosines, cosines.new_tensor(mass), direction.temperature, partners))


@dataclass(frozen=True)
class Sets:
    """The conformal sets of all rows of both sides.

    Attributes:
        thresholds: On the scores of pairs, for left queries and for right queries; minus infinity takes all rows in.
        sizes: (n,) and (m,) int64: how many rows are in the set of each row.
    """

    thresholds: tuple[float, float]
    sizes: tuple[Tensor, Tensor]


def conformal_sets(directions: Directions, answers: Both, left: Tensor, right: Tensor, coverage: float) -> Sets:
    """The sets that hold a row's partner with this coverage, see `conformal.threshold`.

    Args:
        left: (n, d) unit rows, right: (m, d): both pools.
        coverage: In (0, 1).
    """
    wanted = directions[0].threshold(coverage), directions[1].threshold(coverage)
    of_left, of_right = [], torch.zeros(len(right), dtype=torch.int64)
    for start, block in cosine_blocks(left, right):
        scores = scores_of_pairs(directions, answers, block, slice(start, start + len(block)), slice(None))
        of_left.append((scores >= wanted[0]).sum(1))
        of_right += (scores >= wanted[1]).sum(0)
    return Sets(wanted, (torch.cat(of_left), of_right))


def scores_of_pairs(directions: Directions, answers: Both, cosines: Tensor, left: slice, right: slice) -> Tensor:
    """`pair_scores` of a block of cosines between left rows and right rows."""
    temperatures = directions[0].temperature, directions[1].temperature
    return pair_scores(
        cosines, answers[0].mass[left, None], answers[1].mass[right], temperatures, answers[0].others, answers[1].others
    )


def in_sets(
    sets: Sets, directions: Directions, answers: Both, side: int, queries: Tensor, rows: Tensor, cosines: Tensor
) -> Tensor:
    """(q, k) bool: whether each answer is in its query's set; the arguments are those of `probabilities`."""
    temperatures = directions[side].temperature, directions[1 - side].temperature
    scores = pair_scores(
        cosines,
        answers[side].mass[queries, None],
        answers[1 - side].mass[rows],
        temperatures,
        answers[side].others,
        answers[1 - side].others,
    )
    return scores >= (sets.thresholds[side] if math.isfinite(sets.thresholds[side]) else -math.inf)


def no_partner(prior: Tensor, first: Tensor) -> Tensor:
    """The probability that a row has no partner, now that its first answer is seen.

    p' = p (1 - f) / (p (1 - f) + (1 - p) (1 - mean f)): Bayes, if the first answer to a row without a partner looks as
    a wrong first answer to other rows does. So an answer that stands out speaks for a partner.

    Args:
        prior: (n,) p, before any answer is seen.
        first: (n,) f, that the first answer is right if there is a partner.
    """
    wrong = prior * (1 - first)
    rest = (1 - prior) * (1 - first.mean())
    return torch.where(wrong + rest > 0, wrong / (wrong + rest).clamp_min(1e-12), prior)
