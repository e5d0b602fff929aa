"""The command line: it parses, calls and prints. Importing it loads no torch, so help is instant."""

from __future__ import annotations

from typing import Any

from setclip_cli.cli.program import main

__all__ = ["app", "main"]


def __getattr__(name: str) -> Any:
    """``app``, imported when it is asked for: `main` is ready for signals before that takes its time."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from setclip_cli.cli.app import app

    globals()["app"] = app  # the import has put the file of this name here
    return app
