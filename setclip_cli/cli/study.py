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
    data: Annotated[str, typer.Option(path_type=str, help="The DATASET to train and score on.")],
    out: Annotated[Path, typer.Option(help="The folder to write RUNs, table and plots to.")],
    jobs: Annotated[int, typer.Option(min=1, help="Number of processes; they share the CPU.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Train and score many recipes and seeds, and write one table and its plots.

    Finished runs are not trained again. If a run fails, the others go on, the table shows it and the exit code is 1.

    Examples:

      setclip study pairs --data quickstart-out/dataset --out studies-out/pairs --jobs 2
    """
    from setclip_cli.files.shipped import find
    from setclip_cli.study.planned_runs import plan_runs
    from setclip_cli.study.study_file import load_study

    path = find("studies", file)
    plan_runs(load_study(path), path)  # a mistake in the study fails before torch is imported
    from setclip_cli.study.run import run_study

    show(run_study(path, data, out, jobs=jobs), as_json)
