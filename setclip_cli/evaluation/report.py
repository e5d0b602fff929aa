"""The report that `evaluate` returns."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from setclip_cli.console import visible
from setclip_cli.errors import ExitCode, SetClipError, argument, translated

if TYPE_CHECKING:
    from pathlib import Path

REPORT_NAME = "report.json"


@dataclass(frozen=True)
class Report:
    """A finished REPORT.

    Attributes:
        out: Its folder, with report.json, report.md and report.html.
        content: The content of report.json.
    """

    out: Path
    content: dict[str, Any]

    @property
    def metrics(self) -> dict[str, float]:
        """Metric key, such as ``image_to_caption/map`` -> mean over the runs of the first method."""
        return {key: metric["mean"] for key, metric in self.content["methods"][0]["metrics"].items()}

    def as_json(self) -> dict[str, Any]:
        return self.content

    def summary(self) -> str:
        return visible(self.content["summary"])

    def check_gates(self) -> None:
        """Compares the first method with `EvaluateOptions.fail_under`.

        Raises:
            SetClipError: exit code 4, with every gate that is not met.
        """
        missed = [gate for gate in self.content["gates"] if not gate["met"]]
        if missed:
            lines = [f"{gate['metric']} is {gate['found']:.4g}, wanted {gate['wanted']:g}" for gate in missed]
            raise SetClipError(
                f"{self.out}: {missed[0]['method']} is worse than wanted: {'; '.join(lines)}",
                fix=f"see {self.out / 'report.html'}, or change {argument('fail_under')}",
                exit_code=ExitCode.GATE,
            )


def read_report(out: Path) -> Report | None:
    """The report in a folder, or None if there is none that is whole."""
    path = out / REPORT_NAME
    if not path.exists():
        return None
    with translated(
        path, ValueError, RecursionError, found="is not valid JSON", fix=f"remove it and evaluate again into {out}"
    ):
        return Report(out, json.loads(path.read_text(encoding="utf-8")))
