"""How long `setclip label` takes to open its page and to take an answer: one JSON line.

200 suggestions over 10,000 pictures of 256 pixels and 10,000 captions, by the command itself and a headless Chromium.
Features come from tiny random backbones and from the cache: what is measured is all that the page does.

    python benchmarks/label.py --work /tmp/label-benchmark
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import tiny

PICTURE = "Promise.all([...document.images].map((image) => image.decode()))"


def make(work: Path, rows: int) -> None:
    """The DATASET and the recipe, unless they are there."""
    if (work / "data" / "dataset.json").exists():
        return
    (work / "pictures").mkdir(parents=True, exist_ok=True)
    for number in range(rows):
        random = np.random.default_rng(number)
        small = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((256, 256))
        pixels = np.clip(np.asarray(small) + random.normal(0, 8, (256, 256, 1)), 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=85)
        (work / "pictures" / f"{number:05d}.jpg").write_bytes(file.getvalue())
    words = ("field", "river", "harbour", "road", "forest", "roof", "sand", "ship", "bridge", "snow")
    captions = [
        {"id": f"c{number}", "text": f"a {words[number % 10]} beside a {words[number // 10 % 10]}, seen at {number}"}
        for number in range(rows)
    ]
    (work / "captions.jsonl").write_text("\n".join(map(json.dumps, captions)))
    for source, modality in (("captions.jsonl", "caption"), ("pictures", "image")):
        words_of = ["ingest", str(work / source), "--modality", modality, "--out", str(work / "data")]
        subprocess.run([sys.executable, "-m", "setclip_cli", *words_of], check=True, stdout=subprocess.DEVNULL)
    (work / "recipe.toml").write_text(
        f"""
schema_version = 2
method = "cca"
[towers.image]
backbone = "timm:{tiny.TINY_TIMM}"
weights = "{tiny.timm_weights(work)}"
[towers.caption]
backbone = "sentence-transformers:tiny"
weights = "{tiny.sentence_folder(work)}"
"""
    )


def measure(work: Path, page: Page, side: str, count: int) -> dict[str, float]:
    """Seconds to ready and to the first question, milliseconds of each answer."""
    shutil.rmtree(work / "labels", ignore_errors=True)
    words = ["label", work / "data", "--recipe", work / "recipe.toml", "--side", side, "--count", count]
    started = time.perf_counter()
    command = subprocess.Popen(
        [sys.executable, "-m", "setclip_cli", *map(str, words), "--out", str(work / "labels"), "--no-browser"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert command.stderr is not None
        address = next(line.split()[1] for line in command.stderr if line.startswith("ready:"))
        ready = time.perf_counter()
        page.goto(address)
        page.wait_for_selector('body[data-revision="0"]')
        page.evaluate(PICTURE)
        opened = time.perf_counter()
        answers, seen = [], []
        for number in range(1, count + 1):
            asked = time.perf_counter()
            page.keyboard.press(str(1 + number % 9))
            page.wait_for_selector(f'body[data-revision="{number}"]')
            seen.append(1000 * (time.perf_counter() - asked))
            answers.append(float(page.get_attribute("body", "data-answer-ms") or "nan"))
        text = page.locator("#end h2").inner_text()
        assert "last question" in text, text
    finally:
        command.send_signal(signal.SIGINT)
        command.communicate()
    return {
        "ready_s": round(ready - started, 2),
        "opened_s": round(opened - ready, 2),
        "answer_ms_median": statistics.median(answers),
        "answer_ms_p95": sorted(answers)[int(0.95 * len(answers))],
        "answer_ms_worst": max(answers),
        "next_question_ms_median": round(statistics.median(seen), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--count", type=int, default=200)
    options = parser.parse_args()
    os.environ.setdefault("SETCLIP_CACHE", str(options.work / "cache"))
    make(options.work, options.rows)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        found = {}
        for side in ("image", "caption"):
            for turn in ("cold", "cached"):
                page = browser.new_context(viewport={"width": 1200, "height": 800}).new_page()
                page.set_default_timeout(600_000)
                measured = measure(options.work, page, side, options.count)
                if turn == "cached":
                    found[f"{side} items"] = measured
                page.context.close()
        browser.close()
    print(json.dumps({"rows": options.rows, "questions": options.count, "python": platform.python_version(), **found}))


if __name__ == "__main__":
    main()
