"""What comes with the package and is used by name: recipes, data manifests, studies and task sets."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

from setclip_cli.errors import ExitCode, UsageError, nearest, translated
from setclip_cli.options import path_of

Kind = Literal["recipes", "manifests", "studies", "tasks"]
SINGULAR: dict[Kind, str] = {"recipes": "recipe", "manifests": "manifest", "studies": "study", "tasks": "task set"}
_PACKAGE = Path(__file__).parents[1]
_FOLDERS = {"manifests": "data_manifests"}


def folder_of(kind: Kind) -> Path:
    """The folder of a kind, in an installed package or in a checkout."""
    if kind == "tasks":
        return _PACKAGE / "evaluation" / "task_sets"
    name = _FOLDERS.get(kind, kind)
    installed = _PACKAGE / "shipped" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


def names(kind: Kind) -> list[str]:
    """The names that `find` knows."""
    return sorted(path.stem for path in folder_of(kind).glob("*.toml"))


def find(kind: Kind, given: Path | str) -> Path:
    """The file that a user means: a file at this path, else the one that comes with the package under this name.

    Raises:
        SetClipError: exit code 2; neither. It names the nearest one and the command that lists all.
    """
    path = path_of(given, SINGULAR[kind])
    with translated(path, found="cannot be looked at", fix="check the path", exit_code=ExitCode.USAGE):
        if path.is_file():
            return path
    if str(given) in names(kind):
        return folder_of(kind) / f"{given}.toml"
    what = SINGULAR[kind]
    raise UsageError(
        f"{given}: no such {what} file, and no {what} with this name comes with setclip"
        f"{nearest(path.stem, names(kind))}",
        fix=f"give the path of a .toml file, or one of the names that `setclip {kind}` lists",
    )


def named(kind: Kind, given: Path) -> Path:
    """For a command that reads other things too: the file that comes with the package under this name, else ``given``.

    Raises:
        SetClipError: exit code 2; nothing is at this path, and it is a name with a slip of the pen.
    """
    with translated(given, found="cannot be looked at", fix="check the path", exit_code=ExitCode.USAGE):
        bare = not given.exists() and given.name == str(given)
    if bare and (str(given) in names(kind) or (not given.suffix and nearest(str(given), names(kind)))):
        return find(kind, given)
    return given


def about(path: Path) -> str:
    """What a file is for: its title, else its first line of comment."""
    text = path.read_text(encoding="utf-8")
    return str(tomllib.loads(text).get("title") or text.partition("\n")[0].lstrip("# "))
