"""`setclip ingest`."""

from __future__ import annotations

from typing import Annotated

import typer

from setclip_cli.cli.flags import with_options
from setclip_cli.cli.output import AsJson, show
from setclip_cli.errors import SetClipError, UsageError
from setclip_cli.ingest.options import IngestOptions


@with_options(IngestOptions)
def ingest(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            path_type=str,
            metavar="[SOURCE...]",
            help="Files, folders or archives of one modality; or NAME=PATH for several modalities; or data manifests, "
            "by path or name. Without a SOURCE, the pairs are added to the DATASET.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option(path_type=str, help="The DATASET folder: a new one, or one to add to.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check every hash of the DATASET given as SOURCE; write nothing.")
    ] = False,
    *,
    options: IngestOptions,
    as_json: AsJson = False,
) -> None:
    """Build a DATASET, a folder of Parquet files for each kind of data, from raw files.

    Records that cannot be used are written to rejects.parquet with the reason. docs/ingest.md lists the formats.

    If the command was killed, run it again: it continues where it stopped. Unchanged sources are not read again.

    Examples:

      setclip ingest proteins.fasta.gz --modality protein --out data/my

      setclip ingest images/ --modality image --labels labels.csv --split train=0.8,test=0.2 --out data/rs

      setclip ingest dataset_rsicd.json --modality caption --out data/rs

      setclip ingest uniprot_sprot.dat.gz --modality protein --captions-from function --pairs 200 --out data/sprot

      setclip ingest image=photos/ caption=captions.jsonl --pairs pairs.csv --split train=0.8,test=0.2 --out data/my

      setclip ingest audio=clap.npy text=minilm.npy --kind vector --pairs pairs.csv --out data/vectors

      setclip ingest eurosat --out data/eurosat

      setclip ingest --pairs pairs.csv --out data/rs

      setclip ingest --verify data/rs
    """
    paths = sources or []
    if verify:
        from setclip_cli.dataset.verify import verify as check

        if len(paths) != 1:
            raise _usage(f"--verify: give one DATASET, not {len(paths)} paths", "setclip ingest --verify DATASET")
        show(check(paths[0]), as_json)
        return
    if out is None:
        raise _usage("--out is missing", "setclip ingest SOURCE... --modality MODALITY --out DATASET")
    from setclip_cli.ingest.ingest import ingest as run

    show(run(paths, out, options), as_json)


def _usage(problem: str, fix: str) -> SetClipError:
    return UsageError(problem, fix=fix)
