"""Fetches files over HTTP, several at a time. A broken transfer is resumed; a file is verified before it gets its name.

    NAME.part        the bytes so far; it becomes NAME when it is whole and its hash is right
    NAME.part.etag   the server's tag of these bytes; if the server now has another tag, they are thrown away

Proxies: ``HTTP_PROXY``, ``HTTPS_PROXY``, ``NO_PROXY``. Mirrors: ``SETCLIP_MIRRORS="https://host/path/=https://mirror/"``
(several with spaces between) replaces the beginning of an address; the mirror is tried first.

This is our own code because no library does it: pooch and requests do not resume, huggingface_hub resumes without tags.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from setclip_cli import console
from setclip_cli.errors import SetClipError, argument
from setclip_cli.files import atomic
from setclip_cli.files.write_errors import WriteError, writing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tqdm import tqdm

ATTEMPTS = 4  # for each address; an attempt that brings bytes is not counted
TIMEOUT_S = 30.0
PARALLEL = 4
_BLOCK_BYTES = 1 << 20
_VERIFIED_NAME = ".verified.json"


@dataclass(frozen=True)
class Wanted:
    """A file to fetch, and its size and hashes as published; None if they are not known."""

    name: str
    urls: tuple[str, ...]
    bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None


class _BrokenOffError(ConnectionError):
    """A transfer stopped early; the next attempt resumes it."""


class _StoppedError(Exception):
    """The command ends, so this transfer does too."""


def fetch_all(wanted: Sequence[Wanted], folder: Path, *, setting: str = "SETCLIP_CACHE") -> list[Path]:
    """Fetches the files that are missing. A file that was verified before is not read again.

    If one file cannot be fetched, or the command is interrupted, the other transfers stop too; the next call resumes
    them.

    Args:
        setting: The environment variable that names another folder; a message about a full disk tells it.

    Raises:
        SetClipError: no address gave the file, its size or hash is wrong, or the folder cannot be written.
    """
    try:
        atomic.make_folder(folder)
        _fetch_missing([file for file in wanted if not is_whole(file, folder)], folder)
        for file in wanted:
            verify(file, folder / file.name)
    except WriteError as error:
        raise error.with_fix(f"{setting} can name another folder; a download is resumed") from error
    return [folder / file.name for file in wanted]


def _fetch_missing(missing: Sequence[Wanted], folder: Path) -> None:
    known = sum(file.bytes or 0 for file in missing)
    bar: tqdm[object] = console.progress((), total=known or None, label="download", unit="B")
    bar.unit_scale = True
    stopped = threading.Event()
    pool = ThreadPoolExecutor(PARALLEL)
    try:
        with bar:
            for path in pool.map(lambda file: _fetch(file, folder, bar, stopped), missing):
                console.note(f"fetched {path}")
    finally:
        stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)


def is_whole(file: Wanted, folder: Path) -> bool:
    """Whether the file is there in its full size. ``verify`` checks its content."""
    path = folder / file.name
    return path.is_file() and (file.bytes is None or path.stat().st_size == file.bytes)


def verify(file: Wanted, path: Path, *, remember: bool = True) -> None:
    """Checks size and hashes, unless they were checked before and the file has kept its size and time.

    Args:
        file: What was published.
        path: Where the file is.
        remember: Record in its folder that it was checked.

    Raises:
        SetClipError: the file is missing, or is not what was published.
    """
    if not path.is_file():
        raise SetClipError(f"{path}: no such file", fix=f"put {file.name} there")
    status = path.stat()
    records = _read_records(path.parent)
    stamp = [status.st_size, status.st_mtime_ns, file.sha256, file.md5]
    if records.get(file.name) == stamp:
        return
    if difference := _difference(file, path):
        raise SetClipError(
            f"{path}: is not the published file ({difference})", fix=f"rm {path}, then run the same command again"
        )
    if remember:
        atomic.write_json(path.parent / _VERIFIED_NAME, {**_read_records(path.parent), file.name: stamp})


def _read_records(folder: Path) -> dict[str, object]:
    try:
        return dict(json.loads((folder / _VERIFIED_NAME).read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}


def _fetch(file: Wanted, folder: Path, bar: tqdm[object], stopped: threading.Event) -> Path:
    failures: list[str] = []
    for url in with_mirrors(file.urls):
        if not url.startswith(("http://", "https://")):
            failures.append(f"{url}: is not an http or https address")
            continue
        failure = _fetch_from(url, file, folder, bar, stopped)
        if failure is None:
            part = folder / f"{file.name}.part"
            with writing(part):
                part.replace(folder / file.name)
            atomic.remove_file(folder / f"{file.name}.part.etag")
            return folder / file.name
        failures.append(f"{url}: {failure}")
    raise SetClipError(
        f"{file.name}: could not be fetched ({'; '.join(failures) or 'no address is known'})",
        fix=f"check the network and HTTPS_PROXY and run again, or fetch it yourself and pass its folder with "
        f"{argument('from_folder', '--from')}",
    )


def with_mirrors(urls: Sequence[str]) -> list[str]:
    """The addresses to try, mirrors first."""
    rules = [rule.partition("=") for rule in os.environ.get("SETCLIP_MIRRORS", "").split()]
    mirrored = [
        mirror + url.removeprefix(start)
        for url in urls
        for start, _, mirror in rules
        if start and mirror and url.startswith(start)
    ]
    return list(dict.fromkeys([*mirrored, *urls]))


def _fetch_from(url: str, file: Wanted, folder: Path, bar: tqdm[object], stopped: threading.Event) -> str | None:
    """Tries one address. Returns None when the file is whole and right, else the reason."""
    part = folder / f"{file.name}.part"
    attempts = 0
    failure = ""
    while attempts < ATTEMPTS:
        before = part.stat().st_size if part.exists() else 0
        try:
            _transfer(url, file, part, bar, stopped)
        except urllib.error.HTTPError as error:
            failure = f"HTTP {error.code} {error.reason}"
            if error.code < 500 and error.code not in (408, 416, 429):
                return failure
            if error.code == 416:  # the part is longer than the file is now
                atomic.remove_file(part)
        except (
            _BrokenOffError,
            urllib.error.URLError,
            http.client.HTTPException,
            TimeoutError,
            ConnectionError,
        ) as error:
            failure = str(getattr(error, "reason", error)) or type(error).__name__
        else:
            wrong = _difference(file, part)
            if wrong is not None:
                atomic.remove_file(part)
            return wrong
        came = (part.stat().st_size if part.exists() else 0) > before
        attempts = 0 if came else attempts + 1
        if attempts < ATTEMPTS:
            time.sleep(min(0.1 * 2**attempts, 5.0))
        if stopped.is_set():
            raise _StoppedError
    return failure


def _difference(file: Wanted, path: Path) -> str | None:
    """How a file differs from what was published; None if it does not."""
    if file.bytes is not None and path.stat().st_size != file.bytes:
        return f"it has {path.stat().st_size:,} bytes, {file.bytes:,} were published"
    for algorithm, published in (("sha256", file.sha256), ("md5", file.md5)):
        if published is not None:
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, algorithm).hexdigest()
            if found != published:
                return f"its {algorithm} is {found}, {published} was published"
    return None


def _transfer(url: str, file: Wanted, part: Path, bar: tqdm[object], stopped: threading.Event) -> None:
    """One request for the rest of the file, or for all of it if the server does not resume or the file has changed."""
    tag_path = part.with_name(f"{part.name}.etag")
    start = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "setclip", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if tag_path.exists():
            headers["If-Range"] = tag_path.read_text()
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S) as response:
        resumed = response.status == 206 and str(response.headers.get("Content-Range", "")).startswith(
            f"bytes {start}-"
        )
        tag = response.headers.get("ETag")
        if tag and not tag.startswith("W/"):
            with writing(tag_path):
                tag_path.write_text(tag)
        else:
            atomic.remove_file(tag_path)
        length = response.headers.get("Content-Length")
        expected = (start if resumed else 0) + int(length) if length and length.isdecimal() else None
        size = start if resumed else 0
        with _open_part(part, "ab" if resumed else "wb") as target:
            while block := response.read1(_BLOCK_BYTES):  # what is there; `read` would wait for a whole block
                if stopped.is_set():
                    raise _StoppedError
                size += len(block)
                if file.bytes is not None and size > file.bytes:
                    raise _BrokenOffError(f"it is longer than the published {file.bytes:,} bytes")
                with writing(part, needs=file.bytes):
                    target.write(block)
                bar.update(len(block))
    if expected is not None and size < expected:
        raise _BrokenOffError(f"the transfer stopped at {size:,} of {expected:,} bytes")


def _open_part(part: Path, mode: Literal["ab", "wb"]) -> io.FileIO:
    """Without a buffer: what was received is in the file, and closing it writes nothing that could fail."""
    with writing(part):
        return part.open(mode, buffering=0)
