"""`setclip suggest`."""

from __future__ import annotations

from typing import Annotated

import typer

from setclip_cli.cli.flags import with_options
from setclip_cli.cli.output import AsJson, show
from setclip_cli.labelling.suggest_options import SuggestOptions


@with_options(SuggestOptions)
def suggest(
    dataset: Annotated[
        str, typer.Argument(path_type=str, metavar="DATASET", help="A folder that `setclip ingest` wrote.")
    ],
    out: Annotated[
        str, typer.Option(path_type=str, metavar="SHEET", help="Write suggest.csv and suggest.html to this folder.")
    ],
    *,
    options: SuggestOptions,
    as_json: AsJson = False,
) -> None:
    """Suggest which items to label next: those whose partners say most about the others. No pair need be known.

    Fill in suggest.csv with the help of suggest.html, and give it to `setclip ingest --pairs`.

    Examples:

      setclip suggest data/rs --count 20 --out sheets/first

      setclip suggest data/rs --run runs/rs --side caption --out sheets/second
    """
    from setclip_cli.labelling.suggest import suggest as run

    show(run(dataset, out, options), as_json)
