"""Metric keys and values as a reader expects them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_IN_PERCENT = (
    "recall",
    "top",
    "precision",
    "mean_recall",
    "mean_per_class",
    "coverage",
    "set_share",
)  # how their names start
_SPELLED = {"map": "mAP", "mrr": "MRR", "ndcg": "nDCG", "sdd": "SDD", "mmd": "MMD²", "cka": "CKA", "top1": "top-1",
            "top5": "top-5", "ece": "expected calibration error"}  # fmt: skip


def format_metric(value: float | None, key: str, *, signed: bool = False) -> str:
    """The value of a metric: shares in percent, ranks with one decimal, the rest with three decimals."""
    if value is None:
        return "–"
    name = key.rpartition("/")[2]
    form = ".1%" if name.startswith(_IN_PERCENT) else ",.1f" if name.endswith("_rank") else ".3f"
    return format(value, f"+{form}" if signed else form).replace("-", "−")


def format_interval(interval: Sequence[float], key: str) -> str:
    """A short interval: ``62.5–87.5%``, ``0.585–0.694``; ``−0.1 to 0.2`` if a number is negative."""
    low, high = (format_metric(value, key) for value in interval)
    if "−" in low or "−" in high:
        return f"{low} to {high}"
    return f"{low.removesuffix('%')}–{high}"


def format_spread(metric: Mapping[str, Any], key: str) -> str:
    """Mean ± standard deviation over seeds; the mean alone if there is one seed."""
    spread = f" ± {format_metric(metric['sd'], key)}" if metric["sd"] is not None else ""
    return f"{format_metric(metric['mean'], key)}{spread}"


def metric_title(key: str) -> str:
    """``image_to_caption/recall_at_5`` -> ``image → caption, recall at 5``."""
    part, _, name = key.partition("/")
    words = " ".join(_SPELLED.get(word, word) for word in name.split("_"))
    where = part.replace("_to_", " → ").replace("_", "-")
    return f"{where}, {words}"
