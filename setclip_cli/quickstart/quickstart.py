"""`setclip quickstart`: ingest, align, embed, evaluate on real satellite imagery, by the functions the commands call.

    OUT/source/      what a user would bring (`quickstart_source`)
    OUT/dataset/     the DATASET
    OUT/runs/        a RUN for each method and seed
    OUT/embeddings/  the test split, embedded by the first RUN
    OUT/report/      the methods beside each other and beside chance

Each step leaves what is there already as it is, so a second run makes nothing again.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from setclip_cli.console import note
from setclip_cli.dataset.dataset import Dataset, open_dataset
from setclip_cli.embedding.embed import embed
from setclip_cli.embedding.options import EmbedOptions
from setclip_cli.errors import SetClipError
from setclip_cli.evaluation.evaluate import evaluate
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions
from setclip_cli.quickstart.source import SPLITS, write_source
from setclip_cli.recipe.presets import Method
from setclip_cli.recipe.recipe import load_recipe
from setclip_cli.training.align import align
from setclip_cli.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

METHODS: tuple[Method, ...] = ("set-clip-plus", "set-clip", "clip")
SEEDS = (0, 1, 2)
BASELINES = ("asif", "cca", "procrustes")  # clip is trained here, for every seed


@dataclass(frozen=True)
class QuickstartResult:
    """What the quickstart made."""

    out: Path
    report: dict[str, Any]  # report.json
    wall_s: float

    def as_json(self) -> dict[str, Any]:
        return {"out": str(self.out), "wall_s": round(self.wall_s, 1), "report": self.report}

    def summary(self) -> str:
        page = self.out / "report" / "report.html"
        return f"{self.report['summary']}\n\ndone in {self.wall_s:.0f} s; open {page}"


def quickstart(out: Path) -> QuickstartResult:
    """Runs the whole chain under ``out``.

    Raises:
        SetClipError: the [demo] packages are missing, or ``out`` holds something else.
    """
    started = time.monotonic()
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / "source").is_dir()):
        raise SetClipError(f"{out}: exists and is no quickstart", fix="choose another --out, or remove it yourself")
    dataset = _dataset(out)
    base = load_recipe("quickstart")
    runs = []
    made = 0
    for method in METHODS:
        for seed in SEEDS:
            recipe = base.with_settings(method=method, seed=seed)
            result = align(recipe, dataset, out / "runs" / f"{method}-{seed}")
            note(f"align    {result.summary()}")
            runs.append(result.run)
            made += not result.reused
    embedded = embed(runs[0], dataset, out / "embeddings", options=EmbedOptions(split="test"))
    note(f"embed    {embedded.summary()}")
    report = None if made + embedded.made else _earlier_report(out / "report")
    if report is None:
        report = evaluate(runs, dataset, out / "report", baselines=BASELINES)
        note(f"evaluate {out / 'report'}: {len(runs)} runs on the test split")
    return QuickstartResult(out, report, time.monotonic() - started)


def _earlier_report(folder: Path) -> dict[str, Any] | None:
    """What this version of setclip has reported of the same RUNs, if it has."""
    path = folder / "report.json"  # written after report.html, so both are there
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found if found["setclip_version"] == __version__ else None


def _dataset(out: Path) -> Dataset:
    """The DATASET of the packaged imagery and of captions from other maps of other places."""
    source, target = out / "source", out / "dataset"
    made = write_source(source)
    images, captions = sum(made["images"].values()), sum(made["captions"].values())
    note(
        f"source   {source}: {images} images, {captions} captions, {made['pairs']} pairs, {len(made['images'])} scenes"
    )
    for split in SPLITS:
        options = IngestOptions(modality="image", labels=source / "labels.csv", split=split)
        ingest(source / "images" / split, target, options)
    options = IngestOptions(modality="caption", pairs=source / "pairs.csv")
    result = ingest(source / "captions.jsonl", target, options)
    note(f"ingest   {result.summary().splitlines()[-1].strip()}")
    return open_dataset(target)
