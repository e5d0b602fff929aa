"""`setclip view`."""

from __future__ import annotations

from typing import Annotated

import typer

from setclip_cli.cli.flags import with_options
from setclip_cli.cli.output import AsJson, show
from setclip_cli.viewing.options import ViewOptions


@with_options(ViewOptions)
def view(
    embeddings: Annotated[
        str, typer.Argument(path_type=str, metavar="EMBEDDINGS", help="A folder that `setclip embed` wrote.")
    ],
    *,
    options: ViewOptions,
    as_json: AsJson = False,
) -> None:
    """Look around in the space: an interactive map of the rows of all modalities, in a page of this computer.

    Colour by modality or label, hover to see texts and pictures, select with a lasso, search. It needs the view extra.
    `setclip embed --map` makes the map; without it the page shows two main directions.

    Examples:

      setclip embed runs/rs data/rs --out embeddings/rs --map

      setclip view embeddings/rs
    """
    from setclip_cli.viewing.view import view as run_view

    show(run_view(embeddings, options=options), as_json)
