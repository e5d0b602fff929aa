"""Claims about training on several processes: the gradient, the steps and the files of a single one."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_world import make_world

from setclip_cli.training.distributed import Group

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("rows", [0, 1, 2, 7, 64])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_the_shares_of_all_ranks_are_the_batch(rows: int, world: int) -> None:
    shares = [Group(rank, world).share(rows) for rank in range(world)]
    assert [row for share in shares for row in range(rows)[share]] == list(range(rows))
    sizes = [share.stop - share.start for share in shares]
    assert max(sizes) - min(sizes) <= 1


SCRIPT = """
import json, sys, torch
sys.path.insert(0, {tests!r})
from pathlib import Path
from setclip_cli.training.distributed import launched
from setclip_cli.recipe.recipe import load_recipe
from setclip_cli.training.tower import Pool
from setclip_cli.training.build import build_training
from tiny import pools

with launched() as group:
    left, right, pairs = pools()
    found = {{}}
    for method in ("set-clip-plus", "set-clip", "set-clip-published", "clip"):
        recipe = load_recipe(Path({recipe!r}), [f"method={{method}}"])
        training = build_training(recipe, Pool(left), Pool(right), pairs, group=group)
        training.advance()
        found[method] = {{
            name: value.grad.flatten().tolist()
            for name, value in training.updater.weights.items()
            if value.grad is not None
        }}
        found[method + "/records"] = [training.advance() for _ in range(5)]
    if group.main:
        print(json.dumps(found))
"""


@pytest.mark.slow
def test_two_processes_take_the_gradient_of_one_for_every_term(tmp_path: Path) -> None:
    """Odd batch sizes, so that shares differ; pairs fewer than a share; second views included."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        """
        schema_version = 2
        method = "set-clip-plus"
        towers.image.backbone = "timm:tf_efficientnet_lite0"
        towers.caption.backbone = "sentence-transformers:all-MiniLM-L6-v2"
        projection = { dim = 16, pca = 8 }
        train = { steps = 12, batch = 21, pairs_per_batch = 5 }
        objective.teacher = { weight = 1.0, end_step = 6 }
        """
    )
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(TESTS), recipe=str(recipe)))
    one = json.loads(launch(1, str(script)).splitlines()[-1])
    two = json.loads(launch(2, str(script)).splitlines()[-1])
    assert one.keys() == two.keys()
    for method in ("set-clip-plus", "set-clip", "set-clip-published", "clip"):
        assert one[method].keys() == two[method].keys()
        for name, gradient in one[method].items():
            torch.testing.assert_close(torch.tensor(two[method][name]), torch.tensor(gradient), rtol=1e-4, atol=1e-5)
        for alone, together in zip(one[f"{method}/records"], two[f"{method}/records"], strict=True):
            assert together == pytest.approx(alone, rel=1e-2, abs=1e-3)


@pytest.mark.slow
def test_two_processes_print_one_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / "cache"))
    world = make_world(tmp_path)
    words = ("-m", "setclip_cli", "align", str(world / "recipe.toml"), "--data", str(world / "data"), "--out")
    [line] = launch(2, *words, str(tmp_path / "run"), "--set", "train.steps=3", "--json").splitlines()
    assert json.loads(line)["steps"] == 3
    [line] = launch(2, *words, str(tmp_path / "run"), "--set", "train.steps=3").splitlines()
    assert "finished earlier" in line


def launch(processes: int, *command: str) -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", f"--master-port={port}"]
    done = subprocess.run([*torchrun, *command], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


THREADS = """
import sys, torch
from contextlib import suppress
from pathlib import Path
from setclip_cli.training.distributed import launched
from torch import distributed as dist

def threads():
    names = []
    for path in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):  # a thread may end before its name is read
            names.append(path.read_text())
    return sum("gloo" in name for name in names)

try:
    with launched() as group:
        weight = torch.ones(3, requires_grad=True)
        weight.sum().backward()
        torch.optim.AdamW([weight]).step()
        group.sum_gradients([weight])
        inside = threads()
        if sys.argv[1] == "fails":
            dist.all_gather([torch.empty(3)], weight.grad)
except RuntimeError as error:
    kept = error  # as the interpreter keeps an error that ends the process
assert inside and not threads(), (inside, threads())
assert (sys.argv[1] == "fails") == ("kept" in globals())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs the list of a process's threads")
@pytest.mark.parametrize("way", ["ends", "fails"])
def test_no_thread_of_the_group_is_left_when_python_ends(tmp_path: Path, way: str) -> None:
    """Such a thread may abort the process: "terminate called without an active exception"."""
    script = tmp_path / "script.py"
    script.write_text(THREADS)
    launch(2, str(script), way)


VOTES = """
import torch
from setclip_cli.training.distributed import launched

with launched() as group:
    votes = [group.all_of(own, torch.device("cpu")) for own in (True, group.main, not group.main, False)]
assert votes == [True, False, False, False], votes
"""


@pytest.mark.slow
def test_what_holds_on_one_process_only_does_not_hold_on_all(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(VOTES)
    launch(2, str(script))


@pytest.mark.slow
def test_the_command_trains_on_two_processes_and_one_writes(tmp_path: Path) -> None:
    from small_world import make_world

    world = make_world(tmp_path)
    arguments = [str(world / "recipe.toml"), "--data", str(world / "data"), "--set", "train.batch=15"]
    launch(2, "-m", "setclip_cli", "align", *arguments, "--out", str(tmp_path / "two"))
    launch(1, "-m", "setclip_cli", "align", *arguments, "--out", str(tmp_path / "one"))
    records = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert len(records[0]) == len(records[1]) == 60
    for alone, together in zip(records[0][:5], records[1][:5], strict=True):
        assert together == pytest.approx(alone, rel=1e-2, abs=1e-3)
    assert (tmp_path / "two" / "config.json").exists()
