"""`setclip match`."""

from __future__ import annotations

from typing import Annotated

import typer

from setclip_cli.cli.flags import with_options
from setclip_cli.cli.output import AsJson, show
from setclip_cli.matching.options import MatchOptions


@with_options(MatchOptions)
def match(
    run: Annotated[
        str,
        typer.Argument(path_type=str, metavar="RUN", help="A folder that `setclip align` wrote, or hub:OWNER/NAME."),
    ],
    dataset: Annotated[
        str, typer.Argument(path_type=str, metavar="DATASET", help="A folder that `setclip ingest` wrote.")
    ],
    out: Annotated[str, typer.Option(path_type=str, help="Write the matches to this folder.")],
    *,
    options: MatchOptions,
    as_json: AsJson = False,
) -> None:
    """Write the best partners of all rows, each with the probability that it is right.

    A row is also given a set of rows that holds its partner with a stated coverage. Both need held-out known pairs,
    30 items or more; else there are ranks only.

    Examples:

      setclip match runs/rs data/rs --out matches/rs

      setclip match runs/rs data/rs --split test --top 5 --coverage 0.95 --out matches/test

      setclip match runs/rs data/rs --one-to-one --format csv --out matches/pairs
    """
    from setclip_cli.matching.match import match as run_match

    show(run_match(run, dataset, out, options), as_json)
