"""Claim: mteb gives an exported model the numbers of `setclip evaluate`, in retrieval and zero-shot classification."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from small_world import run_ok

from setclip_cli.evaluation.evaluate import evaluate
from setclip_cli.evaluation.options import EvaluateOptions
from setclip_cli.export.export import export_run

CLASSES = ["harbour", "forest", "meadow"]
COUNT = 32  # mteb rounds to five decimals, which hold 1/32
TASKS = """
schema_version = 1
modality = "image"
source = "made up"
templates = ["a photo of a {}"]
"""


@pytest.mark.slow
def test_mteb_and_evaluate_agree(
    tmp_path: Path, tiny_timm: Path, tiny_sentence: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mteb")
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / "cache"))
    for split in ("train", "test"):
        ingest(tmp_path, split)
    classes = "\n".join(f'{name} = "{name}"' for name in CLASSES)
    (tmp_path / "tasks.toml").write_text(f"{TASKS}[classes]\n{classes}\n")
    run = tmp_path / "run"
    (tmp_path / "recipe.toml").write_text(
        f"""
        schema_version = 2
        method = "set-clip-plus"
        projection = {{ dim = 16, pca = 8 }}
        train = {{ steps = 20, batch = 16 }}
        [towers.image]
        backbone = "timm:{tiny.TINY_TIMM}"
        weights = {str(tiny_timm)!r}
        [towers.caption]
        backbone = "sentence-transformers:all-MiniLM-L6-v2"
        weights = {str(tiny_sentence)!r}
        """
    )
    run_ok("align", tmp_path / "recipe.toml", "--data", tmp_path / "data", "--out", run)
    options = EvaluateOptions(relevance="pairs", baselines=(), task_set=str(tmp_path / "tasks.toml"))
    ours = evaluate(run, tmp_path / "data", tmp_path / "report", options=options).metrics
    export_run(run, tmp_path / "model")
    world = {
        "images": [str(path) for path in images_of(tmp_path, "test")],
        "texts": texts_of("test"),
        "labels": [number % 3 for number in range(COUNT)],
        "prompts": [f"a photo of a {name}" for name in CLASSES],
    }
    (tmp_path / "world.json").write_text(json.dumps(world))
    script = Path(__file__).with_name("mteb_tasks.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path / "model", tmp_path / "world.json", tmp_path / "scores.json"],
        env={
            **os.environ,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_OFFLINE": "1",
            "MTEB_CACHE": str(tmp_path / "mteb"),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    theirs = json.loads((tmp_path / "scores.json").read_text())
    for k in (1, 5, 10):
        wanted = ours[f"image_to_caption/recall_at_{k}"]
        assert theirs["LocalRetrieval"][f"recall_at_{k}"] == pytest.approx(wanted, abs=1e-6)
    assert 0 < theirs["LocalRetrieval"]["recall_at_10"] < 1
    assert theirs["LocalZeroShot"]["accuracy"] == pytest.approx(ours["zero_shot/top1"], abs=1e-6)


def images_of(folder: Path, split: str) -> list[Path]:
    return [folder / f"images-{split}" / f"{split}{number:02}.png" for number in range(COUNT)]


def texts_of(split: str) -> list[str]:
    places = ("lake", "road", "hill", "town")
    return [f"a {CLASSES[number % 3]} by a {places[number % 4]}, {number} {split}" for number in range(COUNT)]


def ingest(folder: Path, split: str) -> None:
    """Adds pairs of an image and a caption to the DATASET, as one split."""
    images, texts = images_of(folder, split), texts_of(split)
    images[0].parent.mkdir()
    for number, path in enumerate(images):
        path.write_bytes(tiny.jpeg(number + 100 * (split == "test"), kind="PNG"))
    rows = [{"id": f"{split}{number}", "text": text, "label": CLASSES[number % 3]} for number, text in enumerate(texts)]
    captions, labels, pairs = (folder / f"{split}.{name}" for name in ("jsonl", "labels.csv", "pairs.csv"))
    captions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _write_csv(labels, ["id", "label"], [[path.name, CLASSES[number % 3]] for number, path in enumerate(images)])
    header = ["left_modality", "left_id", "right_modality", "right_id"]
    _write_csv(pairs, header, [["image", path.name, "caption", f"{split}{at}"] for at, path in enumerate(images)])
    data = ("--split", split, "--out", folder / "data")
    run_ok("ingest", images[0].parent, "--modality", "image", "--labels", labels, *data)
    run_ok("ingest", captions, "--modality", "caption", "--pairs", pairs, *data)


def _write_csv(path: Path, header: list[str], rows: list[list[str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
