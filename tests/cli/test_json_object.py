"""Claims about --json: one object on stdout and nothing else there, however a command ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from setclip_cli.cli import program
from setclip_cli.cli.app import app
from setclip_cli.errors import ExitCode


def with_json(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that has --json, however deep: its words and itself."""
    if any("--json" in parameter.opts for parameter in command.params):
        yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from with_json(inner, (*words, name))


COMMANDS = dict(with_json(typer.main.get_command(app)))
each_command = pytest.mark.parametrize("words", COMMANDS, ids=" ".join)


def the_one_object(text: str) -> dict[str, Any]:
    assert text.endswith("}\n")
    assert text.count("\n") == 1
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def setclip(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "setclip_cli", *arguments]
    environment = {**os.environ, **settings}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)


def test_every_command_has_json() -> None:
    assert len(COMMANDS) >= 8 + 4 * 3 + 1


@each_command
@pytest.mark.parametrize("wrong", [["--no-such-flag"], ["--json=yes"], ["a", "b", "c", "d", "--no-such=1"]], ids=str)
def test_a_wrong_command_line_gives_one_object(words: tuple[str, ...], wrong: list[str]) -> None:
    done = CliRunner().invoke(app, [*words, "--json", *wrong])
    found = the_one_object(done.stdout)
    assert done.exit_code == found["error"]["exit_code"] == ExitCode.USAGE
    assert found["error"].keys() == {"message", "fix", "exit_code"}
    assert all(found["error"].values())
    assert done.stderr


@each_command
def test_a_bug_gives_one_object_and_exit_code_1(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def buggy(*_: object, **__: object) -> None:
        print("a library says hello")
        raise RuntimeError("of ours")

    monkeypatch.setattr(typer.core.TyperGroup if len(words) == 1 else typer.core.TyperCommand, "make_context", buggy)
    done = CliRunner().invoke(app, [*words, "--json"])
    assert isinstance(done.exception, RuntimeError)  # its traceback goes to stderr, and Python exits with 1
    error = the_one_object(done.stdout)["error"]
    assert (error["message"], error["exit_code"]) == ("RuntimeError: of ours", ExitCode.BUG)
    assert "a library says hello" in done.stderr


@each_command
def test_help_is_an_object_too(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, [*words, "--json", "--help"])
    assert done.exit_code == 0
    assert "--json" in the_one_object(done.stdout)["help"]


@pytest.mark.parametrize("words", [["ingest"], ["align", "quickstart"], ["embed"], ["study", "pairs"], ["search", "x"]])
def test_what_is_not_there_gives_an_error_object(words: list[str], tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere")
    more = {
        "ingest": [missing, "--modality", "image", "--out", str(tmp_path / "out")],
        "search": [missing],
        "embed": [missing, missing, "--out", str(tmp_path / "out")],
    }.get(words[0], ["--data", missing, "--out", str(tmp_path / "out")])
    done = CliRunner().invoke(app, [words[0], *more, *words[1:], "--json"])
    error = the_one_object(done.stdout)["error"]
    assert done.exit_code == error["exit_code"] == ExitCode.DATA
    assert "nowhere" in error["message"]
    assert error["message"] in done.stderr.replace("\n  - ", "")


def test_json_before_the_inner_command_counts(tmp_path: Path) -> None:
    for words in (["recipes", "--json", "show", "quickstart"], ["recipes", "--json", "keys", "seed"]):
        the_one_object(CliRunner().invoke(app, words).stdout)
    target = tmp_path / "mine.toml"
    done = CliRunner().invoke(app, ["studies", "--json", "copy", "pairs", str(target)])
    assert the_one_object(done.stdout)["file"] == str(target)


def test_a_word_after_two_dashes_is_no_flag() -> None:
    done = CliRunner().invoke(app, ["recipes", "show", "--", "--json"])
    assert done.exit_code == ExitCode.USAGE
    assert done.stdout == ""


PRINTS_MUCH = """
import os, subprocess, sys
import setclip_cli.cli.doctor as doctor
from setclip_cli.cli import main
early = sys.stdout
def noisy():
    print("python prints")
    early.write("an early handle prints\\n")
    os.write(1, b"C code prints\\n")
    subprocess.run([sys.executable, "-c", "print('another process prints')"], check=True)
    {end}
doctor.examine = noisy
sys.argv = ["setclip", "doctor", "--json"]
main()
"""


@pytest.mark.parametrize(
    ("end", "code", "message"),
    [
        ("return doctor.Findings([doctor.Finding('ok', 'a', 'b')])", 0, None),
        ("raise KeyboardInterrupt", 130, "interrupted"),
        ("raise OSError('a bug')", 1, "OSError"),
        ("raise OSError(28, 'No space left')", 3, "the disk is full"),
        ("os.kill(os.getpid(), 15); import time; time.sleep(60)", 143, "terminated"),
    ],
)
def test_what_libraries_print_goes_to_stderr(end: str, code: int, message: str | None) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRINTS_MUCH.format(end=end)], capture_output=True, text=True, timeout=60, check=False
    )
    found = the_one_object(done.stdout)
    assert done.returncode == code
    assert (
        (found["error"]["message"].startswith(message), found["error"]["exit_code"]) == (True, code)
        if message
        else (found["problems"] == 0)
    )
    for who in ("python", "an early handle", "C code", "another process"):
        assert f"{who} prints" in done.stderr
    assert ("Traceback" in done.stderr) == (code == 1)


