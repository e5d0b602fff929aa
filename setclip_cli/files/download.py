"""Fetches files over HTTP, several at a time. A broken transfer is resumed; a file is verified before it gets its name.

    NAME.part        the bytes so far; it becomes NAME when it is whole and its hash is right
    NAME.part.etag   the server's tag of these bytes; if the server now has another tag, they are thrown away

A file has at most its published size, or `MAX_BYTES`. A server may not send less than 1 kB a second, and not redirect
us wherever it likes (see `web`).

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
import re
import threading
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from setclip_cli import console
from setclip_cli.errors import SetClipError, argument
from setclip_cli.files import atomic
from setclip_cli.files.web import RefusedError, open_url, shown
from setclip_cli.files.write_errors import WriteError, writing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tqdm import tqdm

ATTEMPTS = 4  # for each address; an attempt that brings `WORTHWHILE_BYTES` is not counted
WORTHWHILE_BYTES = 1 << 16
TIMEOUT_S = 30.0
PARALLEL = 4
MAX_BYTES = 20_000_000_000  # of a file whose size was not published
SLOWEST = 1000  # bytes a second, on average over
SLOW_FOR_S = 60.0
_BLOCK_BYTES = 1 << 20
_VERIFIED_NAME = ".verified.json"
_TAG = re.compile(r'"[!\x23-\x7e]*"')


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


class _TooLargeError(RefusedError):
    """A server offers or sends more bytes than the file may have."""


class SpeedFloor:
    """Raises `_BrokenOffError` when fewer than `SLOWEST` bytes a second came over `SLOW_FOR_S` seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since, self._came = clock(), 0

    def add(self, count: int) -> None:
        self._came += count
        now = self._clock()
        if now - self._since < SLOW_FOR_S:
            return
        if self._came < SLOWEST * (now - self._since):
            raise _BrokenOffError(f"it sent fewer than {SLOWEST:,} bytes a second for {SLOW_FOR_S:g} s")
        self._since, self._came = now, 0


class _StoppedError(Exception):
    """The command ends, so this transfer does too."""


def fetch_all(
    wanted: Sequence[Wanted], folder: Path, *, setting: str = "SETCLIP_CACHE", max_bytes: int | None = None
) -> list[Path]:
    """Fetches the files that are missing. A file that was verified before is not read again.

    If one file cannot be fetched, or the command is interrupted, the other transfers stop too; the next call resumes
    them.

    Args:
        wanted: The files.
        folder: Where they go.
        setting: The environment variable that names another folder; a message about a full disk tells it.
        max_bytes: A larger file is refused (default: the published size, or `MAX_BYTES` if none was published).

    Raises:
        SetClipError: no address gave the file, its size or hash is wrong, or the folder cannot be written.
    """
    try:
        atomic.make_folder(folder)
        _fetch_missing([file for file in wanted if not is_whole(file, folder)], folder, max_bytes)
        for file in wanted:
            verify(file, folder / file.name)
    except WriteError as error:
        raise error.with_fix(f"{setting} can name another folder; a download is resumed") from error
    return [folder / file.name for file in wanted]


def _fetch_missing(missing: Sequence[Wanted], folder: Path, max_bytes: int | None) -> None:
    for file in missing:
        if file.bytes is not None and max_bytes is not None and file.bytes > max_bytes:
            raise _too_large(f"{file.name}: has {file.bytes:,} bytes, as published", max_bytes)
    known = sum(file.bytes or 0 for file in missing)
    bar: tqdm[object] = console.progress((), total=known or None, label="download", unit="B")
    bar.unit_scale = True
    stopped = threading.Event()
    pool = ThreadPoolExecutor(PARALLEL)
    try:
        with bar:
            for path in pool.map(lambda file: _Fetch(file, folder, max_bytes, bar, stopped).run(), missing):
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
    stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, file.sha256, file.md5]
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


def _too_large(problem: str, limit: int) -> SetClipError:
    flag = argument("max_bytes")
    return SetClipError(
        f"{problem}, and at most {limit:,} are fetched",
        fix=f"if you trust the source, give {flag} a larger number; or fetch the file yourself and pass its folder "
        f"with {argument('from_folder', '--from')}",
    )


