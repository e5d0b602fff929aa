"""Time and memory of `setclip align` on pools of vectors that are larger than memory. One JSON line.

    python benchmarks/large_pools.py --rows 5000000 --width 384            # one size
    python benchmarks/large_pools.py --vary rows                           # four sizes, and the exponent of a power law
    python benchmarks/large_pools.py --vary pairs | width

Both sides are noisy views of the same factors, in an order of their own, so that every item has one partner. 2,000
items are a test split. The steps are those of a user: `ingest` of .npy files, `align`, and for one size `evaluate`,
each the command in a process of its own. Memory is the largest resident set of that process, maps included. A first
`align` copies the vectors to the cache, so it is timed apart from the second, of another seed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

FACTORS, NOISE = 60, 8.0
BLOCK = 100_000
TEST = 2_000
SIZES = {
    "rows": (625_000, 1_250_000, 2_500_000, 5_000_000),
    "pairs": (200, 1_000, 5_000, 25_000),
    "width": (96, 192, 384, 768),
}
BASE = {"rows": 1_250_000, "pairs": 200, "width": 384}


def write_side(path: Path, name: str, width: int, seed: int, order: np.ndarray) -> None:
    """A .npy file and beside it a .ids file: row i is item ``order[i]``. Its factors depend on its number alone."""
    rows = len(order)
    view = np.random.default_rng([7, seed]).standard_normal((FACTORS, width)).astype(np.float32)
    about = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
    with path.open("wb") as out, path.with_suffix(".ids").open("w") as ids:
        np.lib.format.write_array_header_1_0(out, about)
        for start in range(0, rows, BLOCK):
            items = order[start : start + BLOCK]
            noise = np.random.default_rng([9, seed, start]).standard_normal((len(items), width), np.float32)
            out.write((factors(items) @ view + NOISE * noise).astype("<f4").tobytes())
            ids.writelines(f"{name}-{item}\n" for item in items)


def factors(items: np.ndarray) -> np.ndarray:
    """(n, FACTORS) float32 of these items: numbers drawn once for each of 2^20 and once for each of the rest."""
    low = np.random.default_rng(1).standard_normal((1 << 12, FACTORS)).astype(np.float32)
    high = np.random.default_rng(2).standard_normal((1 << 12, FACTORS)).astype(np.float32)
    found: np.ndarray = low[items % (1 << 12)] + high[items // (1 << 12)]
    return found * np.linspace(1.5, 0.5, FACTORS, dtype=np.float32)


def run(*command: str, folder: Path) -> dict[str, Any]:
    """Seconds, processor seconds and the largest resident set in MiB of one setclip command."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "setclip_cli", *command],
        stdout=subprocess.DEVNULL,
        env=os.environ | {"SETCLIP_CACHE": str(folder / "cache"), "TQDM_DISABLE": "1"},
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"setclip {' '.join(command)} ended with {process.returncode}")
    return {
        "s": round(time.perf_counter() - started, 1),
        "processor_s": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mib": round(usage.ru_maxrss / 1024),  # this program is small, so it is the command's own
    }


def measure(
    rows: int, pairs: int, width: int, method: str, landmarks: int, folder: Path, *, scored: bool
) -> dict[str, Any]:
    found: dict[str, Any] = {"rows": rows, "pairs": pairs, "width": width, "method": method, "landmarks": landmarks}
    data = folder / "data"
    for seed, name in enumerate(("left", "right")):
        order = np.random.default_rng([3, seed]).permutation(rows)
        for split, items in (("train", order), ("test", np.arange(rows, rows + TEST))):
            path = folder / f"{name}-{split}.npy"
            write_side(path, name, width, seed, items)
            given = [f"{name}={path}", "--kind", "vector", "--ids", str(path.with_suffix(".ids"))]
            took = run("ingest", *given, "--split", split, "--out", str(data), folder=folder)
            if split == "train":
                found[f"ingest_{name}"] = took
            path.unlink()
    known = [*range(pairs), *range(rows, rows + TEST)]
    (folder / "pairs.csv").write_text("left,right\n" + "".join(f"left-{n},right-{n}\n" for n in known))
    run("ingest", "--pairs", str(folder / "pairs.csv"), "--out", str(data), folder=folder)
    own = (f"method={method}", f"pairs={pairs}", f"train.landmarks={landmarks}")
    settings = [word for setting in own for word in ("--set", setting)]
    for number, stage in enumerate(("align_first", "align")):
        run_folder = folder / f"run-{number}"
        given = ["vectors", "--data", str(data), "--out", str(run_folder), *settings, "--set", f"seed={number}"]
        found[stage] = run("align", *given, folder=folder)
    if scored:
        given = ["evaluate", str(folder / "run-1"), str(data), "--out", str(folder / "report"), "--baselines", "none"]
        found["evaluate"] = run(*given, folder=folder)
        report = json.loads((folder / "report" / "report.json").read_text())
        metric = report["methods"][0]["metrics"]["left_to_right/recall_at_10"]
        found["recall_at_10"] = {"of the test split": metric["mean"], "chance": metric["chance"]}
    found["disk_gib"] = round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**30, 1)
    return found


def exponent(sizes: list[int], values: list[float]) -> float:
    """Of the power law through the points, by least squares of logs."""
    return round(float(np.polyfit(np.log(sizes), np.log(values), 1)[0]), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=BASE["rows"])
    parser.add_argument("--pairs", type=int, default=BASE["pairs"])
    parser.add_argument("--width", type=int, default=BASE["width"])
    parser.add_argument("--vary", choices=sorted(SIZES))
    parser.add_argument("--sizes", type=int, nargs="+", help="In place of the four sizes of --vary.")
    parser.add_argument("--method", default="set-clip-plus")
    parser.add_argument("--landmarks", type=int, default=100_000)
    parser.add_argument("--work", type=Path, help="A folder with room: 6 times the vectors.")
    given = parser.parse_args()
    base = {"rows": given.rows, "pairs": given.pairs, "width": given.width}
    sizes = (given.sizes or SIZES[given.vary]) if given.vary else [0]
    measured = []
    for size in sizes:
        folder = Path(tempfile.mkdtemp(dir=given.work, prefix="large-pools-"))
        try:
            measured.append(
                measure(
                    **base | ({given.vary: size} if given.vary else {}),
                    method=given.method,
                    landmarks=given.landmarks,
                    folder=folder,
                    scored=not given.vary,  # it always scores 2,000 rows
                )
            )
            print(json.dumps(measured[-1]), file=sys.stderr)
        finally:
            shutil.rmtree(folder)
    found: dict[str, Any] = {"measured": measured, "cores": os.cpu_count(), "python": platform.python_version()}
    if given.vary and len(sizes) > 1:
        found["exponents"] = {
            f"{stage}_{what}": exponent([*sizes], [one[stage][what] for one in measured])
            for stage in ("align_first", "align")
            for what in ("s", "processor_s", "peak_mib")
        }
    assert all(math.isfinite(value) for value in found.get("exponents", {}).values())
    print(json.dumps(found))


if __name__ == "__main__":
    main()
