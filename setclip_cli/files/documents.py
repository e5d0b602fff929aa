"""JSON and TOML files read into pydantic models, with one message for whatever is wrong in them."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from setclip_cli.errors import SetClipError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

Document = TypeVar("Document", bound=BaseModel)


def read_json(path: Path, kind: type[Document], *, fix: str) -> Document:
    """Reads a file that a command wrote.

    Raises:
        SetClipError: it holds something else than ``kind`` says, such as what another version wrote.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise SetClipError(_mistakes(path, error), fix=fix) from error


def read_toml(path: Path) -> dict[str, Any]:
    """Reads a file that a user wrote.

    Raises:
        SetClipError: it cannot be read, or is not valid TOML; the latter has exit code 2.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SetClipError(f"{path}: {error.strerror}", fix="check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: is not valid TOML ({error})", fix="correct the file at that place") from error


def read_settings(path: Path, kind: type[Document], *, fix: str) -> Document:
    """`read_toml` into a model; the message lists every mistake.

    Raises:
        SetClipError: as `read_toml` does, or with exit code 2 for keys and values that ``kind`` does not take.
    """
    try:
        return kind.model_validate(read_toml(path))
    except ValidationError as error:
        raise UsageError(_mistakes(path, error), fix=fix) from error


def _mistakes(path: Path, error: ValidationError) -> str:
    """One line for one mistake, a list for several; each with its key, where it has one."""
    found = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}".removeprefix(": ") for one in error.errors()]
    if len(found) == 1:
        return f"{path}: {found[0]}"
    return "\n".join([f"{path}: {len(found)} mistakes", *(f"  - {line}" for line in found)])
