"""Runs `setclip` in processes of its own: forked from this one, which has imported everything, or as a new program.

This process must never train and never read Parquet: a fork of a process with threads may hang.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import importlib
import multiprocessing.util
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PRELOADED = (
    "setclip_cli.cli.app",
    "setclip_cli.training.align",
    "setclip_cli.training.dry_run",
    "setclip_cli.embedding.embed",
    "setclip_cli.embedding.search",
    "setclip_cli.evaluation.evaluate",
    "setclip_cli.study.run",
    "setclip_cli.quickstart.quickstart",
    "setclip_cli.ingest.ingest",
    "setclip_cli.ingest.manifest",
    "setclip_cli.ingest.sources.archive",
    "setclip_cli.ingest.sources.caption",
    "setclip_cli.ingest.sources.image",
    "setclip_cli.ingest.sources.image_table",
    "setclip_cli.ingest.sources.uniprot",
    "setclip_cli.dataset.verify",
    "setclip_cli.backbones.esm2",
    "setclip_cli.backbones.sentence",
    "setclip_cli.backbones.timm_image",
    "sentence_transformers",
    "matplotlib.figure",
    "tensorboard",
    "torch.utils.tensorboard",
)
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: orphans of a killed command come to this process


def preload() -> None:
    """Imports what commands need, so that a fork starts in milliseconds."""
    for name in PRELOADED:
        with suppress(ImportError):
            importlib.import_module(name)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


@dataclass
class Points:
    """Counts the moments around `os.replace`, `os.fsync` and `os.unlink`; sends this process a signal at one of them.

    Attributes:
        at: Number of the moment, from 0; each call has one before it and one after it. None: only count.
        sent: The signal.
        log: A file for the count, and for each file that is renamed: its target and its sha256.
    """

    at: int | None = None
    sent: int = signal.SIGKILL
    log: Path | None = None
    count: int = 0
    renamed: list[str] = field(default_factory=list)

    def install(self) -> None:
        for name in ("replace", "fsync", "unlink", "rename"):
            setattr(os, name, self._around(getattr(os, name), keep=name in ("replace", "rename")))

    def _around(self, call: Callable[..., Any], *, keep: bool) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            self._moment()
            if keep and self.log is not None and Path(arguments[0]).is_file():
                self.renamed.append(f"{hashlib.sha256(Path(arguments[0]).read_bytes()).hexdigest()} {arguments[1]}")
            result = call(*arguments, **named)
            self._moment()
            return result

        return wrapped

    def _moment(self) -> None:
        if self.count == self.at:
            os.kill(os.getpid(), self.sent)
        self.count += 1

    def write_log(self) -> None:
        if self.log is not None:
            self.log.write_text("\n".join([str(self.count), *self.renamed]), encoding="utf-8")


@dataclass
class Ended:
    """A command that has ended. ``code`` is negative for a signal, None if it was stopped by the time limit."""

    code: int | None
    stdout: str
    stderr: str
    seconds: float
    left: int = 0  # processes of its group that did not end within the time that is allowed for it

    @property
    def traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.stderr


@dataclass
class Running:
    """A command that runs in a process group of its own."""

    pid: int
    logs: Path
    started: float

    def wait(self, limit: float = 120.0, *, group_s: float = 10.0) -> Ended:
        """Waits for its end, and until no process of its group is left."""
        status = self._status(limit)
        seconds = time.monotonic() - self.started
        if status is None:
            os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        left = self._wait_for_group(group_s if status is not None else 5.0)
        code = None if status is None else os.waitstatus_to_exitcode(status)
        return Ended(code, _text(self.logs / "stdout"), _text(self.logs / "stderr"), seconds, left)

    def _status(self, limit: float) -> int | None:
        pause = 0.001
        while time.monotonic() - self.started < limit:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return status
            time.sleep(pause)
            pause = min(0.02, pause * 1.2)
        return None

    def _wait_for_group(self, seconds: float) -> int:
        """The number of processes of the group that are left after ``seconds``; they are then killed."""
        deadline = time.monotonic() + seconds
        while True:
            with suppress(ChildProcessError):
                while os.waitpid(-self.pid, os.WNOHANG)[0]:
                    pass
            try:
                os.killpg(self.pid, 0)
            except (ProcessLookupError, PermissionError):
                return 0
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        os.killpg(self.pid, signal.SIGKILL)
        return 1

    def send(self, number: int, *, group: bool = False) -> None:
        with suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, number)


@dataclass(frozen=True)
class Place:
    """Where commands run: with these folders as home, temporary folder, working folder and cache."""

    root: Path

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.root / "home"),
            "TMPDIR": str(self.root / "tmp"),
            "SETCLIP_CACHE": str(self.cache),
            "HF_HUB_OFFLINE": "1",
            "MPLCONFIGDIR": str(self.root / "mpl"),
            "OMP_NUM_THREADS": "1",
        }

    def make(self) -> None:
        for name in ("home", "tmp", "cwd", "mpl", "logs"):
            (self.root / name).mkdir(parents=True, exist_ok=True)


def start(
    arguments: Sequence[str | Path],
    place: Place,
    *,
    points: Points | None = None,
    before: Callable[[], None] | None = None,
    program: bool = False,
) -> Running:
    """Starts `setclip` with these arguments.

    Args:
        points: Where a signal is sent, or what is counted.
        before: Called in the new process before the command, to change it.
        program: Start a new Python, as a user does; ``points`` and ``before`` are then not used.
    """
    words = [str(argument) for argument in arguments]
    started = time.monotonic()
    if program:
        return Running(_start_program(words, place), place.logs, started)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _child(words, place, points, before)
    with suppress(OSError):
        os.setpgid(pid, pid)  # both sides set it, so that it is set for whoever comes first
    return Running(pid, place.logs, started)


def run(arguments: Sequence[str | Path], place: Place, limit: float = 120.0, **options: Any) -> Ended:
    return start(arguments, place, **options).wait(limit)


def _start_program(words: list[str], place: Place) -> int:
    environment = {**os.environ, **place.environment()}
    paths = [str(Path(importlib.import_module("setclip_cli").__file__ or "").parents[1])]
    environment["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [environment.get("PYTHONPATH")])])
    with (place.logs / "stdout").open("wb") as out, (place.logs / "stderr").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *words],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
            cwd=place.root / "cwd",
            env=environment,
            process_group=0,
        )
    process.returncode = 0  # this module waits for it
    return process.pid


# SIGINT is ignored in what a shell starts in the background, and would be ignored in a child too.
_PROGRAM = "import signal; signal.signal(2, signal.default_int_handler); from setclip_cli.cli import main; main()"


def _child(
    words: list[str], place: Place, points: Points | None, before: Callable[[], None] | None
) -> None:  # pragma: no cover  # a process of its own
    code = 1
    try:
        os.setpgid(0, 0)
        atexit._clear()  # those of the parent remove its temporary folders
        multiprocessing.util._finalizer_registry.clear()
        _redirect(place)
        os.environ.update(place.environment())
        os.chdir(place.root / "cwd")
        import tempfile

        tempfile.tempdir = None
        sys.modules["__main__"] = types.ModuleType("__main__")  # a spawned worker imports that of its parent
        sys.argv = ["setclip", *words]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if before is not None:
            before()
        if points is not None:
            points.install()
        code = _main()
        if points is not None:
            points.write_log()
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _main() -> int:
    from setclip_cli.cli import main

    code = 1
    try:
        main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    with suppress(BaseException):  # what an interpreter does at its end
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    return code


def _redirect(place: Place) -> None:
    for number, name, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, str(place.logs / "stdout"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        (2, str(place.logs / "stderr"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        opened = os.open(name, flags, 0o666)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin, sys.stdout, sys.stderr = (
        open(0, closefd=False),  # noqa: SIM115
        open(1, "w", encoding="utf-8", closefd=False),  # noqa: SIM115
        open(2, "w", encoding="utf-8", closefd=False),  # noqa: SIM115
    )
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr  # type: ignore[misc]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def in_child(work: Callable[[], Mapping[str, Any] | None], limit: float = 300.0) -> int | None:
    """Runs a function in a fork, for what this process must not do. Returns its exit code, None after ``limit``."""
    pid = os.fork()
    if pid == 0:  # pragma: no cover
        code = 1
        try:
            atexit._clear()
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    started = time.monotonic()
    while time.monotonic() - started < limit:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None
