"""The Python of the README runs as it is written, on files such as a user has."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_world import run_ok

ROOT = Path(__file__).parents[2]


def section_of(title: str) -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8").partition(f"## {title}\n")[2].partition("\n## ")[0]


def write_files(folder: Path) -> np.ndarray:
    """Vectors of 300 items on either side, and 50 pairs of row numbers."""
    draw = np.random.default_rng(0)
    hidden, order = draw.normal(size=(300, 6)), draw.permutation(300)
    np.save(folder / "audio.npy", np.tanh(hidden @ draw.normal(size=(6, 40))).astype(np.float16))
    np.save(folder / "text.npy", np.tanh(hidden @ draw.normal(size=(6, 30)))[order].astype(np.float32))
    pairs = np.stack([np.arange(50), np.argsort(order)[:50]], axis=1)
    np.savetxt(folder / "pairs.csv", pairs, fmt="%d", delimiter=",", header="left,right", comments="")
    return pairs


def test_the_three_commands_of_the_readme_align_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^    setclip (.+)$", section_of("Vectors that you have already"), re.MULTILINE)
    assert len(commands) == 3
    told = [run_ok(*command.split()) for command in commands]
    assert "50 known pairs" in told[0]
    assert "transport ranks its right row" in told[2]
    report = json.loads((tmp_path / "reports" / "vectors" / "report.json").read_text())
    assert report["excluded"] == {"known pairs that training used": 40}
    assert report["targets"][0]["metrics"]["left_to_right/recall_at_1"]["value"] >= 0.8


@pytest.mark.slow
def test_the_lines_of_the_readme_align_two_files(tmp_path: Path) -> None:
    section = section_of("From Python")
    (program,) = re.findall(r"^```python\n(.+?)^```", section, re.DOTALL | re.MULTILINE)
    assert len([line for line in program.splitlines() if line and not line.startswith("import")]) <= 6
    pairs = write_files(tmp_path)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program + "print(*found)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "transport ranks its text" in done.stdout
    found = np.array(done.stdout.splitlines()[-1].split(), int)
    assert (found == pairs[:5, 1]).sum() >= 4
    assert (tmp_path / "audio_text" / "report" / "report.html").exists()


@pytest.mark.slow
def test_the_arrays_of_the_page_about_python_run(tmp_path: Path) -> None:
    """Alone, without the data that the other examples of the page need."""
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    part = page.partition("## Arrays without a DATASET")[2].partition("## Losses")[0]
    program = "\n".join(re.findall(r"^```python\n(.+?)^```", part, re.DOTALL | re.MULTILINE))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import setclip_cli as setclip\n" + program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "of rows find their partner first" in done.stdout
    assert (tmp_path / "python-out" / "arrays" / "report" / "report.html").exists()
