"""Claims about stopping: each command ends at once, says how it goes on, leaves no process, and does go on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
import tiny
from small_world import make_world, run_ok
from typer.testing import CliRunner

from setclip_cli.cli import received
from setclip_cli.cli.app import app
from setclip_cli.errors import ExitCode, SetClipError
from setclip_cli.files.lock import exclusive
from setclip_cli.training.align import align
from setclip_cli.training.training import Training

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SETCLIP_CACHE", "")  # make_world sets it
        yield make_world(tmp_path_factory.mktemp("world"))


class Running:
    """A command in a process group of its own, as a terminal starts it."""

    def __init__(self, *arguments: object, flags: tuple[str, ...] = (), environment: dict[str, str] | None = None):
        self.process = subprocess.Popen(
            [sys.executable, *flags, "-m", "setclip_cli", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
            # SIGINT is ignored in what a shell starts in the background, and would be ignored in a child too
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
        )

    def wait_for(self, seen: Callable[[], object]) -> None:
        while not seen():
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.005)

    def wait_for_line(self, words: str) -> str:
        """Reads stderr up to a line that holds these words."""
        assert self.process.stderr is not None
        read = ""
        for line in self.process.stderr:
            read += line
            if words in line:
                return read
        raise AssertionError(read)

    def workers(self) -> list[int]:
        """Children that multiprocessing has started to work, and that are still there."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if any("spawn_main" in word for word in child.cmdline()):
                    found.append(child.pid)
        return found

    def send(self, number: int, *, group: bool = False) -> None:
        os.killpg(self.process.pid, number) if group else self.process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        stdout, stderr = self.process.communicate(timeout=120)
        return self.process.returncode, stdout, stderr

    def group_is_gone(self) -> bool:
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return True
        return False


def tree(root: Path) -> dict[str, bytes]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and path.name != ".lock")
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


@pytest.mark.slow
@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
@pytest.mark.parametrize("imported", ["typer", "pyarrow", "torch"])
def test_a_signal_during_the_imports_is_one_line(
    world: Path, tmp_path: Path, imported: str, number: signal.Signals
) -> None:
    arguments = ("align", world / "recipe.toml", "--data", world / "data", "--out", tmp_path / "run")
    running = Running(*arguments, flags=("-X", "importtime"))
    running.wait_for_line(f" {imported}.")
    running.send(number)
    code, stdout, stderr = running.end()
    assert (code, stdout) == (CODES[number], "")
    happened = {130: "interrupted", 143: "terminated", 129: "the terminal was closed"}[code]
    assert [line for line in stderr.splitlines() if not line.startswith("import time:")] == [
        f"{happened}; what was finished is kept; the same command with --resume goes on from the last checkpoint"
    ]


def test_a_signal_during_the_imports_gives_one_object_too(world: Path, tmp_path: Path) -> None:
    arguments = ("embed", tmp_path, world / "data", "--out", tmp_path / "out", "--json")
    running = Running(*arguments, flags=("-X", "importtime"))
    running.wait_for_line(" typer.")
    running.send(signal.SIGTERM)
    code, stdout, _ = running.end()
    assert json.loads(stdout)["error"] == {
        "message": "terminated; what was finished is kept",
        "fix": "the same command goes on",
        "exit_code": code,
    }