def test_an_interrupt_from_outside_gives_one_object(tmp_path: Path) -> None:
    started = tmp_path / "started"
    code = PRINTS_MUCH.format(end=f"open({str(started)!r}, 'w').close(); import time; time.sleep(60)")
    running = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not started.exists() and running.poll() is None:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    stdout, stderr = running.communicate(timeout=60)
    assert the_one_object(stdout)["error"]["exit_code"] == running.returncode == ExitCode.INTERRUPTED
    assert "Traceback" not in stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("more", [[], ["--json"]], ids=["text", "json"])
def test_a_full_disk_under_stdout_is_an_error_that_helps(more: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "setclip_cli", "recipes", *more]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == ExitCode.DATA
    assert "stdout: cannot be written (No space left on device)" in done.stderr
    assert "Traceback" not in done.stderr


def test_only_the_first_process_of_torchrun_speaks() -> None:
    second = setclip("recipes", "--json", WORLD_SIZE="2", RANK="1")
    first = setclip("recipes", "--json", WORLD_SIZE="2", RANK="0")
    assert (second.stdout, second.returncode) == ("", 0)
    the_one_object(first.stdout)


@pytest.mark.slow
def test_torchrun_gives_one_object_for_an_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "setclip_cli", "align"]
    command += ["quickstart", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "run"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert the_one_object(done.stdout)["error"]["exit_code"] == ExitCode.DATA


@pytest.mark.parametrize("more", [[], ["--json"]], ids=["text", "json"])
def test_another_process_than_the_first_of_a_group_waits_until_it_is_ended(tmp_path: Path, more: list[str]) -> None:
    command = [sys.executable, "-m", "setclip_cli", "align", "quickstart", "--data", str(tmp_path / "none")]
    command += ["--out", str(tmp_path / "run"), *more]
    second = os.environ | {"WORLD_SIZE": "2", "RANK": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=second) as process:
        assert process.stderr is not None
        assert "no such folder" in process.stderr.readline()
        assert process.stderr.readline().startswith("  fix:")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.0)  # torchrun would end the first process now, before that could tell the same
        process.terminate()
        stdout, _ = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (ExitCode.DATA, "")


@pytest.mark.parametrize(("rank", "objects"), [("0", 1), ("1", 0)])
def test_of_a_group_that_is_ended_at_its_start_the_first_process_alone_gives_an_object(
    rank: str, objects: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["setclip", "align", "--json"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    program._tell(143, False)
    assert capsys.readouterr().out.count('"exit_code": 143') == objects
