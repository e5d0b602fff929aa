"""`--fail-under`: thresholds that turn a report into a check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from setclip_cli.errors import ExitCode, SetClipError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def parse(wanted: Sequence[str]) -> dict[str, float]:
    """``KEY=VALUE`` texts as numbers.

    Raises:
        SetClipError: exit code 2, when one is not of that form.
    """
    found = {}
    for text in wanted:
        key, equals, value = text.partition("=")
        try:
            found[key.strip()] = float(value)
        except ValueError:
            equals = ""
        if not equals or not key.strip():
            raise SetClipError(
                f"--fail-under {text!r}: is not of the form KEY=VALUE",
                fix="write it as --fail-under image_to_caption/map=0.4",
                exit_code=ExitCode.USAGE,
            )
    return found


def judge(thresholds: Mapping[str, float], method: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each gate found of a method's means; where lower is better, being above the threshold falls short.

    Raises:
        SetClipError: exit code 2, when a key is no metric of the report.
    """
    found = []
    for key, wanted in thresholds.items():
        if key not in method["metrics"]:
            raise SetClipError(
                f"--fail-under {key}: is no metric of this report{nearest(key, method['metrics'])}",
                fix=f"choose one of: {', '.join(method['metrics'])}",
                exit_code=ExitCode.USAGE,
            )
        value = method["metrics"][key]["mean"]
        met = value <= wanted if method["metrics"][key]["lower_is_better"] else value >= wanted
        found.append({"metric": key, "method": method["name"], "wanted": wanted, "found": value, "met": met})
    return found


def enforce(judged: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Raises SetClipError with exit code 4 that names every gate that is not met."""
    missed = [gate for gate in judged if not gate["met"]]
    if missed:
        lines = [f"{gate['metric']} is {gate['found']:.4g}, wanted {gate['wanted']:g}" for gate in missed]
        raise SetClipError(
            f"{out}: {missed[0]['method']} falls short: {'; '.join(lines)}",
            fix=f"see {out / 'report.html'}, or lower --fail-under",
            exit_code=ExitCode.GATE,
        )
