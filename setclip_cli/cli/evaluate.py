"""`setclip evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from setclip_cli.cli.output import AsJson
from setclip_cli.console import emit_json
from setclip_cli.errors import ExitCode, SetClipError


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
        str | None,
        typer.Option(
            help="Classify by prompts, not by class means: a TOML file, or a name that `setclip tasks` lists."
        ),
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
