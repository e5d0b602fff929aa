"""A small part of each chaos program, always the same: `make chaos` runs them at length."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def chaos(program: str, *flags: str, report: Path) -> dict[str, Any]:
    """What a program counts. It runs in a Python of its own: its forks must not come from one that has trained."""
    command = [sys.executable, "-m", f"tests.chaos.{program}", "--minutes", "30", "--report", str(report), *flags]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert report.is_file(), done.stderr
    return dict(json.loads(report.read_text()))


def test_two_thousand_spoiled_inputs(tmp_path: Path) -> None:
    found = chaos("fuzz_readers", "--count", "2000", report=tmp_path / "line.json")
    assert found["inputs"] == 2000
    assert found["failures"] == {}, found["examples"]


@pytest.mark.slow
def test_a_few_kills(tmp_path: Path) -> None:
    found = chaos("kills", "--count", "10", "--only", "ingest", report=tmp_path / "line.json")
    assert found["kills"] >= 10
    assert found["failures"] == {}, found["examples"]


@pytest.mark.slow
def test_a_few_changed_files(tmp_path: Path) -> None:
    found = chaos("mutations", "--count", "25", report=tmp_path / "line.json")
    assert found["mutations"] == 25
    assert found["failures"] == {}, found["examples"]


@pytest.mark.slow
def test_a_few_full_disks(tmp_path: Path) -> None:
    found = chaos("full_disk", "--count", "15", "--only", "ingest fasta", report=tmp_path / "line.json")
    if "skipped" in found:
        pytest.skip(found["skipped"])
    assert found["attempts"] == 15
    assert found["failures"] == {}, found["examples"]
