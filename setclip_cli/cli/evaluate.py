"""`setclip evaluate`."""

from __future__ import annotations

from typing import Annotated

import typer

from setclip_cli.cli.flags import with_options
from setclip_cli.cli.output import AsJson, show
from setclip_cli.errors import UsageError
from setclip_cli.evaluation.options import EvaluateOptions


@with_options(EvaluateOptions)
def evaluate(
    paths: Annotated[
        list[str],
        typer.Argument(
            path_type=str, metavar="RUN... DATASET", help="RUNs or EMBEDDINGS to compare, then the DATASET."
        ),
    ],
    out: Annotated[str, typer.Option(path_type=str, help="The REPORT folder to write.")],
    *,
    options: EvaluateOptions,
    as_json: AsJson = False,
) -> None:
    """Write a retrieval report: report.json, report.md and a self-contained report.html.

    RUNs of one method with different seeds are shown as mean and standard deviation.

    Examples:

      setclip evaluate runs/rs data/rs --out reports/rs

      setclip evaluate runs/plus-0 runs/plus-1 runs/clip-0 runs/clip-1 data/rs --out reports/compare

      setclip evaluate runs/rs data/rs --out reports/rs --fail-under image_to_caption/map=0.4
    """
    if len(paths) < 2:
        raise UsageError(
            "evaluate: needs at least one RUN or EMBEDDINGS folder, then the DATASET",
            fix="setclip evaluate RUN DATASET --out REPORT",
        )
    if options.task_set:
        from setclip_cli.evaluation.task_set import load_task_set

        load_task_set(options.task_set)  # a mistake in it fails before torch is imported
    from setclip_cli.evaluation.evaluate import evaluate as run

    report = run(paths[:-1], paths[-1], out, options)
    show(report, as_json)
    report.check_gates()
