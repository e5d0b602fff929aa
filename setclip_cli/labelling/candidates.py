"""The rows of the other side among which a person looks for the partner of a row.

Scores say who is likely, and of the likely rows some are taken that differ from each other: the nine highest scores
are often copies of one mistake. While few partners are known the scores are weak, and most candidates are typical rows
that stand for the whole pool, whatever their score (benchmarks/results.md).
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from setclip_cli.encoders import FeatureTransform
from setclip_cli.methods.transport import fit_transport
from setclip_cli.sampling import generator

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from setclip_cli.pools import Pools

AXES = 64  # principal axes of each side that the scores see
ENOUGH_FOR_A_MAP = 3  # different items of each side: below, similarities to the known items say more than a fitted map
DIFFERENCE = 0.4  # how much it counts that a candidate is unlike those before it, against 0.6 for its score
LEAST_LIKELY = 1 / 3  # share of the candidates that are chosen by score while hardly anything is known
HALF_LIKELY = 20  # known items at which half of the candidates are chosen by score
_CONSIDERED = 1_000  # highest scores among which candidates are chosen
_TYPICAL = 1_000  # rows that stand for a pool of which nothing else is known


class Partners:
    """Likely partners by a RUN's embeddings, the known pairs and the answers so far, and typical rows between them.

    What does not depend on the answers is computed once, so that the next list is there at once after an answer.
    """

    def __init__(self, pools: Pools) -> None:
        self.pools = pools
        self._answers: list[tuple[int, int]] = []
        self._maps: tuple[Tensor, Tensor] | None = None

    def learn(self, answers: Iterable[tuple[int, int]]) -> None:
        """Takes the answers so far in the place of those before: (left row, right row) of each."""
        self._answers, self._maps = list(answers), None

    def likely(self, side: int, row: int, count: int) -> list[int]:
        """Rows of the other side: likely partners, the likeliest first, and typical rows between them.

        The share of likely ones grows with the b known items: max(1/3, b / (b + 20)). A longer list begins like a
        shorter one.

        Args:
            side: Of the row: 0 left, 1 right.
            row: The row.
            count: How many rows to return; fewer if the other side has no more.
        """
        scores = self.scores(side, row)
        if scores is None:
            return self._spread[1 - side][:count]
        likely = different(scores, self._transformed[1 - side], count)
        return _merged(likely, self._spread[1 - side], self._share_of_likely(), count)

    def _share_of_likely(self) -> float:
        known = len({left for left, _ in (*self.pools.pairs.tolist(), *self._answers)})
        return max(LEAST_LIKELY, known / (known + HALF_LIKELY))

    def scores(self, side: int, row: int) -> Tensor | None:
        """(m,) how likely each row of the other side is the partner; None if nothing is known."""
        scores = None
        embeddings = [pool.embeddings for pool in self.pools.sides]
        if embeddings[0] is not None and embeddings[1] is not None:
            scores = _standardized(embeddings[1 - side] @ embeddings[side][row])  # type: ignore[index,operator]
            if not self._answers:  # the RUN knows the other pairs
                return scores
        if self._maps is None:
            self._maps = self._fitted()
        if self._maps is None:
            return scores
        of_pairs = _standardized(self._maps[1 - side] @ self._maps[side][row])
        return of_pairs if scores is None else scores + of_pairs

    def _fitted(self) -> tuple[Tensor, Tensor] | None:
        """(n, d) and (m, d): the product of two rows says how likely they are partners; None without any pair."""
        pairs = torch.tensor([*map(tuple, self.pools.pairs.tolist()), *self._answers], dtype=torch.int64).reshape(-1, 2)
        if not len(pairs):
            return None
        left, right = self._transformed
        if min(len({*of_side}) for of_side in pairs.T.tolist()) < ENOUGH_FOR_A_MAP:
            # a row that is like a known item looks for what is like its partner, one that is unlike for the unlike
            return _cosines(left, left[pairs[:, 0]]), _cosines(right, right[pairs[:, 1]])
        maps = fit_transport(left, right, pairs, seed=0, share=0)
        return maps[0](left), maps[1](right)

    @cached_property
    def _transformed(self) -> tuple[Tensor, Tensor]:
        left, right = (FeatureTransform.fit(pool.features, AXES)(pool.features) for pool in self.pools.sides)
        return left, right

    @cached_property
    def _spread(self) -> tuple[list[int], list[int]]:
        left, right = (typical_rows(rows, 90) for rows in self._transformed)
        return left, right


def likely_partners(
    pools: Pools, side: int, row: int, count: int, *, answers: Iterable[tuple[int, int]] = ()
) -> list[int]:
    """The rows of the other side that are the likeliest partners of a row, likeliest first; see `Partners.likely`.

    Args:
        answers: Pairs that a person has given beside those of the DATASET: (left row, right row) of each.
    """
    partners = Partners(pools)
    partners.learn(answers)
    return partners.likely(side, row, count)


def different(scores: Tensor, rows: Tensor, count: int) -> list[int]:
    """Rows of high score that differ: greedily the largest 0.6 score - 0.4 (largest cosine with a row before).

    Source: maximal marginal relevance, Carbonell & Goldstein 1998 (SIGIR).

    Args:
        scores: (m,); among the highest ones they are scaled to [0, 1].
        rows: (m, p), of which cosines are taken.
    """
    values, places = scores.topk(min(max(_CONSIDERED, count), len(scores)))
    values = (values - values[-1]) / (values[0] - values[-1]).clamp_min(1e-12)
    unit = F.normalize(rows[places], dim=1)
    nearest = torch.zeros_like(values)
    chosen: list[int] = []
    for _ in range(min(count, len(values))):
        gain = (1 - DIFFERENCE) * values - DIFFERENCE * nearest
        gain[chosen] = -torch.inf
        best = int(gain.argmax())
        chosen.append(best)
        nearest = torch.maximum(nearest, unit @ unit[best])
    return [int(places[place]) for place in chosen]


def typical_rows(rows: Tensor, count: int) -> list[int]:
    """Rows that stand for all: greedily the one that brings the rows of a sample nearest to a chosen one.

    Σ_i max_{j chosen} cos(x_i, x_j), over at most 1,000 rows of a fixed draw.

    Source: facility location, Nemhauser, Wolsey & Fisher 1978 (Mathematical Programming 14).
    """
    sample = torch.randperm(len(rows), generator=generator(0, "typical rows"))[:_TYPICAL]
    unit = F.normalize(rows[sample], dim=1)
    cosines = unit @ unit.T
    covered = torch.full((len(sample),), -1.0)
    chosen: list[int] = []
    for _ in range(min(count, len(sample))):
        gain = (cosines - covered[:, None]).clamp_min(0).sum(0)
        gain[chosen] = -1
        best = int(gain.argmax())
        chosen.append(best)
        covered = torch.maximum(covered, cosines[best])
    return [int(sample[place]) for place in chosen]


def _merged(likely: list[int], typical: list[int], share: float, count: int) -> list[int]:
    """``count`` different rows, of which about the given share are likely ones, each kind in its order.

    Beginning with a likely one; when one kind is at its end, the other goes on.
    """
    merged: dict[int, None] = {}
    kinds = [iter(typical), iter(likely)]
    taken = 0
    while len(merged) < count and kinds:
        by_score = len(kinds) == 1 or taken <= len(merged) * share
        kind = kinds[-1 if by_score else 0]
        row = next((row for row in kind if row not in merged), None)
        if row is None:
            kinds = [other for other in kinds if other is not kind]
            continue
        merged[row] = None
        taken += by_score
    return list(merged)


def _cosines(rows: Tensor, others: Tensor) -> Tensor:
    return F.normalize(rows, dim=1) @ F.normalize(others, dim=1).T


def _standardized(scores: Tensor) -> Tensor:
    return (scores - scores.mean()) / scores.std().clamp_min(1e-12) if len(scores) > 1 else scores
