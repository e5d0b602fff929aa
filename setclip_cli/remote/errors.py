"""What goes wrong with files on other machines, in words of ours: no key, token or signed address is ever in them."""

from __future__ import annotations

import errno
import os
import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from setclip_cli.errors import SetClipError, first_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from setclip_cli.remote.place import Place

T = TypeVar("T")

TRIES = 4  # for each file; a try that brings something starts the count anew
_SECRET_NAMES = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL", re.IGNORECASE)
_QUERY = re.compile(r"(?i)(\w+://[^\s?'\"]*)\?[^\s'\"]*")
_USER = re.compile(r"(?i)(\w+://)[^\s/@'\"]+@")
_ASSIGNED = re.compile(
    r"(?i)\b([\w-]*(?:signature|token|secret|credential|accesskeyid|authorization)[\w-]*\s*[=:]\s*)\S+"
)
_MISSING_BUCKET = ("NoSuchBucket", "bucket does not exist")
_NO_KEYS = ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "DefaultCredentialsError")
_WRONG_KEYS = (
    *("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken"),
    *("does not exist in our record", "signature we calculated", "provided token"),
)
_TIMES = ("Timeout", "timed out", "timeout")
_KEYS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE), and AWS_ENDPOINT_URL if it is not Amazon's",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`",
    "hf": "HF_TOKEN, or `hf auth login`",
}


class RemoteError(SetClipError):
    """A file on another machine cannot be read or written."""


class ChangedError(Exception):
    """A file has changed since the folder was listed."""


def scrubbed(text: str) -> str:
    """A text of a library or a server without what may be secret, in one line and not too long."""
    for name, value in os.environ.items():
        if len(value) >= 8 and _SECRET_NAMES.search(name):
            text = text.replace(value, "***")
    text = _ASSIGNED.sub(r"\1***", _USER.sub(r"\1", _QUERY.sub(r"\1", text)))
    return (text.splitlines() or [""])[0][:200]


def trouble(place: Place, error: BaseException, what: str) -> RemoteError:
    """The error for a user.

    Args:
        what: What could not be done, such as ``"be read"``.
    """
    number, words, kind = getattr(error, "errno", None), f"{error}", type(error).__name__
    keys = _KEYS.get(place.scheme, "")
    if kind in _NO_KEYS or "Unable to locate credentials" in words or "anonymous" in words.lower():
        return RemoteError(f"{place.shown}: cannot {what}: no keys were found for it", fix=f"set {keys}")
    if any(one in words for one in _WRONG_KEYS) or "401" in words[:40]:
        return RemoteError(
            f"{place.shown}: cannot {what}: the server does not take the key that was given",
            fix=f"check {keys}" if keys else "use an address that is open, or signed",
        )
    if isinstance(error, PermissionError) or number in (errno.EACCES, errno.EPERM) or "403" in words[:80]:
        may = "write there" if "written" in what else "read and list it"
        return RemoteError(
            f"{place.shown}: cannot {what}: the server refuses it to this user",
            fix=f"ask the owner for the right to {may}" + (f"; or check {keys}" if keys else ""),
        )
    if isinstance(error, FileNotFoundError) or number == errno.ENOENT:
        if any(one in words for one in _MISSING_BUCKET):
            bucket = place.path.partition("/")[0]  # not the file in it: a command may write files of its own first
            return RemoteError(
                f"{place.scheme}://{bucket}: cannot {what}: there is no bucket {bucket!r}",
                fix="check the name of the bucket, or make it first; setclip makes no buckets",
            )
        return RemoteError(f"{place.shown}: no such file or folder", fix="check the name")
    said = scrubbed(first_line(error)) or kind
    if any(one in kind or one in words for one in _TIMES):
        problem = f"the server does not answer in time ({said})"
    elif isinstance(error, OSError | ConnectionError) or "Connect" in kind or "Connection" in words:
        problem = f"the connection failed ({said})"
    else:
        problem = f"{kind}: {said}"
    return RemoteError(
        f"{place.shown}: cannot {what}: {problem}",
        fix="check the network, and run the same command again: what came over is kept",
    )


def lasts(error: Exception) -> bool:
    """Whether asking again would bring the same answer."""
    words = f"{type(error).__name__} {error}"
    return isinstance(error, FileNotFoundError | PermissionError | FileExistsError | IsADirectoryError) or any(
        one in words for one in (*_NO_KEYS, *_WRONG_KEYS, "NoSuchBucket", "credentials")
    )


def tried(action: Callable[[], T], place: Place, what: str, *, sleep: Callable[[float], None] | None = None) -> T:
    """Does something over the network, and again a few times if it breaks off.

    Raises:
        RemoteError: it did not work.
    """
    for attempt in range(TRIES):
        try:
            return action()
        except (SetClipError, ChangedError):
            raise
        except Exception as error:
            if attempt == TRIES - 1 or lasts(error):
                raise trouble(place, error, what) from None
            with suppress(InterruptedError):
                (sleep or time.sleep)(0.2 * 3**attempt)
    raise AssertionError("unreachable")