@pytest.mark.slow
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_second_signal_ends_a_training_at_once_and_it_resumes_bit_for_bit(
    world: Path, tmp_path: Path, first: signal.Signals
) -> None:
    command = ("align", world / "recipe.toml", "--data", world / "data", "--set", "train.steps=300", "--out")
    running = Running(*command, tmp_path / "run")
    running.wait_for(lambda: list((tmp_path / "run" / "checkpoints").glob("step-*")))
    running.send(first)
    stderr = running.wait_for_line("stopping after this step")
    running.send(signal.SIGINT)
    code, _, more = running.end()
    assert code in (CODES[first], 130), stderr + more
    assert "Traceback" not in stderr + more
    assert "--resume goes on" in more or code == 130  # at once is without a word
    run_ok(*command, tmp_path / "run", "--resume")
    run_ok(*command, tmp_path / "straight")
    for name in ("metrics.jsonl", "model.safetensors", "config.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes(), name


def test_what_a_second_signal_stops_within_a_step_is_not_saved(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Training.advance

    def advance(self: Training) -> dict[str, float]:
        record = real(self)
        if self.taken == 15:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return record

    monkeypatch.setattr(Training, "advance", advance)
    with pytest.raises(KeyboardInterrupt):
        align(world / "recipe.toml", world / "data", tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000010.safetensors"]


@pytest.mark.slow
@pytest.mark.parametrize("sent", ["Ctrl-C in a terminal", "SIGTERM", "SIGKILL"])
def test_workers_end_with_their_command_and_embedding_goes_on(world: Path, tmp_path: Path, sent: str) -> None:
    data = tiny.write_dataset(tmp_path / "data", {"protein": tiny.proteins(120, longest=300)}, rows_per_shard=2)
    weights = next((world / "esm").glob("*.pt"))
    command = ("embed", "--backbone", "esm:esm2_t6_8M_UR50D", "--weights", weights, data, "--out")
    out = tmp_path / "out"
    running = Running(*command, out, "--workers", 2)
    running.wait_for(lambda: list((out / ".finished").glob("*/*.json")))
    number = {"SIGTERM": signal.SIGTERM, "SIGKILL": signal.SIGKILL}.get(sent, signal.SIGINT)
    running.send(number, group=sent.startswith("Ctrl-C"))
    code, stdout, stderr = running.end()
    assert (code, stdout) == (CODES.get(number, -9), "")
    assert "Traceback" not in stderr
    if number != signal.SIGKILL:
        assert stderr.splitlines()[-1].endswith("what was finished is kept; the same command goes on")
    while not running.group_is_gone():  # after SIGKILL the workers notice it themselves
        time.sleep(0.01)
    finished = {path.stem for path in (out / ".finished").rglob("*.json")}
    made = int(re.findall(r"(\d+) shards made", run_ok(*command, out, "--workers", 1))[0])
    assert made <= 60 - len(finished)
    run_ok(*command, tmp_path / "straight")
    assert tree(out) == tree(tmp_path / "straight")


class Stalling(BaseHTTPRequestHandler):
    """Sends a part of a file, then nothing more."""

    ended = threading.Event()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        self.wfile.write(bytes(100_000))
        self.wfile.flush()
        Stalling.ended.wait()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_download_that_has_stalled_ends_at_once_and_keeps_what_came(tmp_path: Path, number: signal.Signals) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Stalling) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/a.fasta"
        (tmp_path / "m.toml").write_text(MANIFEST.format(url=url, sha256=hashlib.sha256(bytes(1_000_000)).hexdigest()))
        environment = {"SETCLIP_CACHE": str(tmp_path / "cache"), "no_proxy": "127.0.0.1"}
        running = Running("ingest", tmp_path / "m.toml", "--out", tmp_path / "data", environment=environment)
        part = tmp_path / "cache" / "downloads" / "m" / "a.fasta.part"
        running.wait_for(lambda: part.exists() and part.stat().st_size >= 65_536)
        running.send(number)
        code, _, stderr = running.end()
        Stalling.ended.set()
        server.shutdown()
    Stalling.ended.clear()
    assert (code, "Traceback" in stderr) == (CODES[number], False), stderr
    assert stderr.splitlines()[-1].endswith("the same command goes on")
    assert part.exists()


MANIFEST = """
schema_version = 1
title = "Stalling"
homepage = "https://example.org"
paper = "none"
licence = "CC0-1.0"
[[files]]
name = "a.fasta"
bytes = 1000000
sha256 = "{sha256}"
urls = ["{url}"]
[[parts]]
file = "a.fasta"
modality = "protein"
"""


@pytest.mark.slow
def test_a_killed_worker_costs_its_own_run_and_a_rerun_does_only_that(world: Path, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(
        f'schema_version = 1\ntitle = "t"\nrecipe = "{world / "recipe.toml"}"\nseeds = 4\nsplit = "train"\n'
        'relevance = "pairs"\nmetrics = ["protein_to_caption/map"]\n[axes]\nmethod = ["clip"]\n'
    )
    out = tmp_path / "out"
    command = ("study", tmp_path / "study.toml", "--data", world / "data", "--out", out, "--jobs", 2)
    running = Running(*command)
    running.wait_for(running.workers)
    os.kill(running.workers()[0], signal.SIGKILL)  # it has a run as soon as it is there
    code, _, stderr = running.end()
    assert (code, "Traceback" in stderr) == (1, False), stderr
    [lost] = re.findall(r"^(\S+): its process was killed", stderr, re.MULTILINE)
    assert f"1 of 4 runs failed, first {lost}: its process was killed" in stderr
    assert {path.stem for path in (out / "scores").iterdir()} == {path.name for path in (out / "runs").iterdir()} - {
        lost
    }
    assert len(list((out / "scores").iterdir())) == 3
    assert "(1 failed)" in (out / "study.md").read_text()
    assert "1 runs trained, 3 found finished" in run_ok(*command)


@pytest.mark.parametrize("arguments", [["recipes"], ["recipes", "show", "quickstart"], ["recipes", "keys"], ["--help"]])
def test_a_reader_that_goes_away_gets_no_traceback(arguments: list[str]) -> None:
    running = Running(*arguments)
    assert running.process.stdout is not None
    running.process.stdout.close()
    assert running.process.stderr is not None
    with running.process.stderr as stream:
        stderr = stream.read()
    assert ("Traceback" in stderr, "Exception ignored" in stderr) == (False, False), stderr
    running.process.wait()


def test_notes_that_nobody_reads_do_not_stop_the_work(world: Path, tmp_path: Path) -> None:
    running = Running("align", world / "recipe.toml", "--data", world / "data", "--out", tmp_path / "run")
    assert running.process.stderr is not None
    running.process.stderr.close()
    assert running.process.stdout is not None
    with running.process.stdout as stream:
        assert stream.read()
    assert running.process.wait() == 0
    assert (tmp_path / "run" / "config.json").exists()


FOLDERS = {
    "ingest": lambda world, out: ("ingest", world / "proteins.fasta", "--modality", "protein", "--out", out),
    "ingest with croissant": lambda world, out: (
        *("ingest", world / "proteins.fasta", "--modality", "protein", "--croissant", "--out", out),
    ),
    "align": lambda world, out: ("align", world / "recipe.toml", "--data", world / "data", "--out", out),
    "embed": lambda world, out: (
        *("embed", "--backbone", "esm:esm2_t6_8M_UR50D", "--weights", next((world / "esm").glob("*.pt"))),
        *(world / "data", "--out", out),
    ),
    "evaluate": lambda world, out: (
        *("evaluate", world / "run", world / "data", "--split", "train", "--relevance", "pairs", "--out", out),
    ),
    "study": lambda world, out: ("study", world / "study.toml", "--data", world / "data", "--out", out),
    "quickstart": lambda world, out: ("quickstart", "--out", out),
}


@pytest.mark.parametrize("command", FOLDERS)
def test_a_second_command_in_a_folder_is_refused_and_changes_nothing(world: Path, tmp_path: Path, command: str) -> None:
    if not (world / "run").exists():
        run_ok("align", world / "recipe.toml", "--data", world / "data", "--out", world / "run")
        (world / "study.toml").write_text(
            'schema_version = 1\ntitle = "t"\nrecipe = "recipe.toml"\nseeds = 1\nsplit = "train"\n'
            'relevance = "pairs"\nmetrics = ["protein_to_caption/map"]\n[axes]\nmethod = ["clip"]\n'
        )
    with exclusive(tmp_path / "out"):
        done = CliRunner().invoke(app, [str(word) for word in FOLDERS[command](world, tmp_path / "out")])
        assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
    assert done.exit_code == ExitCode.DATA, done.output
    assert f"{tmp_path / 'out'}: another setclip process is writing here" in done.stderr


def test_an_error_that_a_library_makes_of_a_signal_is_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        received.signal_number = signal.SIGTERM  # as `program` does; the library then says something of its own
        raise SetClipError("model.safetensors: cannot be read", fix="train again")

    monkeypatch.setattr(received, "signal_number", 0)
    monkeypatch.setattr("setclip_cli.verify.verify.verify", interrupted)
    result = CliRunner().invoke(app, ["verify", "here"])
    assert result.exit_code == 143
    assert "cannot be read" not in result.stderr
