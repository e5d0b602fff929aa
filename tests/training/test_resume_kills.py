"""A run killed at any moment and resumed is the run that nobody killed."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
from small_world import make_world

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.files.atomic import sha256_file
from setclip_cli.recipe.recipe import load_recipe
from setclip_cli.training.align import align

MOMENTS = 25
FILES = ("metrics.jsonl", "model.safetensors", "initial.safetensors", "config.json", "recipe.toml", "README.md")
# Runs are forked from one process that has loaded torch and never trained. This process may have: autograd refuses to
# work in a fork of one in which its threads run.
FORKS = multiprocessing.get_context("forkserver")
LOADED = ["setclip_cli.training.align", "setclip_cli.backbones.esm2", "setclip_cli.backbones.sentence"]


@pytest.mark.slow
def test_kill_9_at_random_moments_changes_no_byte(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    FORKS.set_forkserver_preload(LOADED)
    straight = tmp_path / "straight"
    assert finish(train(world, straight, resume=False)) == 0  # it also waits for the process that forks
    started = time.monotonic()
    assert finish(train(world, tmp_path / "timed", resume=False)) == 0
    whole = time.monotonic() - started
    draw, killed = random.Random(0), 0
    for moment in itertools.count():
        out = tmp_path / f"run-{moment}"
        process = train(world, out, resume=True)
        time.sleep(draw.uniform(0, whole))
        process.kill()
        status = finish(process)
        if status == -signal.SIGKILL:
            killed += 1
        else:  # it ended first, so the moments are drawn from a shorter time
            assert status == 0
            whole *= 0.9
        assert finish(train(world, out, resume=True)) == 0
        for name in FILES:
            assert sha256_file(straight / name) == sha256_file(out / name), (moment, name)
        if killed == MOMENTS:
            break


def train(world: Path, out: Path, *, resume: bool) -> ForkServerProcess:
    """Starts `align` in a process of its own."""
    process = FORKS.Process(target=align_here, args=(world, out, resume))
    process.start()
    return process


def align_here(world: Path, out: Path, resume: bool) -> None:
    os.environ["SETCLIP_CACHE"] = str(world / "cache")
    recipe = load_recipe(world / "recipe.toml", ["train.loggers=[]"])
    align(recipe, open_dataset(world / "data"), out, resume=resume)


def finish(process: ForkServerProcess) -> int | None:
    process.join()
    return process.exitcode
