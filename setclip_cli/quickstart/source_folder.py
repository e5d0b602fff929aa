"""OUT/source, the folder of files that the quickstart makes once: `source.json`, written last, lists them by hash."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from setclip_cli.errors import SetClipError, argument
from setclip_cli.files import atomic, hashes
from setclip_cli.files.documents import changed, unsigned, write_document

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SOURCE_NAME = "source.json"


def read_kept(folder: Path, domain: str, rules: str) -> dict[str, Any] | None:
    """Content of source.json; None if the folder was not finished.

    Args:
        domain: Of the quickstart that asks.
        rules: Mark of the rules by which it makes the files.

    Raises:
        SetClipError: the folder is of another domain, was made by other rules, or a file of it has changed.
    """
    if not (folder / SOURCE_NAME).exists():
        return None
    found = _read_made(folder / SOURCE_NAME)
    made = found.get("domain", "imagery")
    if made != domain:
        raise SetClipError(
            f"{folder.parent}: is a quickstart of {made}, not of {domain}",
            fix=f"choose another {argument('out')}, or {argument('domain')} {made}",
        )
    if found.get("rules") != rules:
        raise SetClipError(
            f"{folder}: was made by another version of the quickstart",
            fix=f"choose another {argument('out')}, or remove {folder.parent} yourself",
        )
    if "files" in found:  # not in a folder of an early version
        _require_unchanged(folder, found["files"])
    return found


def finish(folder: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Writes source.json with this content and the hashes of the files, and returns its content."""
    content = {**content, "files": {name: atomic.sha256_file(path) for name, path in _files(folder).items()}}
    write_document(folder / SOURCE_NAME, content)
    return content


def write_csv(path: Path, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    atomic.write_text(path, text.getvalue())


def _read_made(path: Path) -> dict[str, Any]:
    try:
        found, unchanged = unsigned(path.read_bytes())
    except ValueError:
        unchanged = False
    if not unchanged:
        raise changed(path, fix=f"remove {path.parent.parent} and run the same command again")
    return found


def _files(folder: Path) -> dict[str, Path]:
    """The files that ingest reads, by their path in the folder."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path for path in found if path.name != SOURCE_NAME}


def _require_unchanged(folder: Path, listed: dict[str, str]) -> None:
    """Raises SetClipError unless the folder holds the listed files as they were written, and no others."""
    fix = f"remove {folder.parent} and run the same command again"  # all that was made from the files
    found = _files(folder)
    for name in sorted(listed.keys() | found.keys()):
        if name not in listed:
            raise SetClipError(
                f"{folder / name}: is not a file of the quickstart ({SOURCE_NAME} does not list it)", fix=fix
            )
        since = "the quickstart wrote it"
        hashes.require_unchanged(folder / name, listed[name], since=since, listed_in=SOURCE_NAME, fix=fix)
