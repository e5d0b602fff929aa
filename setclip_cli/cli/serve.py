"""`setclip serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from setclip_cli.cli.flags import with_options
from setclip_cli.cli.output import AsJson, show
from setclip_cli.serving.options import ServeOptions


@with_options(ServeOptions)
def serve(
    run: Annotated[
        str,
        typer.Argument(path_type=str, metavar="RUN", help="A folder that `setclip align` wrote, or hub:OWNER/NAME."),
    ],
    embeddings: Annotated[
        str, typer.Argument(path_type=str, metavar="EMBEDDINGS", help="A folder that `setclip embed` wrote.")
    ],
    *,
    options: ServeOptions,
    as_json: AsJson = False,
) -> None:
    """Answer searches over HTTP, and show a page to search in: type words, drop an image, paste a sequence.

    Programs send JSON to /embed, /search and /match; the page /docs describes them. Only this computer can ask, and it
    needs the token in the address that is printed.

    Examples:

      setclip serve runs/rs embeddings/rs

      setclip serve runs/rs embeddings/rs --port 8080 --token-file token.txt
    """
    from setclip_cli.serving.serve import serve as run_serve

    show(run_serve(run, embeddings, options=options), as_json)
