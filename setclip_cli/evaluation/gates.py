"""`--fail-under`: thresholds that turn a report into a check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from setclip_cli.errors import UsageError, argument, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def parse_thresholds(gates: Sequence[str]) -> dict[str, float]:
    """``KEY=VALUE`` texts as metric key -> threshold.

    Raises:
        SetClipError: exit code 2, if one does not have that form.
    """
    thresholds = {}
    for text in gates:
        key, _, value = text.partition("=")
        try:
            thresholds[key.strip()] = float(value)
        except ValueError as error:
            raise UsageError(
                f"{argument('fail_under')} {text!r}: does not have the form KEY=VALUE",
                fix="write for example image_to_caption/map=0.4",
            ) from error
    return thresholds


def check_threshold_keys(thresholds: Mapping[str, float], known: Sequence[str]) -> None:
    """Refuses a metric that the report will not have.

    Raises:
        SetClipError: exit code 2, with the nearest known metric.
    """
    for key in thresholds:
        if key not in known:
            raise UsageError(
                f"{argument('fail_under')} {key}: this report will not have such a metric{nearest(key, known)}",
                fix=f"choose one of: {', '.join(known)}",
            )


def judge_gates(thresholds: Mapping[str, float], method: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Compares a method's means with the thresholds; a rank or distance must not be above, the rest not below."""
    judged = []
    for key, wanted in thresholds.items():
        value = method["metrics"][key]["mean"]
        met = value <= wanted if method["metrics"][key]["lower_is_better"] else value >= wanted
        judged.append({"metric": key, "method": method["name"], "wanted": wanted, "found": value, "met": met})
    return judged
