"""What a process does to embed a shard: load the tower once, embed the rows, write the shard."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from setclip_cli.backbones import load_backbone
from setclip_cli.backbones.compiling import compile_blocks
from setclip_cli.backbones.devices import resolve_precision
from setclip_cli.console import note
from setclip_cli.dataset.dataset import Dataset, DatasetIndex, Shard
from setclip_cli.dataset.modality import KINDS_OF_NAMES, Modality
from setclip_cli.dataset.schemas import ModalityInfo, matrix_of
from setclip_cli.embedding import engines
from setclip_cli.embedding.embeddings import EmbeddedShard, EmbeddedTower, EmbeddingSettings, StoredBitCode
from setclip_cli.embedding.options import EmbedOptions
from setclip_cli.embedding.writing import record_finished, write_embedding_shard
from setclip_cli.losses.nested import narrowed
from setclip_cli.run.model import load_model
from setclip_cli.vectors import unusable_rows

if TYPE_CHECKING:
    import pyarrow as pa

    from setclip_cli.backbones.base import Backbone, Encoded
    from setclip_cli.encoders import Encoder
    from setclip_cli.pixels.bands import BandScale

ROWS_PER_CALL = 4096  # rows of a shard that are encoded at once: enough to sort by length, few enough for memory


@dataclass(frozen=True)
class TowerSource:
    """Where a process loads a tower from: a RUN, or a backbone with its weights."""

    modality: Modality
    info: ModalityInfo | None = None  # what the DATASET says about it, if the name does not say the kind
    run: Path | None = None
    backbone: str = ""
    weights: str = "auto"
    pooling: str = "default"
    bands: BandScale | None = None  # how the bands of its images are scaled; a RUN knows it itself


@dataclass(frozen=True)
class ShardToEmbed:
    """One shard of the DATASET. It is plain data: any process on a machine with the same paths can embed it."""

    dataset: Path
    out: Path
    shard: Shard
    about: ModalityInfo  # of its rows
    tower: TowerSource
    options: EmbedOptions
    bits: StoredBitCode | None = None  # of ubinary


@dataclass(frozen=True)
class LoadedTower:
    """A backbone, the RUN's encoder (None for raw features), and what the index says about them."""

    backbone: Backbone
    encoder: Encoder | None
    settings: EmbeddingSettings
    description: EmbeddedTower

    def embed(self, items: Any) -> tuple[np.ndarray[Any, Any], Encoded]:
        """(n, dim) float32 embeddings of items as `items` gives them, and what the backbone says about them."""
        encoded = self.backbone.encode(items)
        with torch.inference_mode():
            values = encoded.features if self.encoder is None else self.encoder(encoded.features)
            values = narrowed(values, self.settings.width or values.shape[1])
        return values.numpy(), encoded

    def items(self, column: pa.ChunkedArray) -> Any:
        """What the backbone reads of its column."""
        return matrix_of(column) if self.backbone.kind == "vector" else column.to_pylist()


@lru_cache(maxsize=2)
def load_tower(source: TowerSource, options: EmbedOptions) -> LoadedTower:
    """Loads a tower. The process keeps it for its next shards.

    Raises:
        SetClipError: the RUN or the weights are missing or changed, or the device cannot be used.
    """
    device = engines.device_here(options.device)
    encoder = None
    if source.run is None:
        backbone = load_backbone(
            source.backbone,
            modality=source.modality,
            info=source.info,
            weights=source.weights,
            pooling=source.pooling,
            bands=source.bands,
            device=device,
        )
        identity, method, dim, weights = backbone.identity, "features", backbone.dim, source.weights
    else:
        model = load_model(source.run)
        backbone = model.load_backbone(source.modality, device)
        encoder = model.encoders[source.modality]
        identity, method, dim = model.identity, model.config.method, encoder.dim
        weights = model.config.towers[source.modality].weights
    if options.tokens_per_batch and backbone.budget.tokens:
        backbone.budget.tokens = options.tokens_per_batch
    if options.rows_per_batch:
        backbone.budget.rows = options.rows_per_batch
    backbone.precision = resolve_precision(options.precision, device)
    if options.compile and (reason := compile_blocks(backbone)):
        note(f"note: --compile: this machine cannot compile ({reason}); the rows are embedded without it")
    settings = EmbeddingSettings(
        model=identity,
        method=method,
        dim=options.width or dim,
        dtype=options.dtype,
        width=options.width,
        precision=options.precision,
    )
    description = EmbeddedTower(
        kind=None if source.modality in KINDS_OF_NAMES else backbone.kind,
        spec=backbone.spec,
        weights=weights,
        pooling=backbone.pooling,
        identity=backbone.identity,
        preprocessing=backbone.preprocessing,
        encoder=None if encoder is None else encoder.describe(),
    )
    return LoadedTower(backbone, encoder, settings, description)


def embed_shard(job: ShardToEmbed) -> EmbeddedShard:
    """Embeds the rows of one shard and writes a whole shard or none.

    Raises:
        SetClipError: the input shard is missing or damaged, or the disk is full.
    """
    tower = load_tower(job.tower, job.options)
    backbone = tower.backbone
    # To read the whole index for each shard is slow.
    dataset = Dataset(job.dataset, DatasetIndex(shards=[job.shard], modalities={job.shard.modality: job.about}))
    table = dataset.read(job.shard, ["id", "label", backbone.column])
    ids: list[str] = table["id"].to_pylist()
    parts: list[np.ndarray[Any, Any]] = []
    windows: list[int] = []
    bad: dict[int, str] = {}
    truncated = replaced_letters = 0
    for start in range(0, max(1, len(ids)), ROWS_PER_CALL):
        values, encoded = tower.embed(tower.items(table[backbone.column].slice(start, ROWS_PER_CALL)))
        parts.append(values)
        windows += encoded.windows or []
        bad |= {start + position: reason for position, reason in encoded.failed.items()}
        truncated += encoded.truncated
        replaced_letters += encoded.replaced_letters
    with np.errstate(over="ignore"):  # such a row is bad
        embeddings = np.concatenate(parts).astype("float16" if job.options.dtype == "float16" else "float32")
    for position, reason in unusable_rows(embeddings).items():
        bad.setdefault(position, f"its embedding {reason} in {job.options.dtype}")
    good = [position for position in range(len(ids)) if position not in bad]
    size, sha256 = write_embedding_shard(
        job.out,
        job.shard.path,
        ids=[ids[position] for position in good],
        embeddings=embeddings[good],
        labels=table["label"].take(good).to_pylist() if good else [],
        windows=[windows[position] for position in good] if windows else None,
        dtype=job.options.dtype,
        code=None if job.bits is None else job.bits.opened(),
    )
    finished = EmbeddedShard(
        **{**job.shard.model_dump(), "rows": len(good), "bytes": size, "sha256": sha256},
        input_sha256=job.shard.sha256,
        truncated=truncated,
        windowed=sum(count > 1 for count in windows),
        replaced_letters=replaced_letters,
        bad={ids[position]: reason for position, reason in sorted(bad.items())},
    )
    record_finished(job.out, tower.settings, finished, job.bits)
    return finished
