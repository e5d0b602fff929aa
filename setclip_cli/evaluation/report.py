"""The report that `evaluate` returns, and the files of a REPORT."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from setclip_cli.console import note, visible
from setclip_cli.errors import ExitCode, SetClipError, argument
from setclip_cli.files import atomic, hashes
from setclip_cli.files.documents import read_json, signed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

REPORT_NAME = "report.json"
FILES_NAME = "files.json"  # written last: it marks the REPORT as whole; an early version did not write it
ReportFile = Literal["report.html", "report.md", "report.json"]


class ReportFiles(BaseModel):
    """REPORT/files.json: the sha256 of its files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    files: dict[ReportFile, str]


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


def write_files(out: Path, files: Mapping[ReportFile, str]) -> None:
    """Writes the files of a REPORT with their hashes, all or none."""
    listed = ReportFiles(files={name: atomic.sha256_bytes(text.encode()) for name, text in files.items()})
    texts = {out / name: text for name, text in files.items()}
    atomic.write_texts({**texts, out / FILES_NAME: signed(listed.model_dump(mode="json"))})


def read_report(out: Path) -> Report | None:
    """The report in a folder, or None if there is none that is whole; a note names a file that has changed."""
    if not (out / FILES_NAME).exists():
        return None
    try:
        for name, sha256 in read_json(out / FILES_NAME, ReportFiles, fix="").files.items():
            hashes.require_unchanged(out / name, sha256, since="evaluate", listed_in=FILES_NAME, fix="")
        return Report(out, json.loads((out / REPORT_NAME).read_text(encoding="utf-8")))
    except SetClipError as error:
        note(f"note: {error.problem}; the report is made again")
        return None
