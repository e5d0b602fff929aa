"""The Python of the README runs as it is written, on files such as a user has."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def test_the_lines_of_the_readme_align_two_files(tmp_path: Path) -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## From Python")[2].partition("\n## ")[0]
    (program,) = re.findall(r"^```python\n(.+?)^```", section, re.DOTALL | re.MULTILINE)
    assert len([line for line in program.splitlines() if line and not line.startswith("import")]) <= 6
    draw = np.random.default_rng(0)
    hidden, order = draw.normal(size=(300, 6)), draw.permutation(300)
    np.save(tmp_path / "audio.npy", np.tanh(hidden @ draw.normal(size=(6, 40))).astype(np.float16))
    np.save(tmp_path / "text.npy", np.tanh(hidden @ draw.normal(size=(6, 30)))[order].astype(np.float32))
    pairs = np.stack([np.arange(50), np.argsort(order)[:50]], axis=1)
    np.savetxt(tmp_path / "pairs.csv", pairs, fmt="%d", delimiter=",")
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
