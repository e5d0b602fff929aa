"""`setclip study`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from setclip_cli.cli.output import AsJson, show


def study(
    file: Annotated[
        Path, typer.Argument(metavar="STUDY", help="A TOML study: a file, or a name that `setclip studies` lists.")
    ],
    data: Annotated[Path, typer.Option(help="The DATASET to train and score on.")],
    out: Annotated[Path, typer.Option(help="The folder for RUNs, table and plots.")],
    jobs: Annotated[int, typer.Option(min=1, help="Processes that share the CPU.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Run a grid of recipes and seeds, and write one table and its plots.

    Cells that are finished are not run again; a cell that fails is shown, and the exit code is 1 at the end.

    Examples:

      setclip study pairs --data quickstart-out/dataset --out studies-out/pairs --jobs 2
    """
    from setclip_cli.dataset.dataset import open_dataset
    from setclip_cli.study.run import run_study

    result = run_study(file, open_dataset(data), out, jobs=jobs)
    show(result, as_json)
