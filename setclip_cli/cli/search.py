"""`setclip search`."""

from __future__ import annotations

from typing import Annotated

import typer

from setclip_cli.cli.flags import with_options
from setclip_cli.cli.output import AsJson, show
from setclip_cli.embedding.options import SearchOptions


@with_options(SearchOptions)
def search(
    embeddings: Annotated[
        str, typer.Argument(path_type=str, metavar="EMBEDDINGS", help="A folder that `setclip embed` wrote.")
    ],
    query: Annotated[str, typer.Argument(help="A text, a protein sequence, or the path of an image.")],
    *,
    options: SearchOptions,
    as_json: AsJson = False,
) -> None:
    """Find the rows nearest to a query by cosine. Every row of the searched modality is compared.

    Examples:

      setclip search embeddings/rs "harbour with many boats" --sheet found.png

      setclip search embeddings/rs photo.jpg --top 5 --json
    """
    from setclip_cli.embedding.search import search as run

    show(run(embeddings, query, options=options), as_json)
