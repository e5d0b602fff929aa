"""`setclip check-pairs`."""

from __future__ import annotations

from typing import Annotated

import typer

from setclip_cli.cli.flags import with_options
from setclip_cli.cli.output import AsJson, show
from setclip_cli.inspection.check_pairs_options import CheckPairsOptions


@with_options(CheckPairsOptions)
def check_pairs(
    dataset: Annotated[
        str, typer.Argument(path_type=str, metavar="DATASET", help="A folder that `setclip ingest` wrote.")
    ],
    out: Annotated[
        str,
        typer.Option(
            path_type=str, metavar="FOLDER", help="Write check_pairs.html, check_pairs.csv and pairs_kept.csv here."
        ),
    ],
    *,
    options: CheckPairsOptions,
    as_json: AsJson = False,
) -> None:
    """Say which known pairs are likely wrong, and why. Each is judged by the other ones; 20 known items are needed.

    Nothing is removed: `setclip align --drop-suspect` leaves the suspects out.

    Examples:

      setclip check-pairs data/rs --out checks/rs

      setclip check-pairs data/rs --run runs/rs --out checks/rs
    """
    from setclip_cli.inspection.check_pairs import check_pairs as run

    show(run(dataset, out, options), as_json)
