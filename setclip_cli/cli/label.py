"""`setclip label`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from setclip_cli.cli.flags import with_options
from setclip_cli.cli.output import AsJson, show
from setclip_cli.labelling.options import LabelOptions


@with_options(LabelOptions)
def label(
    dataset: Annotated[
        str, typer.Argument(path_type=str, metavar="DATASET", help="A folder that `setclip ingest` wrote.")
    ],
    *,
    out: Annotated[Path, typer.Option(metavar="LABELS", help="The folder for the answers.")],
    options: LabelOptions,
    as_json: AsJson = False,
) -> None:
    """Ask a person for pairs in a web page of this computer.

    The page shows one item and likely partners. Choose with a click or a key. Every answer is on disk before the next
    question is shown; the same command goes on where you stopped.

    Examples:

      setclip label data/rs --out labels

      setclip label data/rs --run runs/rs --count 50 --out labels
    """
    from setclip_cli.labelling.label import label as run

    show(run(dataset, out, options=options), as_json)
