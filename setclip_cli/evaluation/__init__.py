"""Scoring embeddings against what is known of the rows, and the report of it.

``evaluate`` is imported when it is asked for: the metrics alone need numpy, not torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from setclip_cli.evaluation.evaluator import evaluate

__all__ = ["evaluate"]


def __getattr__(name: str) -> Any:
    if name == "evaluate":
        from setclip_cli.evaluation.evaluator import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
