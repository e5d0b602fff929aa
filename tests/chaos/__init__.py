"""Programs that try to break setclip: kills, damaged files, random inputs, full disks. `make chaos` runs all of them.

    python -m tests.chaos.kills --count 1000 --seed 0 --minutes 40 --report kills.json

Each ends with one line of JSON: what was tried, what failed, and for each failure the command that repeats it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: attempts are forked, and a second thread only waits
TESTS = Path(__file__).resolve().parents[1]
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))
