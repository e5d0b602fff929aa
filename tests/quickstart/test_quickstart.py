"""The main job on real data, as a user runs it. Minutes, so all of it is slow."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MAP = "image_to_caption/map"

pytestmark = pytest.mark.slow


def run_quickstart(out: Path, cache: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "setclip_cli", "quickstart", "--out", str(out), "--json"],
        env={**os.environ, "SETCLIP_CACHE": str(cache), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, "a newcomer sees this first"
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """OUT, the cache of features, and what the command printed."""
    root = tmp_path_factory.mktemp("quickstart")
    return root / "out", root / "cache", run_quickstart(root / "out", root / "cache")


def test_it_shows_what_unpaired_rows_are_worth(made: tuple[Path, Path, dict[str, Any]]) -> None:
    methods = {method["name"]: method["metrics"] for method in made[2]["report"]["methods"]}
    runs = {method["name"]: method["runs"] for method in made[2]["report"]["methods"]}
    clip = methods["clip"][MAP]["mean"]
    for name in ("set-clip-plus", "set-clip"):
        top1 = methods[name]["zero_shot/top1"]
        assert methods[name][MAP]["mean"] > clip, name
        assert top1["mean"] >= 2.5 * top1["chance"], name
        assert runs[name] == [f"{name}-{seed}" for seed in range(3)]


def test_everything_the_commands_write_is_there(made: tuple[Path, Path, dict[str, Any]]) -> None:
    out = made[0]
    assert (out / "dataset" / "dataset.json").exists()
    for method in ("set-clip-plus", "set-clip", "clip"):
        for seed in range(3):
            run = out / "runs" / f"{method}-{seed}"
            assert {"recipe.toml", "config.json", "model.safetensors", "metrics.jsonl", "README.md"} <= {
                path.name for path in run.iterdir()
            }
    assert (out / "embeddings" / "embeddings.json").exists()
    page = (out / "report" / "report.html").read_text(encoding="utf-8")
    assert "set-clip-plus" in page
    assert "data:image" in page  # the retrieved examples, in the page itself


def test_a_second_run_reuses_what_is_there(made: tuple[Path, Path, dict[str, Any]]) -> None:
    out, cache, first = made
    kept = {
        path: path.stat().st_mtime_ns
        for part in ("source", "dataset", "runs", "embeddings")
        for path in (out / part).rglob("*.*")
        if path.is_file()
    }
    second = run_quickstart(out, cache)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert second["report"]["methods"] == first["report"]["methods"]


def test_the_same_seed_gives_the_same_bytes(made: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> None:
    """From the images on: with a cache of its own, so that the features are made again too."""
    out = made[0]
    first, again, embeddings = out / "runs" / "set-clip-plus-0", tmp_path / "run", tmp_path / "embeddings"
    for arguments in (
        ["align", str(first / "recipe.toml"), "--data", str(out / "dataset"), "--out", str(again)],
        ["embed", str(again), str(out / "dataset"), "--split", "test", "--out", str(embeddings)],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "setclip_cli", *arguments],
            env={**os.environ, "SETCLIP_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert (again / "metrics.jsonl").read_bytes() == (first / "metrics.jsonl").read_bytes()
    assert (again / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()
    for shard in (out / "embeddings").rglob("*.parquet"):
        assert shard.read_bytes() == (embeddings / shard.relative_to(out / "embeddings")).read_bytes()


def test_two_data_sets_that_were_never_collected_together_align(shared_data: Path, tmp_path: Path) -> None:
    """RSSCN7 images, RSICD captions, 3 pairs a class: the study before the start saw 1.5 times pairs-only CLIP."""
    benchmark = runpy.run_path(str(ROOT / "benchmarks" / "rsscn7_rsicd.py"))
    found = benchmark["compare"](shared_data, tmp_path, ["set-clip-plus", "clip"], seeds=3)
    assert found["set-clip-plus"][MAP] >= 1.3 * found["clip"][MAP]


def test_the_examples_of_the_python_page_run_on_its_data(made: tuple[Path, Path, dict[str, Any]]) -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    program = "\n".join(re.findall(r"^```python\n(.+?)^```", page, re.DOTALL | re.MULTILINE))
    work = made[0].parent
    (work / "quickstart-out").symlink_to(made[0])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=work,
        env={**os.environ, "SETCLIP_CACHE": str(made[1]), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (work / "python-out" / "report" / "report.html").exists()
    assert "name rows that are not there" in done.stdout
