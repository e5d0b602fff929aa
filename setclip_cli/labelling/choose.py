"""Which items a person should be asked about next: those whose partners say most about the others.

What a partner says of one item, it says of similar ones too. So the next item is the one whose answer leaves the least
unknown of the whole pool: it is typical of many rows, and unlike the items before it. With a RUN, rows of which the RUN
is unsure count more. What else was tried is in benchmarks/results.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from setclip_cli.dataset.modality import plural
from setclip_cli.encoders import FeatureTransform
from setclip_cli.errors import UsageError, argument, nearest
from setclip_cli.labelling.unsure import unsureness
from setclip_cli.sampling import generator

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from torch import Tensor

    from setclip_cli.dataset.modality import Modality
    from setclip_cli.pools import Pools

AXES = 64  # principal axes of a pool by which rows are alike
LIKENESS = 0.5  # of the kernel exp((cos - 1) / LIKENESS): what an answer says of a row at this distance is 1 / e
NOISE = 0.1  # of an answer, against what it says of its own row
ROWS = 20_000  # of a larger pool so many rows are considered, which the seed draws
TARGETS = 1_500  # rows that stand for the pool when what is unknown of it is measured
KNOWN = 2_000  # known rows that are taken into account; the seed draws them
UNSURE = 0.5  # from 0 to 1: above, the reason says that the RUN is unsure
BLOCK = 1 << 24  # similarities held at a time: 64 MiB
_ROWS = 4_096  # candidates in one product


@dataclass(frozen=True)
class Suggestion:
    """An item to ask about.

    Attributes:
        side: 0 for the left side, 1 for the right one.
        row: Its row in the pool.
        score: Share of the pool that is nearer to it than to any other suggested or known row.
        reason: Why it was chosen, in words.
    """

    side: int
    modality: Modality
    row: int
    id: str
    score: float
    reason: str


def choose_items(
    pools: Pools, count: int, *, seed: int = 0, side: int | None = None, exclude: Collection[int] = ()
) -> list[Suggestion]:
    """The items of one side whose partners are most worth knowing, the most worth first.

    Items with a known partner are never among them, nor those of which a file of pairs says that they have none. What
    is known of these says something of similar items, which are asked about later.

    Args:
        count: How many; fewer come back if there are not so many.
        seed: Decides the draws. The order of the rows decides nothing.
        side: 0 for the left side, the default, or 1 for the right one.
        exclude: Further rows of that side that are asked about already. They count as known ones do.
    """
    side = 0 if side is None else side
    pool = pools.sides[side]
    lone = pools.dataset.lone_items()
    known = set(pools.pairs[:, side].tolist()) | {*exclude}
    known |= {row for row, name in enumerate(pool.ids) if (pool.modality, name) in lone}
    order = sorted(range(len(pool.ids)), key=pool.ids.__getitem__)
    features = pool.features[order].float()
    unsure = unsureness(pools, side)
    chosen = choose_rows(
        FeatureTransform.fit(features, AXES)(features),
        count,
        seed=seed,
        known=[place for place, row in enumerate(order) if row in known],
        weights=None if unsure is None else unsure[order],
    )
    return [
        Suggestion(
            side,
            pool.modality,
            order[place],
            pool.ids[order[place]],
            stands_for / len(order),
            f"stands for {stands_for:,} of {len(order):,} {plural(pool.modality)}"
            + ("" if unsure is None else _in_words(float(unsure[order[place]]))),
        )
        for place, stands_for in chosen
    ]


def _in_words(unsure: float) -> str:
    return ", and the RUN is unsure of it" if unsure > UNSURE else ", and the RUN is rather sure of it"


def side_of(pools: Pools, modality: Modality | None) -> int | None:
    """The number of the side that a user names.

    Raises:
        UsageError: no side has that name.
    """
    names = [pool.modality for pool in pools.sides]
    if modality is None:
        return None
    if modality not in names:
        raise UsageError(
            f"{argument('side')} {modality}: is not a side here{nearest(modality, names)}",
            fix=f"choose one of: {', '.join(names)}",
        )
    return names.index(modality)


def choose_rows(
    rows: Tensor,
    count: int,
    *,
    seed: int,
    known: Sequence[int] = (),
    weights: Tensor | None = None,
) -> list[tuple[int, int]]:
    """Rows whose answers leave the least unknown, one after another: (row, rows that it stands for) of each.

    What is unknown is the variance of a Gaussian process with the kernel k(x, y) = exp((cos(x, y) - 1) / LIKENESS),
    given the answers. With C the covariance given all answers before, row i lessens the sum over the pool by

        Σ_t w_t C_ti² / (C_ii + NOISE)

    Args:
        rows: (n, d) transformed features.
        count: How many; fewer come back if there are not so many.
        seed: Decides which rows of a large pool are looked at.
        known: Rows of which the answer is known; they are not taken.
        weights: (n,) w, how much each row counts; None for all alike.

    Source: transductive experimental design, Yu, Bi & Tresp 2006 (ICML 23).
    """
    unit = F.normalize(rows, dim=1)
    free = torch.ones(len(unit), dtype=torch.bool)
    free[[*known]] = False
    candidates = _some(free.nonzero().squeeze(1), ROWS, seed, "candidates")
    targets = _some(torch.arange(len(unit)), TARGETS, seed, "targets")
    answered = _some(torch.tensor(sorted({*known}), dtype=torch.int64), KNOWN, seed, "known")
    chosen: list[int] = []
    if count > 0 and len(candidates):
        of_targets = torch.ones(len(targets)) if weights is None else weights[targets].clamp_min(1e-6)
        count = min(count, len(candidates))
        left = _Unknown(unit[candidates], unit[targets], unit[answered], of_targets, count)
        free = torch.ones(len(candidates), dtype=torch.bool)
        for _ in range(count):
            place = int(left.gains().masked_fill_(~free, -torch.inf).argmax())
            free[place] = False
            left.answer(place)
            chosen.append(int(candidates[place]))
    return list(zip(chosen, _stand_for(unit, chosen, sorted({*known})), strict=True))


class _Unknown:
    """What answers leave unknown: the covariance C of candidates with targets, and what each answer would take from it.

    C is never made: it is the kernel less E Fᵀ, where a row of E or F holds what the answers explain of a candidate or
    a target. So an answer costs one product of the kernel with a vector.
    """

    def __init__(self, candidates: Tensor, targets: Tensor, answered: Tensor, weights: Tensor, count: int) -> None:
        """``count`` answers will come beside those that are known."""
        own = _kernel(answered, answered).double()
        factor = torch.linalg.cholesky(own + NOISE * torch.eye(len(own), dtype=own.dtype))
        self._answers = len(answered)
        self._explained, self._of_targets = (
            side.new_zeros(len(side), len(own) + count) for side in (candidates, targets)
        )
        for side, explained in ((candidates, self._explained), (targets, self._of_targets)):
            of_known = torch.linalg.solve_triangular(factor, _kernel(answered, side).double(), upper=False)
            explained[:, : len(own)] = of_known.T
        self._candidates, self._weights = candidates, weights
        self._kernel = _kernel(candidates, targets)
        self._own = (1 - self._explained.square().sum(1)).double()
        self._taken = torch.cat(
            [
                ((kernel - explained @ self._of_targets.T).square() @ weights).double()
                for kernel, explained in zip(
                    torch.split(self._kernel, _ROWS), torch.split(self._explained, _ROWS), strict=True
                )
            ]
        )

    def gains(self) -> Tensor:
        """(n,) how much an answer of each candidate would take from the weighted variance of the targets."""
        return self._taken / (self._own + NOISE)

    def answer(self, place: int) -> None:
        """Takes the answer of a candidate as known: C <- C - a bᵀ."""
        known = slice(0, self._answers)
        scale = float(self._own[place] + NOISE) ** 0.5
        own = _kernel(self._candidates, self._candidates[place : place + 1])[:, 0]
        a = (own - self._explained[:, known] @ self._explained[place, known]) / scale
        b = (self._kernel[place] - self._of_targets[:, known] @ self._explained[place, known]) / scale
        weighted = b * self._weights
        along = self._kernel @ weighted - self._explained[:, known] @ (self._of_targets[:, known].T @ weighted)
        self._taken += (a.square() * (b @ weighted) - 2 * a * along).double()
        self._own -= a.square()
        self._explained[:, self._answers], self._of_targets[:, self._answers] = a, b
        self._answers += 1


def _kernel(one: Tensor, other: Tensor) -> Tensor:
    return (one @ other.T).sub_(1).div_(LIKENESS).exp_()


def _some(rows: Tensor, count: int, seed: int, stream: str) -> Tensor:
    """At most so many of the rows, in their order."""
    if len(rows) <= count:
        return rows
    drawn = torch.randperm(len(rows), generator=generator(seed, "suggest", stream))[:count]
    return rows[drawn.sort().values]


def _stand_for(unit: Tensor, chosen: Sequence[int], known: Sequence[int]) -> list[int]:
    """How many rows are nearer to each chosen one than to any other chosen or known one."""
    if not chosen:
        return []
    asked = unit[[*chosen, *known]]
    nearest_of = [(block @ asked.T).argmax(1) for block in torch.split(unit, max(1, BLOCK // len(asked)))]
    return torch.cat(nearest_of).bincount(minlength=len(asked))[: len(chosen)].tolist()
