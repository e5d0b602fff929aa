"""Batch embedding: one input shard gives one output shard, and only the missing ones are made."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from setclip_cli.backbones import load_backbone
from setclip_cli.backbones.compiling import compile_blocks
from setclip_cli.backbones.devices import resolve_precision
from setclip_cli.console import note, progress
from setclip_cli.dataset.dataset import Dataset, DatasetIndex, Shard
from setclip_cli.dataset.modality import MODALITIES, Modality
from setclip_cli.embedding import engines
from setclip_cli.embedding.embeddings import (
    FINISHED,
    INDEX_NAME,
    EmbeddedShard,
    EmbeddedTower,
    EmbeddingsIndex,
    Making,
    finished_shards,
    is_whole,
    open_embeddings,
    record_finished,
    write_embedding_shard,
    write_index,
)
from setclip_cli.embedding.faiss_index import index_path, require_faiss, write_faiss
from setclip_cli.embedding.options import EmbedOptions
from setclip_cli.errors import ExitCode, SetClipError
from setclip_cli.files.folders import refuse_foreign
from setclip_cli.files.lock import exclusive
from setclip_cli.run.model import load_config, load_model

if TYPE_CHECKING:
    from setclip_cli.backbones.base import Backbone
    from setclip_cli.encoders.encoders import Encoder

ROWS_PER_CALL = 4096  # of a shard encoded at once: enough to sort by length, little enough to hold


@dataclass(frozen=True)
class TowerSource:
    """What a worker needs to load a tower itself: a RUN, or a backbone's own name."""

    modality: Modality
    run: Path | None = None
    spec: str = ""
    weights: str = "auto"
    pooling: str = "default"


@dataclass(frozen=True)
class Job:
    """One input shard to embed. Plain data, so that any process on any machine with the same paths can do it."""

    dataset: Path
    out: Path
    shard: Shard
    tower: TowerSource
    options: EmbedOptions


@dataclass(frozen=True)
class LoadedTower:
    backbone: Backbone
    encoder: Encoder | None
    making: Making
    description: EmbeddedTower


@dataclass(frozen=True)
class EmbedResult:
    """What a run made, and what it did to the rows."""

    out: Path
    rows: int
    dim: int
    made: int  # shards
    kept: int  # shards of earlier runs
    truncated: int
    windowed: int
    replaced_letters: int
    bad: dict[str, str]  # id -> why the row is absent
    wall_s: float
    faiss: list[Path]  # indexes written

    def as_json(self) -> dict[str, Any]:
        faiss = [str(path) for path in self.faiss]
        return {**vars(self), "out": str(self.out), "wall_s": round(self.wall_s, 3), "faiss": faiss}

    def summary(self) -> str:
        lines = [
            f"{self.out}: {self.rows:,} rows of {self.dim} values; {self.made} shards made, {self.kept} kept, "
            f"{self.wall_s:.1f} s"
        ]
        if self.windowed:
            lines.append(f"{self.windowed:,} long proteins read in overlapping windows")
        if self.replaced_letters:
            lines.append(f"{self.replaced_letters:,} residues outside the alphabet read as X")
        if self.truncated:
            lines.append(f"{self.truncated:,} texts were longer than the backbone reads and were cut")
        if self.bad:
            identifier, reason = next(iter(self.bad.items()))
            lines.append(f"{len(self.bad):,} rows are absent, the first {identifier!r}: {reason}")
        return "\n".join(lines)


def embed(
    run: Path,
    dataset: Dataset,
    out: Path,
    *,
    options: EmbedOptions = EmbedOptions(),
) -> EmbedResult:
    """Embeds a DATASET with the towers of a RUN.

    Args:
        modality: Only this tower; None takes each tower that the dataset has rows for.
        split: Only this split; None takes all.

    Raises:
        SetClipError: the RUN has no such tower, its weights are missing or changed, the dataset is damaged, the folder
            was made by another model, or too many rows are unreadable.
    """
    config = load_config(run)
    towers = [tower for tower in MODALITIES if tower in config.towers]
    modality = options.modality
    if modality is not None and modality not in towers:
        raise SetClipError(
            f"{run}: has no {modality} tower, only {' and '.join(towers)}",
            fix="leave --modality out, or train a RUN with that tower",
            exit_code=ExitCode.USAGE,
        )
    wanted = [modality] if modality else [tower for tower in towers if tower in dataset.modalities()]
    if not wanted:
        raise SetClipError(
            f"{dataset.root}: holds no {' or '.join(towers)} rows, which {run} embeds",
            fix=f"setclip ingest SOURCE --modality {towers[0]} --out {dataset.root}",
        )
    sources = [TowerSource(tower, run=run) for tower in wanted]
    return _embed_towers(sources, dataset, out, options)


