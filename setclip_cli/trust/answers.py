"""The best answers to every row of two pools, and how far each stands out from the others, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from setclip_cli.console import progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

TILE = 1 << 24  # cosines held at a time: 64 MiB
_CERTAIN = 1e-6  # the smallest share that the other rows are given: keeps log-odds finite


@dataclass(frozen=True)
class Answers:
    """The best rows of the other side for each row of one side.

    Attributes:
        rows: (n, k) int64, the nearest first; of equally near ones the earlier row.
        cosines: (n, k).
        mass: (n,) log Σ_j exp(cos / temperature) over all rows j of the other side.
        others: How many rows the other side has.
    """

    rows: Tensor
    cosines: Tensor
    mass: Tensor
    others: int


def best_answers(left: Tensor, right: Tensor, temperatures: tuple[float, float], top: int) -> tuple[Answers, Answers]:
    """The answers to every left row and to every right row, in one pass over the cosines.

    Args:
        left: (n, d) unit rows, n > 0.
        right: (m, d) unit rows, m > 0.
        temperatures: Of the answers to left rows and to right rows, above 0.
        top: Answers to each row, at most; above 0.
    """
    width_left, width_right = min(top, len(right)), min(top, len(left))
    rows, cosines, mass = [], [], []
    of_right = torch.full((len(right), width_right), -torch.inf)
    rows_of_right = torch.zeros(len(right), width_right, dtype=torch.int64)
    mass_of_right = torch.full((len(right),), -torch.inf)
    for start, block in cosine_blocks(left, right):
        nearest = block.topk(width_left, dim=1)
        rows.append(nearest.indices)
        cosines.append(nearest.values)
        mass.append(torch.logsumexp(block / temperatures[0], 1))
        mass_of_right = torch.logaddexp(mass_of_right, torch.logsumexp(block / temperatures[1], 0))
        best, here = block.topk(min(width_right, len(block)), dim=0)
        of_right, places = torch.cat([of_right, best.T], 1).topk(width_right, dim=1)
        rows_of_right = torch.cat([rows_of_right, start + here.T], 1).gather(1, places)
    return (
        Answers(torch.cat(rows), torch.cat(cosines), torch.cat(mass), len(right)),
        Answers(rows_of_right, of_right, mass_of_right, len(left)),
    )


def cosine_blocks(left: Tensor, right: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(first left row, (r, m) cosines of r left rows and all right rows), in turn."""
    step = max(1, TILE // max(1, len(right)))
    for start in progress(range(0, len(left), step), label="compare", unit="block"):
        yield start, left[start : start + step] @ right.T


def log_odds(log_shares: Tensor) -> Tensor:
    """log p / (1 - p) of log p, finite also where p rounds to 1."""
    shares = log_shares.clamp(max=-_CERTAIN)
    return shares - torch.log(-torch.expm1(shares))


def standing_out(cosines: Tensor, mass: Tensor, temperature: float, partners: float) -> Tensor:
    """How far an answer stands out from the other rows: its log-odds in a softmax over them.

    log partners + log p / (1 - p), p = exp(cos / temperature - mass)

    Args:
        cosines: Of queries and answers.
        mass: Of each query, see `Answers`, in a form that broadcasts.
        temperature: Above 0.
        partners: How many right answers a query has, 1 or more: as many rows share what one would have.
    """
    return torch.log(cosines.new_tensor(partners)) + log_odds(cosines / temperature - mass)


def partners_here(known: float, queries: int, gallery: int) -> float:
    """How many right answers a query has in a gallery: as many as a known item has, or as the sizes allow if fewer.

    Args:
        known: Right answers of a known item, mean.
    """
    return max(1.0, min(known, gallery / max(queries, 1)))


def unit_rows(rows: Tensor) -> Tensor:
    """(n, d) float32 rows of length 1."""
    return F.normalize(rows.float(), dim=1)
