"""`--fail-under`: thresholds that turn a report into a check."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from setclip_cli.errors import UsageError, argument
from setclip_cli.evaluation.metric_names import is_share, metric_keys_between, nearest_metric, possible_metric

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def parse_thresholds(gates: Sequence[str]) -> dict[str, float]:
    """``KEY=VALUE`` texts as metric key -> threshold.

    Raises:
        SetClipError: exit code 2; one does not have that form, no report has such a metric, or none reaches the value.
    """
    thresholds: dict[str, float] = {}
    for text in gates:
        shown = f"{argument('fail_under')} {text!r}"
        key, equals, value = (part.strip() for part in text.partition("="))
        try:
            wanted = float(value)
        except ValueError:
            wanted = math.nan
        if not key or not equals or not math.isfinite(wanted):
            found = f"{value!r} is not a number" if key and equals else "does not have the form KEY=VALUE"
            raise UsageError(f"{shown}: {found}", fix="write for example image_to_caption/map=0.4")
        if key in thresholds:
            raise UsageError(f"{shown}: {key} has a threshold already", fix="give each metric once")
        thresholds[key] = wanted
    for key, wanted in thresholds.items():
        shown = f"{argument('fail_under')} {key}"
        if not possible_metric(key):
            names = "map, mrr, recall_at_1, median_rank, zero_shot/top1 and others, as in report.json"
            raise UsageError(
                f"{shown}: no report has such a metric{nearest_metric(key, metric_keys_between())}",
                fix=f"write for example image_to_caption/map; there are {names}",
            )
        if is_share(key) and wanted > 1:
            as_share = f": write {key}={wanted / 100:g}" if wanted <= 100 else ""
            raise UsageError(
                f"{shown}={wanted:g}: this metric is a share from 0 to 1, so no report reaches {wanted:g}",
                fix=f"give a share{as_share}",
            )
    return thresholds


def check_threshold_keys(thresholds: Mapping[str, float], known: Sequence[str]) -> None:
    """Refuses a metric that reports can have, but not the one of these models and rows.

    Raises:
        SetClipError: exit code 2, with the nearest metric that the report will have.
    """
    for key in thresholds:
        if key not in known:
            raise UsageError(
                f"{argument('fail_under')} {key}: this report will not have such a metric"
                f"{nearest_metric(key, list(known))}",
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
