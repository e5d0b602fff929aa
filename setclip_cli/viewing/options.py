"""The options of `setclip view`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from setclip_cli.options import Flag, Options, path_or_place


@dataclass(frozen=True)
class ViewOptions(Options):
    """Which rows are shown, and where."""

    split: Annotated[str | None, Flag("Show only this split (default: all splits).")] = None
    data: Annotated[
        str | Path | None,
        Flag("Path of the DATASET (default: where it was at embedding).", metavar="DATASET", parse=path_or_place),
    ] = None
    port: Annotated[int, Flag("Port of the page; 0 takes any free one.", least=0, most=65_535)] = 0
    no_browser: Annotated[bool, Flag("Print the address only; do not open a browser.")] = False
