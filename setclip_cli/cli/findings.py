"""What `setclip doctor` found, check by check."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from setclip_cli.console import text_of_lines


@dataclass(frozen=True)
class Finding:
    """One check.

    Attributes:
        state: ``problem`` if setclip cannot work so, ``missing`` if an optional part is not there.
        subject: What was checked.
        found: What is there.
        fix: The command that repairs it; empty if nothing is wrong.
    """

    state: Literal["ok", "missing", "problem"]
    subject: str
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Findings:
    """What `examine` found, in the order of the checks."""

    findings: list[Finding]

    @property
    def problems(self) -> list[Finding]:
        """What must be repaired before setclip can work; optional parts that are missing do not count."""
        return [finding for finding in self.findings if finding.state == "problem"]

    def as_json(self) -> dict[str, Any]:
        return {"findings": [asdict(finding) for finding in self.findings], "problems": len(self.problems)}

    def summary(self) -> str:
        width = max(len(finding.subject) for finding in self.findings)
        marks = {"ok": "ok     ", "missing": "missing", "problem": "PROBLEM"}
        lines = []
        for finding in self.findings:
            lines.append(f"{marks[finding.state]}  {finding.subject:<{width}}  {finding.found}")
            if finding.fix:
                lines.append(f"         {'':<{width}}  fix: {finding.fix}")
        count = len(self.problems)
        lines.append(f"{count} problem{'s' if count > 1 else ''}, each with its fix above" if count else "no problems")
        return text_of_lines(lines)
