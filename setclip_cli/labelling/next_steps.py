"""What comes after the answers: the commands that take the pairs and train on them, and running both from the page."""

from __future__ import annotations

import shlex
import subprocess
import sys
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setclip_cli.console import visible
from setclip_cli.files import atomic
from setclip_cli.labelling.answers import PAIRS_NAME, WRONG_NAME

if TYPE_CHECKING:
    from collections.abc import Callable

    from setclip_cli.labelling.answers import Answers
    from setclip_cli.pools import Pools

RECIPE_NAME = "recipe.toml"
_LINES = 200  # of the output that the page shows
_PATIENCE_S = 10.0


def next_commands(folder: Path, pools: Pools, answers: Answers, *, recipe: str | None) -> list[list[str]]:
    """The words of the two commands, `ingest` and `align`, after ``setclip``; none if no answer says anything new.

    Args:
        folder: LABELS; without a recipe of the user's or of a RUN, the recipe is written there.
        recipe: The one that the user named.

    Raises:
        WriteError: the recipe cannot be written.
    """
    counts = answers.counts()
    new = ["--pairs", str(folder / PAIRS_NAME)] if counts["partner"] or counts["none"] else []
    wrong = ["--drop-pairs", str(folder / WRONG_NAME)] if counts["wrong"] else []
    if not new and not wrong:
        return []
    if recipe is None and pools.run is not None:
        recipe = str(pools.run / RECIPE_NAME)
    if recipe is None:
        own = folder / RECIPE_NAME
        if not own.exists():
            atomic.write_text(own, pools.recipe.to_toml())
        recipe = str(own)
    names = ("run", *(f"run-{number}" for number in range(2, 10_000)))
    out = next(folder / name for name in names if not (folder / name).exists())
    all_pairs = [] if pools.recipe.pairs == "all" else ["--set", "pairs=all"]
    return [
        ["ingest", *new, *wrong, "--out", str(pools.dataset.root)],
        ["align", recipe, "--data", str(pools.dataset.root), "--out", str(out), *all_pairs],
    ]


def as_typed(words: list[str]) -> str:
    """A command as a person types it in a shell."""
    return shlex.join(["setclip", *words])


class Running:
    """Runs the commands one after the other in a process of their own, and keeps the last lines that they print."""

    def __init__(self, commands: Callable[[], list[list[str]]]) -> None:
        self._commands = commands
        self._lock = threading.Lock()
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._status = "not started"
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts them, unless they run or have run."""
        with self._lock:
            if self._status in ("running", "done"):
                return
            self._status = "running"
            self._lines.clear()
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def shown(self) -> dict[str, Any]:
        """``status`` (not started, running, done, failed) and the ``lines`` so far."""
        with self._lock:
            return {"status": self._status, "lines": list(self._lines)}

    def end(self) -> bool:
        """Ends the command that runs, if one does; returns whether one did."""
        with self._lock:
            process, running = self._process, self._status == "running"
            self._status = "stopped" if running else self._status
        if running and process is not None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE_S)
            process.kill()
        return running

    def _run(self) -> None:
        for words in self._commands():
            self._say(f"$ {as_typed(words)}")
            with self._lock:
                if self._status != "running":
                    return None
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "setclip_cli", *words],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    encoding="utf-8",
                    errors="replace",
                    start_new_session=True,  # Ctrl-C in the terminal is for the page's server, which ends it
                )
            assert self._process.stdout is not None
            for line in self._process.stdout:
                self._say(line.rstrip())
            if code := self._process.wait():
                self._say(f"it ended with the exit code {code}")
                return self._end("failed")
        return self._end("done")

    def _say(self, line: str) -> None:
        with self._lock:
            self._lines.append(visible(line))

    def _end(self, status: str) -> None:
        with self._lock:
            if self._status == "running":
                self._status = status