class _Fetch:
    """Fetches one file: tries its addresses one after the other, each of them several times."""

    def __init__(
        self, file: Wanted, folder: Path, max_bytes: int | None, bar: tqdm[object], stopped: threading.Event
    ) -> None:
        self._file, self._folder, self._bar, self._stopped = file, folder, bar, stopped
        self._limit = file.bytes if file.bytes is not None else max_bytes or MAX_BYTES
        self._part = folder / f"{file.name}.part"
        self._tag = folder / f"{file.name}.part.etag"

    def run(self) -> Path:
        """The path of the file, which is whole and right. Raises SetClipError."""
        file, failures = self._file, []
        for url in with_mirrors(file.urls):
            if not url.startswith(("http://", "https://")):
                failures.append(f"{url}: is not an http or https address")
                continue
            try:
                failure = self._from(url)
            except _TooLargeError as error:
                if file.bytes is None:
                    raise _too_large(f"{file.name}: {url}: {error}", self._limit) from error
                failure = str(error)
            if failure is None:
                with writing(self._part):
                    self._part.replace(self._folder / file.name)
                atomic.remove_file(self._tag)
                return self._folder / file.name
            failures.append(f"{url}: {failure}")
        raise SetClipError(
            f"{file.name}: could not be fetched ({'; '.join(failures) or 'no address is known'})",
            fix=f"check the network and HTTPS_PROXY and run again, or fetch it yourself and pass its folder with "
            f"{argument('from_folder', '--from')}",
        )

    def _from(self, url: str) -> str | None:
        """Tries one address. Returns None when the file is whole and right, else the reason."""
        part, attempts, failure = self._part, 0, ""
        while attempts < ATTEMPTS:
            before = _size(part)
            try:
                self._transfer(url)
            except urllib.error.HTTPError as error:
                failure = f"HTTP {error.code} {shown(error.reason)}"
                if error.code < 500 and error.code not in (408, 416, 429):
                    return failure
                if error.code == 416:  # the part is longer than the file is now
                    self._forget()
            except _TooLargeError:
                self._forget()
                raise
            except RefusedError as error:
                return str(error)
            except (
                _BrokenOffError,
                urllib.error.URLError,
                http.client.HTTPException,
                TimeoutError,
                ConnectionError,
            ) as error:
                failure = shown(getattr(error, "reason", error)) or type(error).__name__
            else:
                wrong = _difference(self._file, part)
                if wrong is not None:
                    self._forget()
                return wrong
            attempts = 0 if _size(part) - before >= WORTHWHILE_BYTES else attempts + 1
            if attempts < ATTEMPTS:
                time.sleep(min(0.1 * 2**attempts, 5.0))
            if self._stopped.is_set():
                raise _StoppedError
        return failure

    def _forget(self) -> None:
        atomic.remove_file(self._part)
        atomic.remove_file(self._tag)

    def _transfer(self, url: str) -> None:
        """One request for the rest of the file, or for all of it if the server does not resume or the file changed."""
        start = _size(self._part)
        headers = {"User-Agent": "setclip", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            known = self._tag.read_text(errors="replace") if self._tag.exists() else ""
            if _TAG.fullmatch(known):
                headers["If-Range"] = known
        with open_url(url, headers, timeout=TIMEOUT_S) as response:
            self._check_encoding(response)
            resumed = response.status == 206 and str(response.headers.get("Content-Range", "")).startswith(
                f"bytes {start}-"
            )
            size = start if resumed else 0
            length = response.headers.get("Content-Length") or ""
            expected = size + int(length) if length.isdecimal() and len(length) < 20 else None
            if expected is not None:
                self._check_size(expected, f"offers {expected:,} bytes")
            tag = response.headers.get("ETag") or ""
            if _TAG.fullmatch(tag):
                with writing(self._tag):
                    self._tag.write_text(tag)
            else:
                atomic.remove_file(self._tag)
            floor = SpeedFloor()
            with _open_part(self._part, "ab" if resumed else "wb") as target:
                while block := _read(response):
                    if self._stopped.is_set():
                        raise _StoppedError
                    size += len(block)
                    self._check_size(size, f"sends more than {self._limit:,} bytes")
                    with writing(self._part, needs=self._file.bytes):
                        _write_all(target, block)
                    self._bar.update(len(block))
                    floor.add(len(block))
        if expected is not None and size < expected:
            raise _BrokenOffError(f"the transfer stopped at {size:,} of {expected:,} bytes")

    def _check_size(self, size: int, what: str) -> None:
        if size > self._limit:
            published = f": it is longer than the published {self._limit:,} bytes" if self._file.bytes else ""
            raise _TooLargeError(f"{what}{published}")

    def _check_encoding(self, response: http.client.HTTPResponse) -> None:
        """Refuses a compressed answer: nothing is unpacked on the way, so it would not be the file."""
        encoding = (response.headers.get("Content-Encoding") or "identity").strip().lower()
        is_of_the_file = encoding in ("gzip", "x-gzip") and self._file.name.endswith((".gz", ".tgz"))
        if encoding not in ("identity", "") and not is_of_the_file:
            raise RefusedError(f"the answer is compressed ({shown(encoding)}), though it must be the file as it is")


def _read(response: http.client.HTTPResponse) -> bytes:
    """What has arrived: waiting for a full block would not notice a server that is too slow."""
    try:
        return response.read1(_BLOCK_BYTES)
    except OSError as error:  # of the network; an OSError from elsewhere is one of the disk
        raise _BrokenOffError(shown(error)) from error


def _write_all(target: io.FileIO, block: bytes) -> None:
    """Without a buffer, a write may take only a part of the block: the disk was nearly full, and the next one fails."""
    rest = memoryview(block)
    while rest:
        rest = rest[target.write(rest) :]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _open_part(part: Path, mode: Literal["ab", "wb"]) -> io.FileIO:
    """Without a buffer: what was received is in the file, and closing it writes nothing that could fail."""
    with writing(part):
        return part.open(mode, buffering=0)
