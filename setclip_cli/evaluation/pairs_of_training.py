"""Which pairs the models knew from their training: they are not asked for again.

Two pools and some pairs are often all there is: the RUN is aligned with most of the pairs, and the others say how well
it finds partners among the same rows.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from setclip_cli.embedding.embeddings import open_embeddings
from setclip_cli.errors import SetClipError
from setclip_cli.files.documents import read_toml
from setclip_cli.places import is_elsewhere
from setclip_cli.recipe.recipe import Recipe
from setclip_cli.run.config import RECIPE_NAME, identity_of, load_config, require_file
from setclip_cli.training.known_pairs import known_pairs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.evaluation.evaluation_set import EvaluationSet
    from setclip_cli.evaluation.model_folders import ModelFolder

LEFT_OUT = "known pairs that training used"


def without_pairs_of_training(rows: EvaluationSet, models: Sequence[ModelFolder], dataset: Dataset) -> EvaluationSet:
    """The rows with only those pairs to find that no model was trained with; all pairs if training used every one."""
    if rows.rule != "pairs":
        return rows
    known = {pair for model in models for pair in _pairs_known_to(model, dataset, rows)}
    kept = [pair for pair in rows.pairs if (rows.left.ids[pair[0]], rows.right.ids[pair[1]]) not in known]
    if not kept or len(kept) == len(rows.pairs):
        return rows
    return replace(rows, pairs=kept, excluded=rows.excluded | {LEFT_OUT: len(rows.pairs) - len(kept)})


def _pairs_known_to(model: ModelFolder, dataset: Dataset, rows: EvaluationSet) -> list[tuple[str, str]]:
    """(left id, right id) of the pairs of this split that a model was trained with; none if it saw another DATASET."""
    run = model.path if model.kind == "run" else _run_that_made(model.path)
    recipe = {} if run is None else read_toml(run / RECIPE_NAME)
    if run is None or recipe.get("train", {}).get("split") != rows.split:
        return []
    if load_config(run).dataset_sha256 != dataset.identity():
        return []
    return [
        (pair.left_id, pair.right_id) if pair.left_modality == rows.left.modality else (pair.right_id, pair.left_id)
        for pair in known_pairs(dataset, Recipe.read_back(recipe)).pairs
    ]


def _run_that_made(embeddings: Path) -> Path | None:
    """The RUN that EMBEDDINGS come from, if it is on this machine where they say, and has not changed since."""
    index = open_embeddings(embeddings).index
    if index.run is None or is_elsewhere(index.run):
        return None
    run = Path(index.run)
    try:
        config = load_config(run)
        require_file(run, config, RECIPE_NAME)
        return run if identity_of(run, config) == index.model else None
    except SetClipError:
        return None
