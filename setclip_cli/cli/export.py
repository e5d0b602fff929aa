"""`setclip export`."""

from __future__ import annotations

from typing import Annotated

import typer

from setclip_cli.cli.flags import with_options
from setclip_cli.cli.output import AsJson, show
from setclip_cli.export.options import ExportOptions


@with_options(ExportOptions)
def export(
    run: Annotated[
        str,
        typer.Argument(path_type=str, metavar="RUN", help="A folder that `setclip align` wrote, or hub:OWNER/NAME."),
    ],
    out: Annotated[str, typer.Option(path_type=str, metavar="DIR", help="Write the model to this folder.")],
    *,
    options: ExportOptions,
    as_json: AsJson = False,
) -> None:
    """Write a RUN as a model that other programs load, without setclip.

    The result is checked against the RUN before it is finished.

    Examples:

      setclip export runs/rs --out models/rs

      setclip export runs/rs --form plain --data data/rs --out models/rs-plain

      setclip export runs/rs --to onnx --out models/rs-onnx
    """
    from setclip_cli.export.export import export_run

    show(export_run(run, out, options=options), as_json)
