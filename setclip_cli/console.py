"""Progress bars and notes on stderr, results as JSON on stdout."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, TypeVar

from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")


def note(message: str) -> None:
    """Writes one line to stderr; stdout is for results."""
    tqdm.write(message, file=sys.stderr)


def progress(items: Iterable[T], *, total: int | None = None, label: str, unit: str = "it") -> tqdm[T]:
    """A progress bar on stderr; nothing if stderr is not a terminal."""
    return tqdm(items, total=total, desc=label, unit=unit, file=sys.stderr, disable=not sys.stderr.isatty())


def emit_json(result: dict[str, Any]) -> None:
    """Prints the one JSON object that ``--json`` promises."""
    sys.stdout.write(json.dumps(result, sort_keys=True, allow_nan=False) + "\n")
