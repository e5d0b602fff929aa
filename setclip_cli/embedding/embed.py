"""`embed`: one shard of EMBEDDINGS for each shard of a DATASET. Only the shards that are missing are made."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setclip_cli.backbones import check_backbone
from setclip_cli.console import progress, text_of_lines
from setclip_cli.dataset.band_scale import band_scale, bands_of_rows, require_bands
from setclip_cli.dataset.dataset import Dataset, open_dataset
from setclip_cli.dataset.modality import place_in_order
from setclip_cli.embedding import engines
from setclip_cli.embedding.calibration import measured_bits
from setclip_cli.embedding.embeddings import FINISHED, INDEX_NAME, EmbeddedShard, Embeddings, EmbeddingsIndex
from setclip_cli.embedding.faiss_index import index_path, require_faiss, write_faiss
from setclip_cli.embedding.map import write_map
from setclip_cli.embedding.options import EmbedOptions, check_raw_features, modality_for_backbone
from setclip_cli.embedding.widths import require_width
from setclip_cli.embedding.worker import ShardToEmbed, TowerSource, embed_shard, load_tower
from setclip_cli.embedding.writing import finished_shards, is_whole, record_name, write_index
from setclip_cli.encoders import encoder_from_description, nested_widths
from setclip_cli.errors import SetClipError, UsageError, argument
from setclip_cli.files import atomic
from setclip_cli.files.folders import refuse_foreign
from setclip_cli.files.lock import exclusive
from setclip_cli.files.what_is import what_is
from setclip_cli.options import path_of
from setclip_cli.places import named
from setclip_cli.remote.arguments import takes_places
from setclip_cli.remote.work import send_finished
from setclip_cli.run.config import load_config

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterable


@dataclass(frozen=True)
class EmbedResult:
    """What `embed` wrote, and what happened to the rows.

    Attributes:
        out: The EMBEDDINGS folder.
        rows: Rows that are in it.
        dim: Width of the embeddings.
        made: Shards of this run.
        kept: Shards of earlier runs.
        truncated: Texts that were longer than the backbone reads and were cut.
        windowed: Proteins read in more than one window.
        replaced_letters: Residues read as X.
        bad: Id -> why the row is absent.
        wall_s: Seconds.
        faiss: FAISS indexes written.
        map: The map of all rows, if one was asked for.
    """

    out: Path
    rows: int
    dim: int
    made: int
    kept: int
    truncated: int
    windowed: int
    replaced_letters: int
    bad: dict[str, str]
    wall_s: float
    faiss: list[Path]
    map: Path | None = None

    def as_json(self) -> dict[str, Any]:
        faiss = [str(path) for path in self.faiss]
        return {**vars(self), "out": str(self.out), "wall_s": round(self.wall_s, 3), "faiss": faiss} | (
            {} if self.map is None else {"map": str(self.map)}
        )

    def summary(self) -> str:
        lines = [
            f"{self.out}: {self.rows:,} rows of {self.dim} values; {self.made} shards made, {self.kept} kept, "
            f"{self.wall_s:.1f} s"
        ]
        if self.windowed:
            lines.append(f"{self.windowed:,} long proteins were read in overlapping windows")
        if self.replaced_letters:
            lines.append(f"{self.replaced_letters:,} residues outside the alphabet were read as X")
        if self.truncated:
            lines.append(f"{self.truncated:,} texts were longer than the backbone reads and were cut")
        if self.bad:
            identifier, reason = next(iter(self.bad.items()))
            lines.append(f"{len(self.bad):,} rows are absent, the first {identifier!r}: {reason}")
        return text_of_lines(lines)


def is_to_embed(options: EmbedOptions | None, name: str) -> bool:
    """Whether `embed` reads a file of a DATASET: its shards of other modalities and splits need not be copied."""
    modality, _, shard = name.partition("/")
    if options is None or not shard.endswith(".parquet"):
        return True
    split = shard.rpartition("-")[0]
    return options.modality in (None, modality) and options.split in (None, split)


@takes_places("run", "dataset", writes="out", part=("dataset", is_to_embed))
def embed(
    run: str | Path, dataset: Dataset | str | Path, out: str | Path, *, options: EmbedOptions = EmbedOptions()
) -> EmbedResult:
    """Embeds a DATASET with the towers of a RUN.

    Args:
        run: The RUN folder.
        dataset: The DATASET or its folder.
        out: The EMBEDDINGS folder to write. If it holds shards of the same RUN and DATASET, they are kept.
        options: What to embed, and how.

    Raises:
        SetClipError: the RUN has no such tower, its weights are missing or changed, the dataset is damaged, ``out``
            was made by another model, or too many rows cannot be read.
    """
    run, out = path_of(run, "run"), path_of(out, "out")
    if not isinstance(dataset, Dataset) and (what_is(run).kind, what_is(Path(dataset)).kind) == (
        "dataset",
        "run",
    ):
        raise UsageError(
            f"{run} is a DATASET and {dataset} is a RUN: they are in the wrong order",
            fix=f"setclip embed {dataset} {run} --out {out}",
        )
    dataset = _opened(dataset)
    config = load_config(run)
    towers = config.modalities()
    modality = options.modality
    if modality is not None and modality not in towers:
        raise UsageError(
            f"{run}: has no {modality} tower, only {' and '.join(towers)}",
            fix=f"leave {argument('modality')} out, or train a RUN with that tower",
        )
    wanted = [modality] if modality else [tower for tower in towers if tower in dataset.modalities()]
    if not wanted:
        raise SetClipError(
            f"{dataset.root}: holds no {' or '.join(towers)} rows, which {run} embeds",
            fix=f"setclip ingest SOURCE --modality {towers[0]} --out {dataset.root}",
        )
    for tower in wanted:
        dataset.require_rows(tower, config.towers[tower].info(tower))
        require_bands(dataset, tower, options.split, config.towers[tower].bands)
        encoder = config.towers[tower].encoder
        if options.width is not None:
            require_width(run, options.width, nested_widths(encoder), encoder_from_description(encoder).dim)
    return _embed_towers([TowerSource(tower, dataset.about(tower), run=run) for tower in wanted], dataset, out, options)


@takes_places("dataset", writes="out")
def embed_backbone(
    backbone: str,
    dataset: Dataset | str | Path,
    out: str | Path,
    *,
    weights: str = "auto",
    pooling: str = "default",
    options: EmbedOptions = EmbedOptions(),
) -> EmbedResult:
    """Writes the raw features of a backbone as EMBEDDINGS, without a RUN.

    Args:
        backbone: Its name, such as ``esm:esm2_t6_8M_UR50D``.
        dataset: The DATASET or its folder.
        out: The EMBEDDINGS folder to write.
        weights: ``auto``, a path, ``package:NAME`` or ``hub``.
        pooling: ``default``, or one that the backbone has.
        options: What to embed, and how. ``modality`` is needed if the backbone could read several of the DATASET.

    Raises:
        SetClipError: as `embed` and `load_backbone` do.
    """
    out = path_of(out, "out")
    check_raw_features(backbone, pooling, options.modality)
    if options.width is not None:
        shown = argument("width")
        raise UsageError(f"{shown}: the features of a backbone are not nested", fix=f"leave {shown} out, or give a RUN")
    dataset = _opened(dataset)
    modality = modality_for_backbone(backbone, dataset, options.modality)
    if pooling == "attention" and dataset.kind(modality) != "video":
        raise UsageError(
            f"{argument('pooling')} attention: is learned, and this backbone is not trained",
            fix=f"leave {argument('pooling')} out",
        )
    check_backbone(backbone, modality=modality, kind=dataset.kind(modality), pooling=pooling)
    bands = None if bands_of_rows(dataset, modality, None) is None else band_scale(dataset, modality, None)
    source = TowerSource(
        modality, info=dataset.about(modality), backbone=backbone, weights=weights, pooling=pooling, bands=bands
    )
    return _embed_towers([source], dataset, out, options)


def _opened(dataset: Dataset | str | Path) -> Dataset:
    return dataset if isinstance(dataset, Dataset) else open_dataset(dataset)


def _embed_towers(sources: list[TowerSource], dataset: Dataset, out: Path, options: EmbedOptions) -> EmbedResult:
    started = time.perf_counter()
    split_shards = {source: dataset.shards(source.modality, options.split) for source in sources}
    refuse_foreign(out, "an EMBEDDINGS folder", (INDEX_NAME, FINISHED))
    if options.faiss:
        require_faiss()  # now, not after the last shard
    load_tower.cache_clear()  # the weights may have changed since an earlier call in this process
    towers = {source.modality: load_tower(source, options) for source in sources}
    settings = next(iter(towers.values())).settings
    with exclusive(out):
        atomic.make_folder(out / FINISHED)  # it marks the folder as EMBEDDINGS from the start
        finished = finished_shards(out, settings)
        earlier, bits = finished.shards, finished.bits
        _require_same_dataset(out, dataset, earlier.values())
        if options.dtype == "ubinary":
            measured = {name: measured_bits(dataset, name, towers[name]) for name in towers.keys() - bits.keys()}
            bits = {**bits, **measured}
        jobs = [
            ShardToEmbed(
                dataset.root, out, shard, dataset.about(source.modality), source, options, bits.get(source.modality)
            )
            for source, shards in split_shards.items()
            for shard in shards
        ]
        kept = {
            job.shard.path: shard
            for job in jobs
            if (shard := earlier.get(job.shard.path))
            and shard.input_sha256 == job.shard.sha256
            and is_whole(out, shard)
        }
        missing = [job for job in jobs if job.shard.path not in kept]
        stale = {index_path(out, job.shard.modality, job.shard.split) for job in missing}  # of rows that will change
        for path in stale:
            atomic.remove_file(path)
        made = _embed_missing(missing, kept.values(), sum(job.shard.rows for job in jobs), options)
        shards = {**earlier, **made}
        index = EmbeddingsIndex(
            **settings.model_dump(),
            run=None if sources[0].run is None else named(sources[0].run.resolve()),
            dataset=named(dataset.root.resolve()),
            towers={
                modality: tower.description.model_copy(
                    update={"bits": bits.get(modality), "frames": dataset.frames(modality)}
                )
                for modality, tower in towers.items()
            },
            shards=sorted(shards.values(), key=lambda shard: (place_in_order(shard.modality), shard.path)),
        )
        indexes = write_faiss(Embeddings(out, index)) if options.faiss else {}
        write_index(out, index, indexes)
        written_map = write_map(Embeddings(out, index)) if options.map else None
    done = [shards[job.shard.path] for job in jobs]
    return EmbedResult(
        out=out,
        rows=sum(shard.rows for shard in done),
        dim=settings.dim,
        made=len(made),
        kept=len(kept),
        truncated=sum(shard.truncated for shard in done),
        windowed=sum(shard.windowed for shard in done),
        replaced_letters=sum(shard.replaced_letters for shard in done),
        bad={identifier: reason for shard in done for identifier, reason in shard.bad.items()},
        wall_s=time.perf_counter() - started,
        faiss=[out / name for name in indexes],
        map=written_map,
    )


def _embed_missing(
    missing: list[ShardToEmbed], kept: Collection[EmbeddedShard], rows: int, options: EmbedOptions
) -> dict[str, EmbeddedShard]:
    """Embeds the missing shards.

    Raises:
        SetClipError: more than ``options.max_bad_fraction`` of all ``rows`` cannot be embedded.
    """
    made: dict[str, EmbeddedShard] = {}
    bad = sum(len(shard.bad) for shard in kept)
    with closing(_results(missing, options)) as results:
        for shard in progress(results, total=len(missing), label="embed", unit="shard"):
            made[shard.path] = shard
            send_finished(missing[0].out, [shard.path, record_name(shard.path)])
            bad += len(shard.bad)
            if bad > options.max_bad_fraction * rows:
                identifier, reason = next(item for each in (*kept, *made.values()) for item in each.bad.items())
                limit = argument("max_bad_fraction")
                raise SetClipError(
                    f"{missing[0].dataset}: {bad} rows cannot be embedded, the first {identifier!r}: {reason}",
                    fix=f"remove or repair these rows, or allow more with {limit} (now {options.max_bad_fraction:g})",
                )
    return made


def _results(jobs: list[ShardToEmbed], options: EmbedOptions) -> Generator[EmbeddedShard, None, None]:
    if options.engine == "ray":
        return engines.run_on_ray(embed_shard, jobs, device=options.device)
    return engines.run_locally(embed_shard, jobs, device=options.device, workers=options.workers)


def _require_same_dataset(out: Path, dataset: Dataset, shards: Iterable[EmbeddedShard]) -> None:
    known = {shard.path for shard in dataset.index.shards}
    for shard in shards:
        if shard.path not in known:
            raise SetClipError(
                f"{out}: was made from another DATASET; it holds {shard.path}, and {dataset.root} does not",
                fix=f"choose another {argument('out')}, or remove the folder first",
            )
