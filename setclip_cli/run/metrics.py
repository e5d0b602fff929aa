"""metrics.jsonl of a RUN that is not finished: a checkpoint at step n needs its first n lines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from setclip_cli.errors import SetClipError, translated
from setclip_cli.files import atomic
from setclip_cli.run.config import METRICS_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from setclip_cli.run.checkpoint import Checkpoint

METRICS_SHA256 = "metrics_sha256"  # its key in the header of a checkpoint; an early version has none


def kept_lines(run: Path, saved: Checkpoint) -> list[bytes]:
    """The lines of the steps that a checkpoint holds. Lines of later steps are left out.

    Raises:
        SetClipError: a line is missing, or has changed since the checkpoint was written.
    """
    path, fix = run / METRICS_NAME, f"restore the file from a copy, or remove {run} and align again"
    expected = saved.header.get(METRICS_SHA256)
    with translated(path, OSError, ValueError, found="cannot be read", fix=fix):
        lines = path.read_bytes().splitlines(keepends=True)[: saved.step] if path.exists() else []
        for line in lines if expected is None else ():
            json.loads(line)
    if len(lines) < saved.step:
        raise SetClipError(f"{path}: has {len(lines)} of the {saved.step} lines of the last checkpoint", fix=fix)
    if expected not in (None, atomic.sha256_bytes(b"".join(lines))):
        raise SetClipError(
            f"{path}: has changed since step {saved.step} (its checkpoint holds another sha256)", fix=fix
        )
    return lines
