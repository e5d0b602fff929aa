"""Early stopping: how the encoders do on rows that training does not see.

With known pairs in the validation split the criterion is their recall; without any it is the density gap plus the
neighbourhood term. The latter tells that training still changes something, not that the alignment is right: a wrong
permutation of clusters can match densities as well, and no criterion without pairs chose the better of several runs
(benchmarks/results.md). It is for stopping, not for choosing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from setclip_cli.losses.neighbourhood import neighbourhood
from setclip_cli.losses.objective import density_gap
from setclip_cli.training.known_pairs import pair_rows

if TYPE_CHECKING:
    from torch import Tensor

    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.recipe.recipe import Recipe
    from setclip_cli.training.tower import Tower
    from setclip_cli.training.training import Training

RECALL_AT = 1
ROWS = 2048  # rows of each side at most: the two terms are quadratic in them


@dataclass(frozen=True)
class HeldOut:
    """One side of the validation split.

    Attributes:
        features: (n, p) of the backbone as it was found.
        items: The raw items, where the backbone is trained.
    """

    ids: list[str]
    features: Tensor
    items: list[str] | list[bytes] | None = None


class Validation:
    """Scores a `Training` on held-out rows.

    Attributes:
        pairs: (b, 2) int64 rows of the known pairs of the split; b may be 0.
    """

    def __init__(self, recipe: Recipe, dataset: Dataset, left: HeldOut, right: HeldOut) -> None:
        """Raises SetClipError when a validation pair names a row that the split does not have."""
        self.sides = (left, right)
        modalities = recipe.modalities()
        split = recipe.validation.split
        known = [pair for pair in dataset.pairs(split) if (pair.left_modality, pair.right_modality) == modalities]
        self.pairs = pair_rows(known, left.ids, right.ids, split=split)
        self.feature_temperature = recipe.objective.neighbourhood.feature_temperature
        self.temperature = recipe.objective.neighbourhood.temperature

    def score(self, training: Training) -> dict[str, float]:
        """The metrics by key; ``validation/criterion`` is the one to lower."""
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
                found[f"validation/recall_at_{RECALL_AT}"] = _recall(left, right, self.pairs)
                found["validation/criterion"] = -found[f"validation/recall_at_{RECALL_AT}"]
            else:
                found["validation/criterion"] = found["validation/density_gap"] + found["validation/neighbourhood"]
        return found

    def _embed(self, training: Training, tower: Tower, side: HeldOut) -> tuple[Tensor, Tensor]:
        """(transformed frozen features, embeddings) of the split, by the weights as they are now."""
        frozen = tower.transform(side.features.to(tower.features.device))
        transformed = frozen
        if tower.pool.tuned is not None and side.items is not None:
            encoded = tower.pool.tuned.backbone.encode(side.items)
            transformed = tower.transform(encoded.features.to(frozen.device))
        return frozen, tower.heads[0](transformed)


class EarlyStopping:
    """Remembers the best state and tells when training has gone long enough without a better one.

    Attributes:
        best: The lowest criterion seen, and the step after which it was seen; None before the first.
    """

    def __init__(self, validation: Validation, *, every: int, patience: int) -> None:
        self.validation, self.every, self.patience = validation, every, patience
        self.best: tuple[float, int] | None = None
        self._state: dict[str, Tensor] = {}

    def look(self, training: Training) -> dict[str, float]:
        """Validates when it is time to; the metrics, or nothing."""
        if training.taken % self.every:
            return {}
        metrics = self.validation.score(training)
        if self.best is None or metrics["validation/criterion"] < self.best[0]:
            self.best = metrics["validation/criterion"], training.taken
            self._state = {name: value.clone() for name, value in training.tensors().items()}
        return metrics

    def done(self, training: Training) -> bool:
        return self.best is not None and training.taken - self.best[1] >= self.patience * self.every

    def put_back(self, training: Training) -> None:
        """The best state, where one was seen."""
        if self.best is not None:
            training.restore(self.best[1], self._state)

    def tensors(self) -> dict[str, Tensor]:
        return {f"best.{name}": value for name, value in self._state.items()}

    def header(self) -> dict[str, str]:
        return {} if self.best is None else {"best_criterion": repr(self.best[0]), "best_step": str(self.best[1])}

    def restore(self, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
        """Puts back what `tensors` and `header` gave."""
        if "best_step" in header:
            self.best = float(header["best_criterion"]), int(header["best_step"])
            self._state = {
                name.removeprefix("best."): value for name, value in tensors.items() if name.startswith("best.")
            }


def _recall(left: Tensor, right: Tensor, pairs: Tensor) -> float:
    """Mean of both directions: the share of pairs whose partner is nearest among all rows of the other side."""
    similarity = left @ right.T
    rows, columns = pairs.to(similarity.device).T
    to_right = (similarity[rows] > similarity[rows, columns][:, None]).sum(1) < RECALL_AT
    to_left = (similarity[:, columns] > similarity[rows, columns]).sum(0) < RECALL_AT
    return float((to_right.float().mean() + to_left.float().mean()) / 2)
