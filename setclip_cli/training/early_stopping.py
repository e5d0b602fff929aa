"""Early stopping: how the encoders do on rows that training does not see.

If the validation split has known pairs, the criterion is their recall. Otherwise it is the density gap plus the
neighbourhood term. That sum shows whether training still changes something, not whether the alignment is right: a wrong
permutation of clusters can match densities as well, and no criterion without pairs chose the better of several runs
(benchmarks/results.md). Use it to stop, not to choose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from setclip_cli.losses.neighbourhood import neighbourhood
from setclip_cli.losses.objective import density_gap
from setclip_cli.training.tower import under

if TYPE_CHECKING:
    from torch import Tensor

    from setclip_cli.training.tower import TrainingTower
    from setclip_cli.training.training import Training

RECALL_AT = 1
ROWS = 2048  # at most, of each side: the density gap and the neighbourhood term are quadratic in them


@dataclass(frozen=True)
class ValidationRows:
    """One side of the validation split.

    Attributes:
        features: (n, p) of the backbone as it was found.
        items: The raw rows, if the backbone is tuned.
    """

    ids: list[str]
    features: Tensor
    items: list[str] | list[bytes] | None = None


class Validation:
    """Scores a `Training` on held-out rows."""

    def __init__(
        self,
        left: ValidationRows,
        right: ValidationRows,
        pairs: Tensor,
        items: Tensor,
        *,
        feature_temperature: float,
        temperature: float,
    ) -> None:
        """Takes the rows, the known pairs and the temperatures of the neighbourhood term.

        Args:
            pairs: (b, 2) int64 rows of the known pairs, b may be 0.
            items: (b,) int64: for each pair the number of its item.
        """
        self.sides, self.pairs, self.items = (left, right), pairs, items
        self.feature_temperature, self.temperature = feature_temperature, temperature

    def score(self, training: Training) -> dict[str, float]:
        """The metrics by key. Lower is better for ``validation/criterion``."""
        with torch.no_grad():
            embedded = [
                self._embed(training, tower, side) for tower, side in zip(training.towers, self.sides, strict=True)
            ]
            (features_left, left), (features_right, right) = embedded
            found = {"validation/density_gap": float(density_gap(left[:ROWS], right[:ROWS]))}
            found["validation/neighbourhood"] = sum(
                float(
                    neighbourhood(
                        features[:ROWS],
                        embeddings[:ROWS],
                        temperature=self.feature_temperature,
                        embedding_temperature=self.temperature,
                    )
                )
                for features, embeddings in ((features_left, left), (features_right, right))
            )
            if len(self.pairs):
                found[f"validation/recall_at_{RECALL_AT}"] = _recall(left, right, self.pairs, self.items)
                found["validation/criterion"] = -found[f"validation/recall_at_{RECALL_AT}"]
            else:
                found["validation/criterion"] = found["validation/density_gap"] + found["validation/neighbourhood"]
        return found

    def _embed(self, training: Training, tower: TrainingTower, side: ValidationRows) -> tuple[Tensor, Tensor]:
        """(the compared frozen features, embeddings) of the split, by the weights as they are now."""
        frozen = tower.transform(side.features.to(tower.features.device))
        transformed = frozen
        if tower.pool.tuned is not None and side.items is not None:
            encoded = tower.pool.tuned.backbone.encode(side.items)
            transformed = tower.transform(encoded.features.to(frozen.device))
        return tower.compared(frozen), tower.heads[0](transformed)


class EarlyStopping:
    """Validates, keeps the best state, and says when training has gone long enough without a better one.

    Attributes:
        best: The lowest criterion so far, and the step after which it was measured; None before the first validation.
    """

    def __init__(self, validation: Validation, *, every: int, patience: int) -> None:
        self.validation, self.every, self.patience = validation, every, patience
        self.best: tuple[float, int] | None = None
        self._state: dict[str, Tensor] = {}

    def validate_if_due(self, training: Training) -> dict[str, float]:
        """The metrics if a validation is due after this step, else nothing."""
        if training.taken % self.every:
            return {}
        metrics = self.validation.score(training)
        if self.best is None or metrics["validation/criterion"] < self.best[0]:
            self.best = metrics["validation/criterion"], training.taken
            self._state = {name: value.clone() for name, value in training.tensors().items()}
        return metrics

    def should_stop(self, training: Training) -> bool:
        """Whether the last ``patience`` validations were not better than the best one."""
        return self.best is not None and training.taken - self.best[1] >= self.patience * self.every

    def restore_best(self, training: Training) -> None:
        """Restores the best state in ``training``, if there was a validation."""
        if self.best is not None:
            training.restore(self.best[1], self._state)

    def tensors(self) -> dict[str, Tensor]:
        return {f"best.{name}": value for name, value in self._state.items()}

    def header(self) -> dict[str, str]:
        return {} if self.best is None else {"best_criterion": repr(self.best[0]), "best_step": str(self.best[1])}

    def restore(self, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
        """Restores what `tensors` and `header` gave."""
        if "best_step" in header:
            self.best = float(header["best_criterion"]), int(header["best_step"])
            self._state = under("best.", tensors)


def _recall(left: Tensor, right: Tensor, pairs: Tensor, items: Tensor) -> float:
    """Mean of both directions: the share of pairs whose partner is nearest among all rows of the other side.

    Of the other rows of the pair's item, such as the other captions of an image, any may be nearer: they are right too.
    """
    similarity = left @ right.T
    pairs, items = pairs.to(similarity.device), items.to(similarity.device)
    hits = []
    for cosines, own, partners in ((similarity, pairs[:, 0], pairs[:, 1]), (similarity.T, pairs[:, 1], pairs[:, 0])):
        to_partner = cosines[own, partners]
        item_of_row = items.new_full((cosines.shape[1],), -1).index_copy_(0, partners, items)
        also_right = item_of_row == items[:, None]
        ahead = (cosines[own] > to_partner[:, None]) & ~also_right
        hits.append((ahead.sum(1) < RECALL_AT).float().mean())
    return float((hits[0] + hits[1]) / 2)
