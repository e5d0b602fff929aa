"""`setclip doctor`: tries what setclip needs, and names for each problem the command that repairs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import typer

from setclip_cli.cli import machine_checks
from setclip_cli.cli.findings import Finding, Findings
from setclip_cli.cli.output import AsJson, show
from setclip_cli.errors import ExitCode, first_line


def doctor(as_json: AsJson = False) -> None:
    """Try what setclip needs on this machine: packages, devices, weights without a network, the cache folder.

    Each problem comes with its fix. The exit code is 3 if there is one.
    """
    findings = examine()
    show(findings, as_json)
    if findings.problems:
        raise typer.Exit(ExitCode.DATA)


def examine() -> Findings:
    """Imports the packages, computes on each device, loads the weights and writes to the cache. Uses no network."""
    return Findings([finding for check in machine_checks.CHECKS for finding in _tried(check)])


def _tried(check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """A check that fails itself is a problem, and the others go on."""
    try:
        return list(check())
    except Exception as error:
        found = f"could not be checked ({type(error).__name__}: {first_line(error)})"
        return [Finding("problem", check.__name__.replace("_", " "), found, "please report this message")]
