"""Names of folders and files on other machines, such as ``s3://bucket/data``, and what their local copies are called.

`remote` makes the copies. What is here is text alone, so that errors and options can use it.
"""

from __future__ import annotations

import os
import re

SCHEMES = ("s3", "gs", "hf", "https", "http", "memory")
_PLACE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HUB = re.compile(r"hub:[^/:]")  # hub:NAME@REVISION
_CUT = re.compile(rf"(?:{'|'.join(SCHEMES)}):/[^/]")  # what pathlib makes of one
_names: dict[str, str] = {}  # path of a local copy -> the name of what it is a copy of


def is_elsewhere(given: object) -> bool:
    """Whether a text names something on another machine; a path never does."""
    return isinstance(given, str) and bool(_PLACE.match(given) or _HUB.match(given))


def is_cut(given: object) -> bool:
    """Whether a path was made of such a name: ``Path("s3://b/x")`` has lost a slash, and perhaps more."""
    return isinstance(given, os.PathLike) and bool(_CUT.match(os.fspath(given)))


def call(local: str | os.PathLike[str], name: str) -> None:
    """From now on, messages and records call a local copy by the name of what it is a copy of."""
    _names[os.fspath(local)] = name


def named(path: str | os.PathLike[str]) -> str:
    """What a record calls a path: its name elsewhere if it is, or is in, a local copy; else the path itself."""
    text = os.fspath(path)
    for local, name in _names.items():
        if text == local or text.startswith(f"{local}/"):
            return name + text[len(local) :]
    return text


def in_words(text: str) -> str:
    """A text in which local copies have their names elsewhere."""
    for local, name in _names.items():
        if local in text:
            text = text.replace(local, name)
    return text
