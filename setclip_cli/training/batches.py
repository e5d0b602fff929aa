"""What a step reads: the unpaired rows of both sides, a second view of them, and known pairs, all prepared."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from setclip_cli.sampling import generator, sample

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from setclip_cli.training.distributed import Group
    from setclip_cli.training.tower import TrainingTower

    RowWeights = Tensor | Callable[[Tensor], Tensor]  # of all rows, or from the (n, p) transformed features of some

CANDIDATES = 8  # rows of a large pool of which one is drawn by its weight
PartName = Literal["unpaired", "paired", "second_view"]


@dataclass(frozen=True)
class BatchPart:
    """Rows of one side that a step embeds together.

    Attributes:
        rows: (n,) int64, of all ranks.
        chunks: This rank's share of them, prepared, ``chunk_rows`` rows each.
        view_seed: Set for a second view.
    """

    rows: Tensor
    chunks: list[Any]
    chunk_rows: int
    view_seed: int | None


SideBatch = dict[PartName, BatchPart]  # "unpaired" always, the others where the objective uses them


class Batches:
    """The batches of all steps. Each is a pure function of the seed and the step, so there is no state to save."""

    def __init__(
        self,
        towers: tuple[TrainingTower, TrainingTower],
        pairs: Tensor,
        group: Group,
        *,
        seed: int,
        steps: int,
        members: int,
        rows: int,
        paired_rows: int,
        second_views: bool,
        row_weights: tuple[RowWeights, RowWeights] | None,
    ) -> None:
        """Draws from the rows of two towers.

        Args:
            pairs: (b, 2) int64: the left and right rows of the known pairs; b may be 0.
            steps: Steps of each member of the ensemble.
            rows: Unpaired rows of each side in a step.
            paired_rows: Known pairs in a step.
            second_views: Whether a step has a second view of the unpaired rows.
            row_weights: How often the rows of each side are drawn: a number for each row, or what gives it for
                some rows of a large pool. None for equally often.
        """
        self.towers, self.pairs, self.group = towers, pairs.cpu(), group
        self.seed, self.steps, self.members = seed, steps, members
        self.rows, self.paired_rows, self.second_views = rows, paired_rows, second_views
        self.row_weights = row_weights or (None, None)
        # Tuned backbones read raw rows: those of the next step are read while this one computes.
        self._reader = ThreadPoolExecutor(1) if any(tower.pool.tuned for tower in towers) else None
        self._next: tuple[int, Future[tuple[SideBatch, SideBatch]]] | None = None

    def take(self, taken: int) -> tuple[SideBatch, SideBatch]:
        """The batch of the step after ``taken`` steps."""
        if self._reader is None:
            return self.draw(taken)
        ready = self._next[1] if self._next and self._next[0] == taken else None
        batch = ready.result() if ready else self.draw(taken)
        if taken + 1 < self.steps * self.members:
            self._next = (taken + 1, self._reader.submit(self.draw, taken + 1))
        return batch

    def draw(self, taken: int) -> tuple[SideBatch, SideBatch]:
        """Chooses and prepares the rows. Each side and the pairs have a random stream of their own."""
        member, step = divmod(taken, self.steps)
        paired = self.pairs
        if len(self.pairs):
            paired = self.pairs[
                sample(len(self.pairs), self.paired_rows, step, seed=self.seed, stream=f"pairs/{member}")
            ]
        sides: list[SideBatch] = []
        for column, tower in enumerate(self.towers):
            rows = tower.by_length(self._unpaired(tower, self.row_weights[column], member, step))
            parts: SideBatch = {"unpaired": self._prepared(tower, rows)}
            if len(self.pairs):
                parts["paired"] = self._prepared(tower, paired[:, column])
            if self.second_views:
                view_seed = generator(self.seed, "view", tower.side, member, step).initial_seed()
                parts["second_view"] = self._prepared(tower, rows, view_seed)
            sides.append(parts)
        return sides[0], sides[1]

    def _unpaired(self, tower: TrainingTower, weights: RowWeights | None, member: int, step: int) -> Tensor:
        """The numbers of a step's unpaired rows.

        Of a large pool with weights, ``CANDIDATES`` times as many rows are drawn, and then some of them by their
        weights.
        """
        stream, count = f"{tower.side}/{member}", len(tower.pool)
        if not callable(weights):
            return sample(count, self.rows, step, seed=self.seed, stream=stream, weights=weights)
        drawn: Tensor = torch.unique(sample(count, CANDIDATES * self.rows, step, seed=self.seed, stream=stream))
        own = weights(tower.compared(tower.inputs_of(drawn)))
        chosen = sample(len(drawn), self.rows, step, seed=self.seed, stream=f"{stream}/weighted", weights=own)
        rows: Tensor = drawn[chosen]
        return rows

    def _prepared(self, tower: TrainingTower, rows: Tensor, view_seed: int | None = None) -> BatchPart:
        """This rank's share of the rows, prepared chunk by chunk."""
        own = self.group.share(len(rows))
        size = tower.chunk or max(1, len(rows))
        chunks = [slice(start, min(start + size, own.stop)) for start in range(own.start, own.stop, size)]
        return BatchPart(rows, [tower.prepare(rows, chunk, view_seed) for chunk in chunks], size, view_seed)
