"""The options of `setclip match`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from setclip_cli.options import Flag, Options

Format = Literal["parquet", "csv", "both"]


@dataclass(frozen=True)
class MatchOptions(Options):
    """Which answers are wanted, and how they are written."""

    split: Annotated[str | None, Flag("The split to match (default: the one that the RUN was trained on).")] = None
    one_to_one: Annotated[
        bool, Flag("Give each row one partner at most, so that the sum of all cosines is largest.")
    ] = False
    top: Annotated[int, Flag("Answers for each row; with --one-to-one there is one.", least=1, most=1000)] = 1
    coverage: Annotated[
        float, Flag("Share of rows whose set of possible answers holds their partner.", least=0.01, most=0.99)
    ] = 0.9
    format: Annotated[Format, Flag("Write the answers as parquet, csv or both.")] = "both"
