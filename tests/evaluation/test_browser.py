"""The report in a real browser: headless Chromium, when the machine has one."""

from __future__ import annotations

import html
import json
import re
import subprocess
from pathlib import Path

import pytest
from browser_world import chromium_path

from evaluation import worlds
from setclip_cli.evaluation.evaluate import evaluate

# Run in a copy of the page, which itself has no script: what a reader's browser made of it.
PROBE = """<script>addEventListener("load", () => {
  const root = document.documentElement;
  const wide = [...document.querySelectorAll("body *")].filter((element) =>
    element.getBoundingClientRect().right > innerWidth + 0.5 && !element.closest(".scroll"));
  parent.postMessage(JSON.stringify({
    window: innerWidth,
    scroll: root.scrollWidth,
    wide: wide.slice(0, 5).map((element) => element.outerHTML.slice(0, 80)),
    images: document.images.length,
    broken: [...document.images].filter((image) => !image.naturalWidth).length,
    requests: performance.getEntriesByType("resource").map((entry) => entry.name)
      .filter((name) => !name.startsWith("data:")),
    ink: getComputedStyle(document.body).color,
    drawings: [...document.querySelectorAll("figure svg")].map((svg) => svg.getBoundingClientRect().height),
  }), "*");
});</script>"""
# A window cannot be as narrow as a phone, a frame can; the page in it sees the frame's width.
FRAME = """<!doctype html><script>addEventListener("message", (event) => {
  document.documentElement.dataset.found = event.data;
});</script><iframe src="probed.html" width="%d" height="900" style="border:0"></iframe>"""


@pytest.fixture(scope="module")
def browser() -> str:
    return chromium_path()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("page")
    data = worlds.dataset(root / "data")
    targets = [
        worlds.embeddings(root / name, data, noise=noise, seed=seed, method=name)
        for seed, (name, noise) in enumerate([("set-clip-plus", 0.4), ("set-clip", 0.7), ("procrustes", 1.2)])
    ]
    evaluate(targets, data, root / "report")
    return root / "report" / "report.html"


def look(browser: str, page: Path, folder: Path, *, width: int, dark: bool = False) -> dict:
    probed = folder / "probed.html"
    probed.write_text(page.read_text().replace("</head>", PROBE + "</head>"))
    frame = folder / "frame.html"
    frame.write_text(FRAME % width)
    words = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        f"--user-data-dir={folder}/profile", "--window-size=1400,900",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        "--virtual-time-budget=5000", "--dump-dom", frame.as_uri(),
    ]  # fmt: skip
    dom = subprocess.run(words, capture_output=True, text=True, timeout=90, check=True).stdout
    found = re.search(r'data-found="([^"]*)"', dom)
    assert found, "the page did not load"
    return json.loads(html.unescape(found[1]))


@pytest.mark.parametrize("width", [380, 1200])
def test_the_page_fits_its_window_and_asks_for_nothing(browser, page, tmp_path, width):
    found = look(browser, page, tmp_path, width=width)
    assert found["window"] == width
    assert (found["scroll"], found["wide"]) == (width, [])
    assert found["requests"] == []
    assert found["images"] > 20
    assert found["broken"] == 0
    assert len(found["drawings"]) >= 4
    assert min(found["drawings"]) > 150


def test_dark_readers_get_light_ink(browser, page, tmp_path):
    assert look(browser, page, tmp_path, width=800, dark=True)["ink"] == "rgb(231, 232, 230)"
    assert look(browser, page, tmp_path, width=800)["ink"] == "rgb(29, 33, 39)"


def test_the_page_itself_has_no_script(page):
    assert "<script" not in page.read_text()