def embed_backbone(
    spec: str,
    dataset: Dataset,
    out: Path,
    *,
    weights: str = "auto",
    pooling: str = "default",
    options: EmbedOptions = EmbedOptions(),
) -> EmbedResult:
    """Writes a backbone's raw features in the layout of EMBEDDINGS, without a RUN.

    Raises:
        SetClipError: as `embed` and `load_backbone` do.
    """
    from setclip_cli.backbones import MODALITY_OF
    from setclip_cli.backbones.pooling import refuse_untrained
    from setclip_cli.backbones.weights import parse_spec

    refuse_untrained(pooling, key="--pooling")
    source = TowerSource(MODALITY_OF[parse_spec(spec).kind], spec=spec, weights=weights, pooling=pooling)
    return _embed_towers([source], dataset, out, options)


def _embed_towers(sources: list[TowerSource], dataset: Dataset, out: Path, options: EmbedOptions) -> EmbedResult:
    started = time.perf_counter()
    jobs = [
        Job(dataset.root, out, shard, source, options)
        for source in sources
        for shard in dataset.shards(source.modality, options.split)
    ]
    refuse_foreign(out, "an EMBEDDINGS folder", (INDEX_NAME, FINISHED))
    if options.faiss:
        require_faiss()  # now, not after the last shard
    load_tower.cache_clear()  # weights may have changed since an earlier call in this process
    towers = {source.modality: load_tower(source, options) for source in sources}
    making = next(iter(towers.values())).making
    with exclusive(out):
        (out / FINISHED).mkdir(exist_ok=True)  # from now on the folder is known as ours
        earlier = finished_shards(out, making)
        _require_same_dataset(out, dataset, earlier.values())
        kept = {
            job.shard.path: shard
            for job in jobs
            if (shard := earlier.get(job.shard.path))
            and shard.input_sha256 == job.shard.sha256
            and is_whole(out, shard)
        }
        missing = [job for job in jobs if job.shard.path not in kept]
        for job in missing:
            index_path(out, job.shard.modality, job.shard.split).unlink(missing_ok=True)  # of rows about to change
        made = _make(missing, kept.values(), jobs, options)
        shards = {**earlier, **made}
        index = EmbeddingsIndex(
            **making.model_dump(),
            run=None if sources[0].run is None else str(sources[0].run.resolve()),
            dataset=str(dataset.root.resolve()),
            towers={modality: tower.description for modality, tower in towers.items()},
            shards=sorted(shards.values(), key=lambda shard: (MODALITIES.index(shard.modality), shard.path)),
        )
        write_index(out, index)
        indexes = write_faiss(open_embeddings(out)) if options.faiss else []
    done = [shards[job.shard.path] for job in jobs]
    return EmbedResult(
        out=out,
        rows=sum(shard.rows for shard in done),
        dim=making.dim,
        made=len(made),
        kept=len(kept),
        truncated=sum(shard.truncated for shard in done),
        windowed=sum(shard.windowed for shard in done),
        replaced_letters=sum(shard.replaced_letters for shard in done),
        bad={identifier: reason for shard in done for identifier, reason in shard.bad.items()},
        wall_s=time.perf_counter() - started,
        faiss=indexes,
    )


def _make(
    missing: list[Job], kept: Iterable[EmbeddedShard], jobs: list[Job], options: EmbedOptions
) -> dict[str, EmbeddedShard]:
    """Embeds the missing shards; stops when more rows are unreadable than allowed."""
    allowed = options.max_bad_fraction * sum(job.shard.rows for job in jobs)
    bad = {identifier: reason for shard in kept for identifier, reason in shard.bad.items()}
    made: dict[str, EmbeddedShard] = {}
    for shard in progress(_run(missing, options), total=len(missing), label="embed", unit="shard"):
        made[shard.path] = shard
        bad |= shard.bad
        if len(bad) > allowed:
            identifier, reason = next(iter(bad.items()))
            raise SetClipError(
                f"{jobs[0].dataset}: {len(bad)} rows cannot be embedded, the first {identifier!r}: {reason}",
                fix=f"mend the rows, or allow more with --max-bad-fraction (now {options.max_bad_fraction})",
            )
    return made


