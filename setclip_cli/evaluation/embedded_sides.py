"""The embeddings of a model, in the order of the evaluation set."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from setclip_cli.dataset.band_scale import require_bands
from setclip_cli.embedding.embeddings import open_embeddings
from setclip_cli.errors import SetClipError
from setclip_cli.evaluation.similarity import unit_rows
from setclip_cli.features.frozen import features_in_blocks
from setclip_cli.run.model import load_model
from setclip_cli.vectors import unusable_rows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from setclip_cli.backbones.base import Backbone
    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.evaluation.arrays import Embeddings
    from setclip_cli.evaluation.evaluation_set import EvaluationSet, Side
    from setclip_cli.evaluation.model_folders import ModelFolder


class Sides(NamedTuple):
    """Unit rows: (n, d) in the order of the left side, (m, d) in the order of the right side."""

    left: Embeddings
    right: Embeddings


def ids_without_embedding(models: Sequence[ModelFolder], split: str) -> dict[str, set[str]]:
    """Modality -> ids that some EMBEDDINGS folder lists as not embedded; no model is scored on them."""
    missing: dict[str, set[str]] = {}
    for model in models:
        if model.kind == "embeddings":
            for shard in open_embeddings(model.path).index.shards:
                if shard.split == split:
                    missing.setdefault(shard.modality, set()).update(shard.bad)
    return missing


def embedded_sides(
    model: ModelFolder, dataset: Dataset, rows: EvaluationSet, backbones: dict[str, Backbone]
) -> tuple[Sides, Sides | None]:
    """The embeddings of both sides, and those of a RUN's encoders before training.

    A RUN's frozen features come from the cache that training filled, so each backbone runs once for many RUNs.

    Args:
        backbones: The backbones that are loaded already, by their identity; more are added.

    Raises:
        SetClipError: rows are missing or not finite, or the two sides do not share one space.
    """
    if model.kind == "run":
        return _of_run(model, dataset, rows, backbones)
    opened = open_embeddings(model.path)
    left, right = (
        _in_order(model.path, table.ids, table.embeddings, side)
        for side in (rows.left, rows.right)
        for table in [opened.load(side.modality, rows.split)]
    )
    if left.shape[1] != right.shape[1]:
        raise SetClipError(
            f"{model.path}: embeddings are {left.shape[1]} wide for {rows.left.modality} rows, {right.shape[1]} for "
            f"{rows.right.modality} rows: they do not share a space",
            fix="evaluate the EMBEDDINGS of one RUN, not the features of two backbones",
        )
    return Sides(left, right), None


def _of_run(
    model_folder: ModelFolder, dataset: Dataset, rows: EvaluationSet, backbones: dict[str, Backbone]
) -> tuple[Sides, Sides]:
    model = load_model(model_folder.path)
    before: list[Embeddings] = []
    after: list[Embeddings] = []
    for side in (rows.left, rows.right):
        tower = model.config.towers[side.modality]
        require_bands(dataset, side.modality, rows.split, tower.bands)
        for identity, encoders, initial in (
            (tower.trained_identity, model.encoders, False),
            (tower.identity, model.initial, True),
        ):
            if identity not in backbones:
                backbones[identity] = model.load_backbone(side.modality, initial=initial)
            ids, blocks = features_in_blocks(backbones[identity], dataset, side.modality, rows.split)
            with torch.inference_mode():
                parts = [encoders[side.modality](block).float().cpu().numpy() for block in blocks]
            embeddings = parts[0] if len(parts) == 1 else np.concatenate(parts)
            (before if initial else after).append(_in_order(model_folder.path, ids, embeddings, side))
    return Sides(*after), Sides(*before)


def _in_order(path: Path, ids: Sequence[str], embeddings: Embeddings, side: Side) -> Embeddings:
    """Embeddings in the order of the evaluation set, as unit rows.

    A backbone may round the same caption differently in another batch. Here all rows of one payload get the embedding
    of the first, so that they tie exactly and the order of a file decides nothing.
    """
    row_of_id = {name: row for row, name in enumerate(ids)}
    missing = [name for name in side.ids if name not in row_of_id]
    if missing:
        raise SetClipError(
            f"{path}: lacks {len(missing)} of the dataset's {len(side.ids)} {side.modality} rows, first {missing[0]!r}",
            fix="embed this dataset and split again",
        )
    chosen = [row_of_id[side.ids[row]] for row in side.first_copies()]
    rows = np.ascontiguousarray(embeddings[chosen], np.float32)
    if broken := unusable_rows(rows):
        first, reason = next(iter(broken.items()))
        raise SetClipError(
            f"{path}: {len(broken)} of {len(rows)} {side.modality} rows have an embedding that {reason}, "
            f"first {side.ids[first]!r}",
            fix="look at these rows in the source files, or align again with more pairs or a lower optim.lr",
        )
    return unit_rows(rows)
