"""A run killed at any moment and resumed is the run that nobody killed."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
import traceback
from pathlib import Path

import pytest
from small_world import make_world

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.files.atomic import sha256_file
from setclip_cli.recipe.recipe import load_recipe
from setclip_cli.training.align import align

MOMENTS = 25
FILES = ("metrics.jsonl", "model.safetensors", "initial.safetensors", "config.json", "recipe.toml", "README.md")


@pytest.mark.slow
def test_kill_9_at_random_moments_changes_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run is a forked process, so that 25 of them pay for one start of torch."""
    world = make_world(tmp_path)
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / "cache"))
    straight = tmp_path / "straight"
    started = time.monotonic()
    assert wait(train(world, straight, resume=False)) == 0
    whole = time.monotonic() - started
    draw, killed = random.Random(0), 0
    for moment in itertools.count():
        out = tmp_path / f"run-{moment}"
        process = train(world, out, resume=True)
        time.sleep(draw.uniform(0, whole))
        os.kill(process, signal.SIGKILL)
        status = wait(process)
        if status == -signal.SIGKILL:
            killed += 1
        else:  # it ended first, so the moments are drawn from a shorter time
            assert status == 0
            whole *= 0.9
        assert wait(train(world, out, resume=True)) == 0
        for name in FILES:
            assert sha256_file(straight / name) == sha256_file(out / name), (moment, name)
        if killed == MOMENTS:
            break


def train(world: Path, out: Path, *, resume: bool) -> int:
    """Starts `align` in a process of its own; its id."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        recipe = load_recipe(world / "recipe.toml", ["train.loggers=[]"])
        align(recipe, open_dataset(world / "data"), out, resume=resume)
        status = 0
    except BaseException:
        traceback.print_exc()  # os._exit would take it along
    finally:
        os._exit(status)


def wait(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
