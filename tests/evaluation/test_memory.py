"""Blocks keep memory flat: the benchmark's own measure of its process, at a size that a full matrix would not fit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "evaluate.py"
ROWS = 24_000  # the full matrix would take 2.1 GiB


def test_peak_memory_stays_far_below_the_full_matrix():
    words = [sys.executable, str(BENCHMARK), "--rows", str(ROWS), "--dim", "16", "--cases", "pairs"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=240)
    assert json.loads(done.stdout)["peak_mib"] < 500
