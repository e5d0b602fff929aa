"""`Aligned.save`: the RUN of two encoders that were fitted to arrays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from setclip_cli.arrays.errors import InputError
from setclip_cli.backbones.vector import SPEC, VectorBackbone
from setclip_cli.dataset.dataset import Dataset, DatasetIndex, Shard
from setclip_cli.dataset.modality import in_order
from setclip_cli.dataset.schemas import ModalityInfo
from setclip_cli.errors import argument
from setclip_cli.files import atomic
from setclip_cli.files.lock import exclusive
from setclip_cli.options import path_of
from setclip_cli.run.config import METRICS_NAME, RECIPE_NAME, ModelConfig, TowerConfig
from setclip_cli.run.folder import SELECTION_NAME, check_out
from setclip_cli.run.model import save_model
from setclip_cli.run.model_card import model_card

if TYPE_CHECKING:
    from setclip_cli.arrays.sides import FittedSides
    from setclip_cli.encoders import Encoder


def save_run(aligned: FittedSides, out: Path | str, vectors_of: tuple[str | None, str | None]) -> Path:
    """Writes the RUN as `align` does, config.json last.

    Raises:
        SetClipError: as `Aligned.save` says.
    """
    out, origin = path_of(out, "out"), aligned.origin
    recipe = origin.choice.recipe if origin.choice else origin.recipe
    about = [
        ModalityInfo(kind="vector", width=width, dtype="float32", encoder=encoder)
        for width, encoder in zip(aligned.widths, _of_both(vectors_of), strict=True)
    ]
    check_out(out, origin.recipe, origin.sha256, resume=False)
    with exclusive(out):
        atomic.write_text(out / RECIPE_NAME, origin.recipe.to_toml())
        if origin.choice:
            atomic.write_json(out / SELECTION_NAME, origin.choice.as_json())
        atomic.write_text(out / METRICS_NAME, json.dumps(aligned.findings) + "\n" if aligned.findings else "")
        config = ModelConfig(
            method=aligned.method,
            seed=recipe.seed,
            pairs=origin.pairs,
            known_items=origin.items,
            dataset_sha256=origin.sha256,
            left=None if [*aligned.names] == in_order(aligned.names) else aligned.names[0],
            towers={
                name: _tower(name, info, encoder, initial)
                for name, info, encoder, initial in zip(
                    aligned.names, about, aligned.encoders, origin.initial, strict=True
                )
            },
        )
        data = _as_dataset(aligned, about, recipe.train.split)
        card = model_card(recipe, config, data, records=[], findings=aligned.findings)
        atomic.write_text(out / "README.md", card)
        encoders, initial = (dict(zip(aligned.names, both, strict=True)) for both in (aligned.encoders, origin.initial))
        save_model(out, config, encoders, initial)
    return out


def _tower(name: str, info: ModalityInfo, encoder: Encoder, initial: Encoder) -> TowerConfig:
    backbone = VectorBackbone(name, info)
    return TowerConfig(
        kind="vector",
        vectors_of=info.encoder,
        spec=SPEC,
        weights="auto",
        pooling=backbone.pooling,
        layer=backbone.layers,
        preprocessing=backbone.preprocessing,
        identity=backbone.identity,
        dim=backbone.dim,
        encoder=encoder.describe(),
        initial=initial.describe(),
    )


def _of_both(vectors_of: object) -> tuple[str | None, str | None]:
    """What the user states of both sides. Raises InputError if it is not that."""
    if isinstance(vectors_of, tuple | list) and len(vectors_of) == 2:
        left, right = vectors_of
        if all(each is None or (isinstance(each, str) and each) for each in (left, right)):
            return left, right
    raise InputError(
        f"{argument('vectors_of')}: is {vectors_of!r}",
        fix="give two names, None for a side that you do not state: ('prot_t5_xl_half', None)",
    )


def _as_dataset(aligned: FittedSides, about: list[ModalityInfo], split: str) -> Dataset:
    """The arrays as a DATASET that has no files: the card counts its rows."""
    shards = [
        Shard(path=f"{name}/{split}-00000.parquet", modality=name, split=split, rows=rows, bytes=0, sha256="0" * 64)
        for name, rows in zip(aligned.names, aligned.origin.rows, strict=True)
    ]
    index = DatasetIndex(shards=shards, modalities=dict(zip(aligned.names, about, strict=True)))
    return Dataset(Path(), index, aligned.origin.sha256)
