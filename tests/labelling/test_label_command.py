"""The installed command: a kill in the middle, signals, a second session, and what it prints."""

from __future__ import annotations

import csv
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import label_world
import pytest
import tiny
from label_world import Client
from small_world import invoke, run_ok

from setclip_cli.dataset.dataset import open_dataset

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_timm: Path, tiny_sentence: Path) -> Iterator[Path]:
    """A DATASET and a recipe over tiny backbones."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SETCLIP_CACHE", str(folder / "cache"))
        label_world.make_dataset(folder, pictures=24, captions=30)
        (folder / "recipe.toml").write_text(
            f"""
schema_version = 2
method = "cca"
[towers.image]
backbone = "timm:{tiny.TINY_TIMM}"
weights = "{tiny_timm}"
[towers.caption]
backbone = "sentence-transformers:tiny"
weights = "{tiny_sentence}"
[projection]
pca = 4
"""
        )
        yield folder


@contextmanager
def command(world: Path, out: Path, *more: object) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    """The running command, and a client of its page."""
    words = ["label", world / "data", "--recipe", world / "recipe.toml", "--count", 5, "--out", out, "--no-browser"]
    running = subprocess.Popen(
        [sys.executable, "-m", "setclip_cli", *map(str, [*words, *more])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    told = []
    try:
        assert running.stderr is not None
        for line in running.stderr:
            told.append(line)
            if line.startswith("ready: "):
                break
        else:
            raise AssertionError("".join(told))
        yield running, Client(line.split()[1])
    finally:
        running.kill()
        running.communicate()


def answer(client: Client, place: int = 0) -> tuple[str, str]:
    """Chooses a candidate; returns the ids of the pair."""
    asked = client.get("/api/state")["question"]
    chosen = asked["candidates"][place]
    client.send("/api/answer", answer="partner", row=chosen["row"])
    return asked["item"]["id"], chosen["id"]


def pairs_in(out: Path) -> list[tuple[str, ...]]:
    with (out / "pairs.csv").open(newline="") as file:
        return [tuple(row) for row in csv.reader(file)][1:]


def test_what_was_answered_before_a_kill_is_there_and_the_session_goes_on(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    with command(world, out) as (running, client):
        given = [answer(client), answer(client, 1)]
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
    with (out / "labels.jsonl").open("ab") as journal:
        journal.write(b'{"do":"answer","question":{"kind":"partner","mod')  # an answer that was cut short
    with command(world, out, "--json") as (running, client):
        state = client.get("/api/state")
        assert (state["done"], state["total"]) == (2, 5)
        given += [answer(client), answer(client)]
        running.send_signal(signal.SIGINT)
        stdout, stderr = running.communicate()
        assert running.returncode == 0, stderr
    found = json.loads(stdout)
    assert (found["partners"], found["questions"]) == (4, 5)
    assert "Traceback" not in stderr
    assert pairs_in(out) == given
    recipe, data = world / "recipe.toml", world / "data"
    assert found["commands"] == [
        f"setclip ingest --pairs {out}/pairs.csv --out {data}",
        f"setclip align {recipe} --data {data} --out {out}/run",
    ]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_other_signals_end_it_as_they_end_every_command(world: Path, tmp_path: Path, number: int, code: int) -> None:
    with command(world, tmp_path / "labels") as (running, client):
        answer(client)
        running.send_signal(number)
        _, stderr = running.communicate()
        assert running.returncode == code
        assert "what was finished is kept; the same command goes on" in stderr
        assert "Traceback" not in stderr


def test_a_second_labeller_and_a_port_in_use_are_told_before_anything_is_read(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    with command(world, out):
        code, _, stderr = invoke("label", world / "data", "--out", out, "--no-browser")
        assert code == 3
        assert f"error: {out}: another `setclip label` asks these questions now" in stderr
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, _, stderr = invoke("label", world / "data", "--out", tmp_path / "new", "--port", port, "--no-browser")
        assert code == 2
        assert f"error: --port {port}: another program uses this port" in stderr
        assert "fix: choose another port, or leave --port out to take any free port" in stderr
        assert not (tmp_path / "new").exists()


def test_the_button_takes_the_pairs_and_trains_on_them(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    with command(world, out) as (running, client):
        for place in (0, 1, 2, 1, 0):
            answer(client, place)
        waiting = threading.Event()
        status: dict[str, Any] = client.send("/api/run")
        while status["status"] == "running":
            waiting.wait(0.3)
            status = client.get("/api/run")
        assert status["status"] == "done", status["lines"]
        text = "\n".join(status["lines"])
        assert "5 known pairs" in text
        assert "$ setclip align" in text
        assert client.send("/api/run")["status"] == "done"  # not a second time
        client.send("/api/stop")
        assert running.wait(60) == 0
    assert len(open_dataset(world / "data").pairs()) == 5
    assert (out / "run" / "model.safetensors").exists()
    with command(world, out) as (_, client):  # the next time it trains beside the first RUN
        assert client.get("/api/state")["commands"][1].endswith(f"--out {out}/run-2")


def test_a_dataset_without_the_other_side_says_what_is_missing(world: Path, tmp_path: Path) -> None:
    run_ok("ingest", world / "pictures", "--modality", "image", "--out", tmp_path / "data")
    code, _, stderr = invoke("label", tmp_path / "data", "--out", tmp_path / "labels", "--no-browser")
    assert code == 3
    assert "add the other side: setclip ingest" in stderr
    assert not (tmp_path / "labels").exists()
