"""The tower that made EMBEDDINGS, with which queries are embedded in the same space."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from setclip_cli.backbones import load_backbone
from setclip_cli.dataset.schemas import ModalityInfo
from setclip_cli.embedding.embeddings import INDEX_NAME
from setclip_cli.errors import SetClipError, UsageError, argument
from setclip_cli.files.what_is import what_is
from setclip_cli.losses.nested import narrowed
from setclip_cli.pixels.bands import BandScale
from setclip_cli.pixels.video import FRAMES
from setclip_cli.remote.copies import local_path
from setclip_cli.run.model import load_model
from setclip_cli.vectors import unusable_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from setclip_cli.backbones.base import Backbone
    from setclip_cli.dataset.modality import Modality
    from setclip_cli.embedding.embeddings import Embeddings
    from setclip_cli.embedding.vectors import Vectors
    from setclip_cli.encoders import Encoder
    from setclip_cli.run.model import Model


@dataclass(frozen=True)
class Embedded:
    """Queries as unit vectors.

    Attributes:
        vectors: (n, d) float32; the rows named in ``failed`` mean nothing.
        failed: Rows that cannot be used (position -> why).
        truncated: Texts that were longer than the model reads, and were cut.
        replaced_letters: Residues that the model does not know, read as X.
    """

    vectors: Vectors
    failed: dict[int, str]
    truncated: int
    replaced_letters: int

    def notes(self) -> list[str]:
        """What was done to a query, for the user."""
        told = []
        if self.truncated:
            told.append("the query is longer than the text model reads, and was cut")
        if self.replaced_letters:
            told.append(f"{self.replaced_letters} letters of the query are no residues that the model knows; read as X")
        return told


@dataclass(frozen=True)
class QueryTower:
    """A backbone and, of a RUN, what follows it."""

    backbone: Backbone
    encoder: Encoder | None
    width: int | None = None  # that nested embeddings are cut to, as those of the rows
    frames: int = FRAMES  # that are taken of a video, as of those of the rows

    def embed(self, items: Sequence[Any]) -> Embedded:
        """Embeds what the backbone reads: texts, residues, bytes of image files, or vectors.

        Raises:
            SetClipError: a vector has another width than the tower reads.
        """
        encoded = self.backbone.encode(items)
        with torch.inference_mode():
            features = encoded.features if self.encoder is None else self.encoder(encoded.features)
            vectors = narrowed(features.float(), self.width or features.shape[1])
        broken = {row: f"its embedding {reason}" for row, reason in unusable_rows(vectors.numpy()).items()}
        return Embedded(
            torch.nn.functional.normalize(vectors, dim=1).numpy(),
            broken | encoded.failed,
            encoded.truncated,
            encoded.replaced_letters,
        )


def open_query_tower(embeddings: Embeddings, modality: Modality, *, run: Path | None) -> QueryTower:
    """The tower of a modality that made the embeddings.

    Args:
        run: Where the RUN is now; None if it is where embeddings.json says.

    Raises:
        SetClipError: there is no such tower, or the RUN or its weights have changed.
    """
    index = embeddings.index
    if index.run is not None:
        named = run or run_of(embeddings, local_path(index.run))
        return tower_of_model(embeddings, load_model(named), modality, named=named)
    tower = index.towers.get(modality)
    if tower is None:
        raise UsageError(
            f"{embeddings.root}: raw {', '.join(index.towers)} features cannot be searched with a {modality}",
            fix=f"search with a {' or '.join(index.towers)}, or embed with a RUN that has both towers",
        )
    backbone = load_backbone(
        tower.spec,
        modality=modality,
        info=ModalityInfo(kind=embeddings.kinds()[modality]),
        weights=tower.weights,
        pooling=tower.pooling,
        bands=BandScale.of_preprocessing(tower.preprocessing or {}),
    )
    require_made_by(embeddings, backbone.identity, named=run)
    return QueryTower(backbone, None, frames=tower.frames or FRAMES)


def tower_of_model(embeddings: Embeddings, model: Model, modality: Modality, *, named: Path) -> QueryTower:
    """The same of a RUN that is open. Raises SetClipError as `open_query_tower`."""
    if modality not in model.encoders:
        raise UsageError(
            f"{named}: has no {modality} tower, only {' and '.join(model.encoders)}",
            fix=f"search with a query of its own, {argument('query_modality', '--as')} {' or '.join(model.encoders)}",
        )
    backbone = model.load_backbone(modality)
    require_made_by(embeddings, model.identity, named=named)
    rows = embeddings.index.towers.get(modality)
    frames = (rows and rows.frames) or model.config.towers[modality].frames or FRAMES
    return QueryTower(backbone, model.encoders[modality], embeddings.index.width, frames)


def require_made_by(embeddings: Embeddings, identity: str, *, named: Path | None) -> None:
    """Raises SetClipError unless the model with this identity made the embeddings."""
    if identity != embeddings.index.model:
        raise SetClipError(
            f"{embeddings.root}: was not made by {named or embeddings.index.run or 'these weights'}",
            fix=f"name the RUN that made it with {argument('run')}, or embed again",
        )


def run_of(embeddings: Embeddings, named: Path) -> Path:
    """The RUN that embeddings.json names, if it is still there."""
    found = what_is(named)
    if found.kind != "run":
        raise SetClipError(
            f"{named}: {found.words}; {embeddings.root / INDEX_NAME} names it as the RUN that made these embeddings",
            fix=f"if the RUN was moved, give its new path with {argument('run')}; else put it back",
        )
    return named
