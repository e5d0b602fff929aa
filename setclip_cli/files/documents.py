"""JSON and TOML files read into pydantic models, with one message for whatever is wrong in them.

A JSON file of ours holds its own hash: the sha256 of all its bytes, with zeros in the place of the 64 digits. Files of
earlier versions do not have it; they still open.
"""

from __future__ import annotations

import json
import re
import tomllib
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from setclip_cli.errors import ExitCode, SetClipError, UsageError, translated
from setclip_cli.files import atomic

if TYPE_CHECKING:
    from pathlib import Path

Document = TypeVar("Document", bound=BaseModel)
SELF_HASH = "self_sha256"
_ZEROS = "0" * 64
_DIGITS = re.compile("[0-9a-f]{64}")


def write_document(path: Path, content: dict[str, Any], *, sync: bool = True) -> None:
    """Writes a JSON file with its own hash, atomically; equal content gives equal bytes. ``sync`` as `atomic_path`."""
    atomic.write_text(path, signed(content), sync=sync)


def signed(content: dict[str, Any], *, indent: int | None = 2) -> str:
    """JSON with its own hash, and a final newline."""
    blank = {**content, SELF_HASH: _ZEROS}
    text = json.dumps(blank, indent=indent, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    return text.replace(_entry(_ZEROS), _entry(atomic.sha256_bytes(text.encode())), 1)


def unsigned(text: bytes) -> tuple[dict[str, Any], bool]:
    """What `signed` was given, and whether its bytes are still the same; true for a file without its own hash.

    Raises:
        ValueError: it is not JSON of an object.
    """
    content = json.loads(text, object_pairs_hook=_without_repeats)
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    own = content.pop(SELF_HASH, None)
    if own is None:
        return content, True
    if not (isinstance(own, str) and _DIGITS.fullmatch(own)):
        return content, False
    blank = text.replace(_entry(own).encode(), _entry(_ZEROS).encode(), 1)
    return content, atomic.sha256_bytes(blank) == own


def _without_repeats(entries: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a JSON file. JSON allows a key twice, and most readers then take the second without a word."""
    found = dict(entries)
    if len(found) < len(entries):
        repeated = next(key for place, (key, _) in enumerate(entries) if key in dict(entries[:place]))
        raise ValueError(f"the key {repeated!r} is there twice")
    return found


def _entry(digits: str) -> str:
    return f'"{SELF_HASH}": "{digits}"'


def read_json(path: Path, kind: type[Document], *, fix: str) -> Document:
    """Reads a file that a command wrote.

    Raises:
        SetClipError: it holds something else than ``kind`` says, such as what another version wrote, or it has been
            changed since it was written.
    """
    return parse_json(path, _read(path), kind, fix=fix)


def parse_json(path: Path, text: bytes, kind: type[Document], *, fix: str) -> Document:
    """`read_json` of bytes that were read already."""
    with translated(path, ValueError, RecursionError, found="is not valid JSON", fix=fix):
        content, unchanged = unsigned(text)
        text = json.dumps(content, allow_nan=False).encode()  # Python reads NaN and Infinity, which JSON does not have
    try:
        document = kind.model_validate_json(text)
    except ValidationError as error:
        raise SetClipError(_mistakes(path, error), fix=fix) from error
    if not unchanged:
        raise changed(path, fix=fix)
    return document


def changed(path: Path, *, fix: str) -> SetClipError:
    """The error of a file whose own hash does not fit its bytes."""
    return SetClipError(
        f"{path}: has changed since setclip wrote it (the sha256 that it holds is not that of its bytes)",
        fix=f"restore the file from a copy, or {fix}",
    )


def read_toml(path: Path) -> dict[str, Any]:
    """Reads a file that a user wrote.

    Raises:
        SetClipError: it cannot be read, or is not valid TOML; the latter has exit code 2.
    """
    text = _read(path)
    with translated(
        path,
        ValueError,  # of TOML, of UTF-8, and of numbers with thousands of digits
        RecursionError,
        found="is not valid TOML",
        fix="correct the file at that place",
        exit_code=ExitCode.USAGE,
    ):
        return parse_toml(text.decode())


def parse_toml(text: str) -> dict[str, Any]:
    """The tables and values of a TOML text.

    Raises:
        ValueError: it is not TOML, or holds an integer of more than the 64 bits that TOML has.
        RecursionError: its arrays are nested too deep.
    """
    document = tomllib.loads(text)
    values: list[Any] = [document]
    while values:
        value = values.pop()
        values += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if isinstance(value, int) and value.bit_length() > 64:
            raise ValueError("an integer has more than 64 bits")
    return document


def _read(path: Path) -> bytes:
    with translated(path, OSError, found="cannot be read", fix="check the path"):
        return path.read_bytes()


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
