"""Whether two pools fit into memory: known before a backbone has run."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from setclip_cli.errors import SetClipError, argument

if TYPE_CHECKING:
    from collections.abc import Mapping

    from setclip_cli.dataset.modality import Modality

_BYTES = 4  # of a float32
_LIMIT_OF_CONTAINER = Path("/sys/fs/cgroup/memory.max")


def machine_memory() -> int:
    """Bytes that this machine has, or its container may use; a busy machine has less of them free."""
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):  # without a limit it says "max"
        found = min(found, int(_LIMIT_OF_CONTAINER.read_text()))
    return found


def require_memory(split: str, sides: Mapping[Modality, tuple[int, int]]) -> None:
    """Checks that the rows of two pools can be in memory at once.

    Args:
        sides: Modality -> rows, and numbers of each row: of its features, and of its embedding if there is one.

    Raises:
        SetClipError: they cannot be.
    """
    needed, there = _BYTES * sum(rows * width for rows, width in sides.values()), machine_memory()
    if needed > there:
        counts = " and ".join(f"{rows:,} {modality} rows" for modality, (rows, _) in sides.items())
        raise SetClipError(
            f"split {split}: {counts} need {needed / 2**30:,.1f} GiB of memory at once, and this machine has "
            f"{there / 2**30:,.1f} GiB",
            fix=f"choose a split with fewer rows by {argument('split')}, or a machine with more memory; "
            "`align`, `embed`, `search` and `evaluate` leave such rows on the disk",
        )
