"""The options of `setclip evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from setclip_cli.options import Flag, Options

RelevanceRule = Literal["label", "group", "pairs"]


def names_between_commas(text: str) -> tuple[str, ...]:
    """``a,b`` -> ``("a", "b")``; ``none`` -> no names."""
    return () if text == "none" else tuple(name.strip() for name in text.split(","))


@dataclass(frozen=True)
class EvaluateOptions(Options):
    """What is scored, what it is compared with, and how good it must be."""

    split: Annotated[str, Flag("The split to score.")] = "test"
    relevance: Annotated[
        RelevanceRule, Flag("What counts as a right answer: the same label, the same group, or a known pair.")
    ] = "label"
    baselines: Annotated[
        tuple[str, ...],
        Flag(
            "Methods to fit for comparison, with the pairs of the first RUN: names with commas between them, or none.",
            metavar="METHOD,...|none",
            parse=names_between_commas,
        ),
    ] = ("clip", "asif", "cca", "procrustes")
    task_set: Annotated[
        str | None,
        Flag("Sort into classes by sentences, not by class means: a TOML file, or a name from `setclip tasks`."),
    ] = None
    fail_under: Annotated[
        tuple[str, ...],
        Flag("Exit with 4 if this metric of the first method is worse than VALUE; repeatable.", metavar="KEY=VALUE"),
    ] = ()
