"""What a command says when a signal stops it: what happened, and how to go on."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress

from setclip_cli.errors import ExitCode

STOPPED = {  # exit code -> what happened
    int(ExitCode.INTERRUPTED): "interrupted",
    128 + signal.SIGTERM: "terminated",
    128 + signal.SIGHUP: "the terminal was closed",
}
_SAME = "the same command goes on"
_GO_ON = {
    "align": "the same command with --resume goes on from the last checkpoint",
    **dict.fromkeys(("ingest", "label", "embed", "evaluate", "study", "quickstart"), _SAME),
}
_told = False


def what_happened(code: int) -> str:
    return f"{STOPPED[code]}; what was finished is kept"


def how_to_go_on(command: str | None) -> str:
    return _GO_ON.get(command or "", "run the same command again")


def tell(code: int, command: str | None) -> None:
    """Says it on stderr in one line, once."""
    global _told
    if not _told:
        _told = True
        with suppress(OSError):  # nobody may read any more
            print(f"{what_happened(code)}; {how_to_go_on(command)}", file=sys.stderr, flush=True)
