"""The options of `setclip push`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from setclip_cli.options import Flag, Options, path_or_place


@dataclass(frozen=True)
class PushOptions(Options):
    """Where a RUN is sent, and what goes along."""

    public: Annotated[
        bool, Flag("Let everybody read the repository (default: a new one is private).", name="--public")
    ] = False
    revision: Annotated[str | None, Flag("Write to this branch; it is made if it is missing (default: main).")] = None
    report: Annotated[
        str | Path | None,
        Flag("Put the metrics of this REPORT of `evaluate` on the card.", metavar="REPORT", parse=path_or_place),
    ] = None
    with_dropped_pairs: Annotated[
        bool,
        Flag(
            "Also send dropped_pairs.csv, which holds ids of your data. Other data is never sent.",
            name="--with-dropped-pairs",
        ),
    ] = False
