"""`setclip ingest`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from setclip_cli.cli.output import AsJson, show


def ingest(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[SOURCE...]",
            help="Files, folders or archives of one modality; or data manifests (.toml). None adds --pairs to --out.",
            show_default=False,
        ),
    ] = None,
    modality: Annotated[
        str | None, typer.Option(help="What the sources hold: protein, image or caption. Manifests say it themselves.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The DATASET folder; a new one, or one to add to.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="CSV id,label: classes for evaluation, never for training.")
    ] = None,
    pairs: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|N",
            help="CSV left_modality,left_id,right_modality,right_id: the known pairs; "
            "or how many to draw from what the captions' groups say.",
        ),
    ] = None,
    pairs_from_group: Annotated[
        bool, typer.Option("--pairs-from-group", help="Take each caption's group (its image's id) as a known pair.")
    ] = False,
    split: Annotated[
        str | None,
        typer.Option(
            help="'auto': as the source says, else train; 'train' marks the whole source; "
            "'as-captions': as the captions that describe it; "
            "'train=0.8,val=0.1,test=0.1' draws by hash of the id.  [default: auto]"
        ),
    ] = None,
    split_by: Annotated[
        str,
        typer.Option(
            help="What a drawn split keeps together: auto or group (a caption's group), id, label, "
            "cluster (proteins of similar sequence)."
        ),
    ] = "auto",
    captions_from: Annotated[
        str | None,
        typer.Option(help="Proteins: also write captions, from name,function,keywords,go,ec (one or more of them)."),
    ] = None,
    text_column: Annotated[str | None, typer.Option(help="Captions: the column or field that holds the text.")] = None,
    sequence_column: Annotated[str | None, typer.Option(help="Proteins: the column that holds the residues.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Images in Parquet: the column that holds them.")] = None,
    layout: Annotated[
        str | None, typer.Option("--format", help="Read files as .csv, .jsonl, .fasta, ... whatever their suffix.")
    ] = None,
    tile: Annotated[int | None, typer.Option(help="GeoTIFF: cut scenes into tiles of this many pixels.")] = None,
    stride: Annotated[
        int | None, typer.Option(help="GeoTIFF: from one tile to the next; the tile when left out.")
    ] = None,
    bands: Annotated[str | None, typer.Option(help="GeoTIFF: bands for red,green,blue, counted from 1.")] = None,
    stretch: Annotated[
        str | None, typer.Option(help="GeoTIFF: percentiles that become black and white; 2,98 unless 8-bit.")
    ] = None,
    keep_duplicates: Annotated[
        bool, typer.Option("--keep-duplicates", help="Keep exact repeats, which are otherwise kept once.")
    ] = False,
    near_duplicates: Annotated[
        str, typer.Option(help="Images that look alike: keep (do not look), flag (in a column) or drop.")
    ] = "keep",
    max_bad_fraction: Annotated[
        float, typer.Option(min=0, max=1, help="Fail when more than this share of a source's records is bad.")
    ] = 0.5,
    seed: Annotated[int, typer.Option(help="Of the pairs that --pairs N draws.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Threads that read; the result does not depend on it.")] = 2,
    from_folder: Annotated[
        Path | None, typer.Option("--from", help="Manifests: take the files from this folder, download nothing.")
    ] = None,
    croissant: Annotated[
        bool, typer.Option("--croissant", help="Also write croissant.json, which describes the DATASET to others.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check every hash of the DATASET named as SOURCE; write nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Build Parquet shards of one modality from raw files.

    Every record is taken, or stands in rejects.parquet with its reason. docs/ingest.md lists formats and decisions.

    Killed and run again, it goes on where it was; what is there unchanged is not read again.

    Examples:

      setclip ingest proteins.fasta.gz --modality protein --out data/my

      setclip ingest images/ --modality image --labels labels.csv --split train=0.8,test=0.2 --out data/rs

      setclip ingest dataset_rsicd.json --modality caption --out data/rs

      setclip ingest uniprot_sprot.dat.gz --modality protein --captions-from function --pairs 200 --out data/sprot

      setclip ingest data_manifests/eurosat.toml --out data/eurosat

      setclip ingest --pairs pairs.csv --out data/rs

      setclip ingest --verify data/rs
    """
    from setclip_cli.ingest.command import run

    result = run(
        sources or [],
        modality=modality,
        out=out,
        verify_only=verify,
        from_folder=from_folder,
        croissant=croissant,
        labels=labels,
        pairs=pairs,
        pairs_from_group=pairs_from_group,
        split=split,
        split_by=split_by,
        keep_duplicates=keep_duplicates,
        near_duplicates=near_duplicates,
        max_bad_fraction=max_bad_fraction,
        seed=seed,
        workers=workers,
        captions_from=captions_from,
        text_column=text_column,
        sequence_column=sequence_column,
        image_column=image_column,
        layout=layout,
        tile=tile,
        stride=stride,
        bands=bands,
        stretch=stretch,
    )
    show(result, as_json)
