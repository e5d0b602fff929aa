"""Download of one large file: resumed where it stopped, checked before it takes its name."""

from __future__ import annotations

import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from setclip_cli.console import progress

if TYPE_CHECKING:
    from http.client import HTTPResponse

    from tqdm import tqdm

_BLOCK = 1 << 20
_TIMEOUT_S = 30


def reachable(url: str, *, timeout_s: float = 5) -> bool:
    """Whether anything answers HTTP there (an error status is an answer)."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=timeout_s):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def download(url: str, target: Path) -> Path:
    """Downloads to ``target``; what an earlier, broken run left in ``<target>.part`` is continued, not repeated.

    A part is continued only while the server still has the same file (its ETag, or its date where it sends no ETag).
    The result must have the length the server announced and, when it is a zip file as torch checkpoints are, every
    record must match its CRC-32.

    Raises:
        OSError: no connection, an error status, or a broken transfer; the part stays for the next run.
        ValueError: the finished file is damaged; it is removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part, mark = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.part.mark")
    have = part.stat().st_size if part.exists() and mark.exists() else 0
    request = urllib.request.Request(url)
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", mark.read_text())
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            have = have if response.status == 206 else 0
            total = _transfer(response, part, mark, have)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing follows what we have, so the part is of another file
            part.unlink()
            return download(url, target)
        raise OSError(f"{url} answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise OSError(f"{url} cannot be reached ({error.reason})") from error
    if total is not None and part.stat().st_size != total:
        raise OSError(f"{url} broke off after {part.stat().st_size:,} of {total:,} bytes; run again to continue")
    _check(part, url)
    part.replace(target)
    mark.unlink(missing_ok=True)
    return target


def _transfer(response: HTTPResponse, part: Path, mark: Path, have: int) -> int | None:
    """Appends the body to the part after ``have`` bytes; returns the length the whole file should have."""
    announced = response.headers.get("Content-Length")
    validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
    if validator and not validator.startswith("W/"):  # a weak one may not be used to continue
        mark.write_text(validator)
    else:
        mark.unlink(missing_ok=True)
    total = None if announced is None else have + int(announced)
    with part.open("r+b" if have else "wb") as file:
        file.seek(have)
        bar: tqdm[int]
        with progress((), total=total, label=part.stem, unit="B") as bar:
            bar.update(have)
            while block := response.read(_BLOCK):
                file.write(block)
                bar.update(len(block))
    return total


def _check(part: Path, url: str) -> None:
    damaged = None if part.stat().st_size else "empty"
    if zipfile.is_zipfile(part):
        with zipfile.ZipFile(part) as archive:
            damaged = archive.testzip()
    if damaged is not None:
        part.unlink()
        raise ValueError(f"{url} came damaged ({damaged})")
