"""How long `setclip view` takes to show 100,000 points: one JSON line.

From the start of the command until a headless Chromium, which draws in software, has all points; on EMBEDDINGS with a
map (`embed --map`) or without one (two principal components). It needs the data of benchmarks/serve.py.

    python benchmarks/serve.py --work /tmp/serve-benchmark
    python benchmarks/view.py --work /tmp/serve-benchmark
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

ROWS = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    given = parser.parse_args()
    os.environ["SETCLIP_CACHE"] = str(given.work / "cache")
    words = ["view", str(given.work / "embeddings"), "--no-browser"]
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "setclip_cli", *words], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    address = next(line for line in process.stderr if line.startswith("ready: ")).split()[1]
    ready_s = time.perf_counter() - started
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"),
                args=["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
            )
            page = browser.new_page()
            opened = time.perf_counter()
            page.goto(address)
            page.get_by_text(f"{ROWS:,} / {ROWS:,} points").first.wait_for(timeout=120_000)
            page_s = time.perf_counter() - opened
            browser.close()
    finally:
        process.terminate()
        process.wait(60)
    found = {
        "rows": ROWS,
        "map": (given.work / "embeddings" / "map.parquet").exists(),
        "command_s": round(ready_s, 1),
        "page_s": round(page_s, 1),
        "load": os.getloadavg()[0],
        "cores": os.cpu_count(),
        "platform": platform.platform(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
