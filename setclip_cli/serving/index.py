"""Exact search in the vectors of one modality for several queries at a time."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from setclip_cli.embedding.vectors import BitRows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from setclip_cli.embedding.vectors import Rows, Vectors

SCORES = 1 << 18  # held at a time: 1 MiB, which stays in the processor's cache
GROUP = 64  # scores whose largest stands for all of them
ROUNDING = 1e-5  # by which two ways to compute one cosine differ at most


@dataclass(frozen=True)
class Nearest:
    """The rows that are nearest to one query.

    Attributes:
        rows: The nearest first; of equally near ones the earlier row.
        cosines: Of these.
        mass: log Σ_j exp(cos_j / temperature) over all rows; minus infinity without rows.
    """

    rows: list[int]
    cosines: list[float]
    mass: float


class Index(ABC):
    """The rows of one modality."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def nearest(self, queries: Vectors, tops: Sequence[int], temperatures: Sequence[float]) -> list[Nearest]:
        """What is nearest to each query. It does not depend on the queries beside it.

        Args:
            queries: (q, d) unit vectors.
            tops: How many rows of each.
            temperatures: Of each mass.
        """


class SmallIndex(Index):
    """Rows of int8 or of bits, which stay as small as they are: one query after another, as `setclip search` does."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def nearest(self, queries: Vectors, tops: Sequence[int], temperatures: Sequence[float]) -> list[Nearest]:
        found = []
        for query, top, temperature in zip(queries, tops, temperatures, strict=True):
            rows, cosines = self._rows.nearest(query, top)
            found.append(Nearest(rows, cosines, self._mass(query, temperature)))
        return found

    def _mass(self, query: Vectors, temperature: float) -> float:
        if isinstance(self._rows, BitRows):
            return -math.inf  # their cosines are estimates, of which nothing makes probabilities
        blocks = (torch.from_numpy(block).double() / temperature for _, block in self._rows.cosines(query))
        masses = [torch.logsumexp(block, 0) for block in blocks if len(block)]
        return float(torch.logsumexp(torch.stack(masses), 0)) if masses else -math.inf


class WholeIndex(Index):
    """(n, d) unit rows in memory. Every row is compared with every query, and the queries share one pass."""

    def __init__(self, vectors: Vectors) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a memory map must not be written to; nothing here does
            self._vectors = torch.from_numpy(np.asarray(vectors))

    def __len__(self) -> int:
        return len(self._vectors)

    def nearest(self, queries: Vectors, tops: Sequence[int], temperatures: Sequence[float]) -> list[Nearest]:
        asked = torch.from_numpy(np.ascontiguousarray(queries))
        heat = torch.tensor(temperatures, dtype=torch.float32)[:, None]
        masses = torch.full((len(asked),), -torch.inf, dtype=torch.float64)
        candidates: list[list[torch.Tensor]] = [[] for _ in tops]
        step = max(GROUP, SCORES // max(1, len(asked)) // GROUP * GROUP)
        for start in range(0, len(self), step):
            scores = (self._vectors[start : start + step] @ asked.T).T.contiguous()
            masses = torch.logaddexp(masses, torch.logsumexp(scores / heat, 1).double())
            for place, (own, top) in enumerate(zip(scores, tops, strict=True)):
                candidates[place].append(start + _above(own, top))
        return [
            self._best(query, torch.cat(found), top, float(mass)) if found else Nearest([], [], float(mass))
            for query, found, top, mass in zip(asked, candidates, tops, masses, strict=True)
        ]

    def _best(self, query: torch.Tensor, rows: torch.Tensor, top: int, mass: float) -> Nearest:
        """The best of some rows, by products that are summed row by row, whatever the batch."""
        cosines = (self._vectors[rows].double() * query.double()).sum(1).numpy()
        best = np.lexsort((rows.numpy(), -cosines))[:top]
        return Nearest(rows.numpy()[best].tolist(), cosines[best].tolist(), mass)


def _above(scores: torch.Tensor, top: int) -> torch.Tensor:
    """Rows among which the ``top`` largest scores surely are. The largest of a group costs less than to sort all."""
    whole = len(scores) // GROUP
    if whole < 2 * top:
        least = scores.topk(min(top, len(scores))).values[-1]
    else:
        least = scores[: whole * GROUP].view(whole, GROUP).amax(1).topk(top).values[-1]
    return torch.nonzero(scores >= least - ROUNDING)[:, 0]
