"""The options of `setclip evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from setclip_cli.errors import UsageError, argument, nearest
from setclip_cli.options import Flag, Options

RelevanceRule = Literal["label", "group", "pairs"]
RelevanceChoice = Literal["auto", "label", "group", "pairs"]


def names_between_commas(text: str) -> tuple[str, ...]:
    """``a,b`` -> ``("a", "b")``; ``none`` -> no names."""
    return () if text.strip() == "none" else tuple(name.strip() for name in text.split(","))


@dataclass(frozen=True)
class EvaluateOptions(Options):
    """What is scored, what it is compared with, and how good it must be."""

    split: Annotated[str, Flag("The split to score.")] = "test"
    relevance: Annotated[
        RelevanceChoice,
        Flag("What counts as a right answer: the same label, the same group, or a known pair; auto: by the data."),
    ] = "auto"
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

    def __post_init__(self) -> None:
        """Checks the names of baselines and metrics too, so that a slip is told before anything is read or loaded."""
        super().__post_init__()
        for name in ("baselines", "fail_under"):
            if isinstance(getattr(self, name), str):
                raise UsageError(
                    f"{argument(name)}: is text, not a list", fix=f"put it into a list: [{getattr(self, name)!r}]"
                )
        _check_baseline_names(self.baselines)
        self.thresholds()

    def thresholds(self) -> dict[str, float]:
        """``fail_under`` as metric key -> threshold."""
        from setclip_cli.evaluation.gates import parse_thresholds

        return parse_thresholds(self.fail_under)


def _check_baseline_names(methods: tuple[str, ...]) -> None:
    from setclip_cli.recipe.presets import Method

    known = get_args(Method)
    for method in methods:
        if method not in known:
            found = (
                f"{method}: is not a method{nearest(method, known)}" if method else "a name between commas is missing"
            )
            raise UsageError(f"{argument('baselines')} {found}", fix=f"choose from: {', '.join(known)}; or none alone")
