"""`setclip verify`."""

from __future__ import annotations

from typing import Annotated

import typer

from setclip_cli.cli.output import AsJson, show


def verify(
    path: Annotated[
        str,
        typer.Argument(
            path_type=str,
            metavar="PATH",
            help="A folder that setclip wrote, its cache, or a place such as hub:OWNER/NAME or s3://BUCKET/DATASET.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Check every byte of a DATASET, RUN, EMBEDDINGS, REPORT, matches, study, quickstart or cache. Nothing is written.

    Files that are missing or have changed end it with exit code 3. Files that are listed nowhere are named.

    Examples:

      setclip verify data/rs

      setclip verify runs/rs --json
    """
    from setclip_cli.verify.verify import verify as run

    show(run(path), as_json)