def _run(jobs: list[Job], options: EmbedOptions) -> Iterator[EmbeddedShard]:
    if options.engine == "ray":
        return engines.ray(embed_shard, jobs, device=options.device)
    return engines.local(embed_shard, jobs, device=options.device, workers=options.workers)


@lru_cache(maxsize=2)
def load_tower(source: TowerSource, options: EmbedOptions) -> LoadedTower:
    """Loads a tower once for all the shards that a process embeds."""
    device = engines.device_of(options.device)
    encoder = None
    if source.run is None:
        backbone = load_backbone(
            source.spec, modality=source.modality, weights=source.weights, pooling=source.pooling, device=device
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
        note(f"note: --compile: this machine cannot ({reason}); embedding goes on without")
    making = Making(model=identity, method=method, dim=dim, dtype=options.dtype, precision=options.precision)
    description = EmbeddedTower(
        spec=backbone.spec,
        weights=weights,
        pooling=backbone.pooling,
        identity=backbone.identity,
        preprocessing=backbone.preprocessing,
        encoder=None if encoder is None else encoder.describe(),
    )
    return LoadedTower(backbone, encoder, making, description)


def embed_shard(job: Job) -> EmbeddedShard:
    """Embeds one shard and writes it. Called in any worker; leaves a whole shard or none.

    Raises:
        SetClipError: the input shard is missing or damaged, or the disk is full.
    """
    tower = load_tower(job.tower, job.options)
    backbone = tower.backbone
    dataset = Dataset(job.dataset, DatasetIndex(shards=[job.shard]))  # the whole index, read for every shard, adds up
    table = dataset.read_verified(job.shard, ["id", "label", backbone.column])
    ids: list[str] = table["id"].to_pylist()
    parts: list[np.ndarray[Any, Any]] = []
    windows: list[int] = []
    bad: dict[int, str] = {}
    counts = [0, 0]
    for start in range(0, max(1, len(ids)), ROWS_PER_CALL):
        encoded = backbone.encode(table[backbone.column].slice(start, ROWS_PER_CALL).to_pylist())
        with torch.inference_mode():
            values = encoded.features if tower.encoder is None else tower.encoder(encoded.features)
        parts.append(values.numpy())
        windows += encoded.windows or []
        bad |= {start + position: reason for position, reason in encoded.failed.items()}
        counts = [counts[0] + encoded.truncated, counts[1] + encoded.replaced_letters]
    embeddings = np.concatenate(parts).astype(job.options.dtype)
    for position in np.flatnonzero(~np.isfinite(embeddings).all(axis=1)).tolist():
        bad.setdefault(position, f"its embedding is not finite in {job.options.dtype}")
    good = [position for position in range(len(ids)) if position not in bad]
    size, sha256 = write_embedding_shard(
        job.out,
        job.shard.path,
        ids=[ids[position] for position in good],
        embeddings=embeddings[good],
        labels=table["label"].take(good).to_pylist() if good else [],
        windows=[windows[position] for position in good] if windows else None,
        dtype=job.options.dtype,
    )
    finished = EmbeddedShard(
        **{**job.shard.model_dump(), "rows": len(good), "bytes": size, "sha256": sha256},
        input_sha256=job.shard.sha256,
        truncated=counts[0],
        windowed=sum(count > 1 for count in windows),
        replaced_letters=counts[1],
        bad={ids[position]: reason for position, reason in sorted(bad.items())},
    )
    record_finished(job.out, tower.making, finished)
    return finished


def _require_same_dataset(out: Path, dataset: Dataset, shards: Iterable[EmbeddedShard]) -> None:
    known = {shard.path for shard in dataset.index.shards}
    for shard in shards:
        if shard.path not in known:
            raise SetClipError(
                f"{out}: holds {shard.path}, which {dataset.root} has not, so it was made from another DATASET",
                fix="choose another --out, or remove the folder first",
            )
