"""Which pairs the models knew from their training: they are not asked for again.

Two pools and some pairs are often all there is: the RUN is aligned with most of the pairs, and the others say how well
it finds partners among the same rows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from setclip_cli.recipe.recipe import Recipe
from setclip_cli.run.config import load_config
from setclip_cli.training.known_pairs import known_pairs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.evaluation.evaluation_set import EvaluationSet
    from setclip_cli.evaluation.model_folders import ModelFolder

LEFT_OUT = "known pairs that training used"


def without_pairs_of_training(rows: EvaluationSet, models: Sequence[ModelFolder], dataset: Dataset) -> EvaluationSet:
    """The rows with only those pairs to find that no RUN was trained with; all pairs if training used every one."""
    if rows.rule != "pairs":
        return rows
    known = {pair for model in models if model.kind == "run" for pair in _pairs_known_to(model, dataset, rows.split)}
    kept = [pair for pair in rows.pairs if (rows.left.ids[pair[0]], rows.right.ids[pair[1]]) not in known]
    if not kept or len(kept) == len(rows.pairs):
        return rows
    return replace(rows, pairs=kept, excluded=rows.excluded | {LEFT_OUT: len(rows.pairs) - len(kept)})


def _pairs_known_to(model: ModelFolder, dataset: Dataset, split: str) -> list[tuple[str, str]]:
    """(left id, right id) of the pairs of this split that a RUN was trained with; none if it saw another DATASET."""
    if model.recipe.get("train", {}).get("split") != split:
        return []
    if load_config(model.path).dataset_sha256 != dataset.identity():
        return []
    return [(pair.left_id, pair.right_id) for pair in known_pairs(dataset, Recipe.read_back(model.recipe)).pairs]
