"""`setclip inspect`."""

from __future__ import annotations

from typing import Annotated

import typer

from setclip_cli.cli.flags import with_options
from setclip_cli.cli.output import AsJson, show
from setclip_cli.inspection.options import InspectOptions


@with_options(InspectOptions)
def inspect(
    dataset: Annotated[
        str, typer.Argument(path_type=str, metavar="DATASET", help="A folder that `setclip ingest` wrote.")
    ],
    out: Annotated[
        str | None,
        typer.Option(
            path_type=str,
            metavar="FOLDER",
            help="Write inspect.html, inspect.json and the lists of rows to this folder.",
        ),
    ] = None,
    *,
    options: InspectOptions,
    as_json: AsJson = False,
) -> None:
    """Say how much of each side has no partner on the other, and which test rows have a near copy in training.

    The first needs 20 known items. Nothing is trained, and labels are not read.

    Examples:

      setclip inspect data/rs

      setclip inspect data/rs --near-duplicates 0.95 --out looks/rs
    """
    from setclip_cli.inspection.inspect import inspect as run

    show(run(dataset, out, options), as_json)
