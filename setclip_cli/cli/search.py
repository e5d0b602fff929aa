"""`setclip search`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from setclip_cli.cli.output import AsJson, show


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
    show(result, as_json)
