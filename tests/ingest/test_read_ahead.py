"""Claims about sources that workers read ahead: the bytes are those of an ingest that reads one after the other."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tiny
from ahead_world import WAYS, Done, contents, fasta, same_bytes, write
from typer.testing import CliRunner

from setclip_cli.cli.app import app
from setclip_cli.errors import ExitCode, SetClipError
from setclip_cli.ingest import read_ahead
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions
from setclip_cli.ingest.read_ahead import SourceRead, SourceToRead, read_source_ahead
from setclip_cli.ingest.read_source import SourceReader


def test_sources_that_share_nothing_are_taken_as_workers_read_them(tmp_path: Path, done: Done) -> None:
    sources = [fasta(tmp_path / f"{n}.fasta", 20 * n, 20, bad=n == 2) for n in range(4)]
    found = same_bytes(sources, tmp_path, modality="protein", split="train=0.7,test=0.3")
    assert len(done.taken) == 4
    assert not [name for name in found if name.startswith(".ingest")]


def test_a_source_that_cannot_be_read_is_refused_as_one_after_the_other(tmp_path: Path, done: Done) -> None:
    sources = [
        fasta(tmp_path / "a.fasta", 0, 9),
        write(tmp_path / "b.fasta", "no fasta\n"),
        fasta(tmp_path / "c.fa", 9, 9),
    ]
    messages = []
    for engine in WAYS:
        with pytest.raises(SetClipError) as caught:
            ingest(sources, tmp_path / engine, IngestOptions(modality="protein", engine=engine))
        messages.append(str(caught.value).replace(str(tmp_path / engine), "OUT"))
        sources[1] = write(sources[1], "no fasta\n")
    assert messages[0] == messages[1]
    sources[1] = fasta(tmp_path / "b.fasta", 30, 5)  # and after it is repaired, both go on
    same_bytes(sources, tmp_path, modality="protein")


def test_sources_that_are_there_are_left_alone_and_a_changed_one_is_read_again(tmp_path: Path, done: Done) -> None:
    sources = [fasta(tmp_path / f"{n}.fasta", 20 * n, 20) for n in range(4)]
    same_bytes(sources[:2], tmp_path, modality="protein")
    same_bytes(sources, tmp_path, modality="protein")
    assert len(done.taken) == 4
    fasta(sources[0], 200, 10)
    more = [*sources, fasta(tmp_path / "4.fasta", 400, 20), fasta(tmp_path / "5.fasta", 400, 30)]
    same_bytes(more, tmp_path, modality="protein")


@pytest.mark.parametrize("journaled", [0, 1, 3])
@pytest.mark.parametrize("damaged", ["protein/*.parquet", "answers.arrow", "left-out.parquet"])
def test_a_stopped_ingest_goes_on_from_what_workers_have_read(
    tmp_path: Path, done: Done, monkeypatch: pytest.MonkeyPatch, damaged: str, journaled: int
) -> None:
    sources = [fasta(tmp_path / f"{n}.fasta", 20 * n, 20, bad=True) for n in range(4)]
    for path in sources:  # each holds a repeat of its own
        path.write_text(path.read_text() + "".join(path.read_text().splitlines(keepends=True)[:2]))
    options = IngestOptions(modality="protein", engine="process")
    ingest(sources, tmp_path / "local", IngestOptions(modality="protein"), shard_rows=7)
    real, left = SourceReader._take_read, journaled

    def stopping(self: SourceReader, *given: Any) -> Any:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        return real(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(SourceReader, "_take_read", stopping)
        with pytest.raises(KeyboardInterrupt):
            ingest(sources, tmp_path / "out", options, shard_rows=7)
    read: list[Path] = []
    real_read = read_ahead._read
    monkeypatch.setattr(read_ahead, "_read", lambda job: read.append(job.path) or real_read(job))
    shard = next((tmp_path / "out/.ingest/ahead").glob(f"*/{damaged}"))  # one that is not taken is damaged
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    ingest(sources, tmp_path / "out", options, shard_rows=7)
    assert contents(tmp_path / "out") == contents(tmp_path / "local")
    assert len(read) == (journaled < 3)  # of one source alone nothing is read ahead


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"modality": "image", "near_duplicates": "drop"}, "compares each image with all before it"),
        ({"modality": "image"}, "there is one"),
    ],
)
def test_what_needs_earlier_rows_is_read_in_turn_and_says_so(
    tmp_path: Path, done: Done, capsys: pytest.CaptureFixture[str], options: dict[str, Any], why: str
) -> None:
    sources = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    for number, path in enumerate(sources):
        path.write_bytes(tiny.jpeg(number))
    same_bytes(sources if "near_duplicates" in options else sources[:1], tmp_path, **options)
    assert why in capsys.readouterr().err
    assert done == Done()


def test_the_command_takes_an_engine_and_refuses_others(tmp_path: Path, done: Done) -> None:
    sources = [str(fasta(tmp_path / f"{n}.fasta", 20 * n, 20)) for n in range(2)]
    given = ["ingest", *sources, "--modality", "protein", "--out", str(tmp_path / "out"), "--json"]
    result = CliRunner().invoke(app, [*given, "--engine", "process", "--workers", "2"])
    assert result.exit_code == 0, result.output
    assert len(done.taken) == 2
    assert CliRunner().invoke(app, [*given, "--engine", "spark"]).exit_code == ExitCode.USAGE


def killed_once(marker: Path) -> Callable[[SourceToRead], tuple[str, SourceRead | None]]:
    """Reads a source; the first worker that has read one is killed before it could say so."""

    def work(job: SourceToRead) -> tuple[str, SourceRead | None]:  # nested, so that it travels by value
        with suppress(FileExistsError):
            marker.touch(exist_ok=False)
            read_source_ahead(job)
            (job.folder / "read.json").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return read_source_ahead(job)

    return work


def end_abruptly(job: SourceToRead) -> tuple[str, SourceRead | None]:
    """As a worker does; the one that has the source ``1.fasta`` is killed in the middle of it."""
    if job.path.name == "1.fasta":
        (job.folder / "protein").mkdir(parents=True)
        (job.folder / "protein/train-00000.parquet").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    return read_source_ahead(job)


@pytest.mark.slow
def test_a_killed_process_costs_its_own_source_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [fasta(tmp_path / f"{n}.fasta", 20 * n, 20) for n in range(4)]
    monkeypatch.setattr(read_ahead, "read_source_ahead", end_abruptly)
    same_bytes(sources, tmp_path, modality="protein")


INGEST = (
    "import sys\n"
    "from setclip_cli.ingest.ingest import ingest\n"
    "from setclip_cli.ingest.options import IngestOptions\n"
    "if __name__ == '__main__':\n"
    "    print('ready', flush=True)\n"
    "    options = IngestOptions(modality='protein', split='train=0.7,test=0.3', engine='process')\n"
    "    ingest(sys.argv[2:], sys.argv[1], options, shard_rows=7)\n"
)


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_bytes_of_an_unbroken_run(tmp_path: Path) -> None:
    sources = [fasta(tmp_path / f"{n}.fasta", 40 * n, 45, bad=True) for n in range(8)]  # each repeats some
    options = IngestOptions(modality="protein", split="train=0.7,test=0.3", engine="process")
    started = time.monotonic()
    ingest(sources, tmp_path / "process", options, shard_rows=7)
    longest_s = time.monotonic() - started
    ingest(sources, tmp_path / "local", IngestOptions(modality="protein", split=options.split), shard_rows=7)
    assert contents(tmp_path / "process") == contents(tmp_path / "local")
    script = write(tmp_path / "run.py", INGEST)
    draw = random.Random(3)
    for moment in range(5):
        out = tmp_path / f"killed-{moment}"
        command = [sys.executable, str(script), str(out), *map(str, sources)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
            assert running.stdout is not None
            running.stdout.readline()
            time.sleep(draw.uniform(0, longest_s))
            running.send_signal(signal.SIGKILL)
        ingest(sources, out, options, shard_rows=7)
        assert contents(out) == contents(tmp_path / "local"), f"moment {moment}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_on_two_nodes_with_a_killed_worker_gives_the_same_bytes(
    cluster: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # relative paths, as a user gives them
    sources = [fasta(Path(f"{n}.fasta"), 20 * n, 22 if n == 3 else 20, bad=True) for n in range(6)]
    ingest(sources, "local", IngestOptions(modality="protein"), shard_rows=7)
    marker = tmp_path / "killed"
    monkeypatch.setattr(read_ahead, "read_source_ahead", killed_once(marker))
    ingest(sources, "ray", IngestOptions(modality="protein", engine="ray"), shard_rows=7)
    assert marker.exists()
    assert contents(Path("ray")) == contents(Path("local"))


def test_ray_that_is_not_installed_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    sources = [fasta(tmp_path / f"{n}.fasta", 20 * n, 20) for n in range(2)]
    with pytest.raises(SetClipError, match="Ray is not installed") as caught:
        ingest(sources, tmp_path / "out", IngestOptions(modality="protein", engine="ray"))
    assert caught.value.exit_code == ExitCode.USAGE
