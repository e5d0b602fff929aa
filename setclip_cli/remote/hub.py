"""RUNs on a model hub, named ``hub:NAME`` or ``hub:NAME@REVISION``. huggingface_hub finds, copies and keeps them.

Only the files of a RUN are copied, into the library's own cache, which goes on with a file that was cut short. Messages
and records name the commit, so that they name the same bytes later.
"""

from __future__ import annotations

import logging
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from setclip_cli.console import note
from setclip_cli.errors import SetClipError, argument
from setclip_cli.files.write_errors import error_number, write_error
from setclip_cli.places import call
from setclip_cli.remote.errors import RemoteError, scrubbed
from setclip_cli.remote.place import Place
from setclip_cli.remote.run_files import NEEDED, PATTERNS, is_run_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from huggingface_hub import HfApi

T = TypeVar("T")

TRIES = 4
FAILURES_IN_A_CALL = 1  # that the library itself may go on after
LONGEST_WAIT_S = 30.0
_BROKEN = {
    *("TransportError", "RequestError", "ConnectionError", "TimeoutError", "ProtocolError", "LocalEntryNotFoundError"),
}
_TOKEN = "HF_TOKEN, or `hf auth login`"


def hub_copy(place: Place) -> Path:
    """The local copy of a RUN on a hub, called by its commit from now on.

    Raises:
        SetClipError: there is no such repository or revision, it holds no RUN, the hub does not answer, or the copy
            cannot be written.
    """
    repo, _, revision = place.path.partition("@")
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return _kept_copy(place, repo, revision)
    hub = open_hub()
    found = asked(
        place, lambda: hub.model_info(repo, revision=revision or None, files_metadata=True), "read", revision=revision
    )
    sizes = {one.rfilename: one.size or 0 for one in found.siblings or ()}
    names = [name for name in sizes if is_run_file(name)]
    if missing := [name for name in NEEDED if name not in names]:
        shown = ", ".join(map(repr, sorted(sizes)[:3])) or "nothing"
        raise SetClipError(
            f"{place.shown}: holds no whole RUN of setclip: it has no {missing[0]} (it holds {shown})",
            fix="name a repository that `setclip push` wrote; a backbone's weights are named in the recipe",
        )
    here = Place("hub", f"{repo}@{found.sha}")
    if not _is_kept(repo, str(found.sha), names):
        size = sum(sizes[name] for name in names)
        note(f"{here.shown}: copying {len(names)} files, {size:,} bytes, to the cache of huggingface_hub")
    # by the name that was given, so that the library keeps which commit it was, for HF_HUB_OFFLINE
    folder = asked(here, lambda: _snapshot(hub, repo, revision or "main"), "copied")
    return _called(folder, Place("hub", f"{repo}@{folder.name}"))


def not_to_a_hub(place: Place) -> SetClipError:
    """The error of a command that would write to a hub."""
    return SetClipError(
        f"{argument('out')} {place.shown}: only finished RUNs are written to a hub",
        fix=f"write to this machine, then `setclip push RUN --repo {place.path.partition('@')[0]}`",
    )


def open_hub(*, offline: bool = False) -> HfApi:
    """The library's client. It reads HF_ENDPOINT and the token; it asks nothing yet.

    Raises:
        RemoteError: HF_HUB_OFFLINE is set, and ``offline`` is not: the caller wants to ask.
    """
    from huggingface_hub import HfApi, constants

    from setclip_cli.version import __version__

    constants.HF_HUB_DISABLE_TELEMETRY = True  # it would ask which programs run here
    if constants.HF_HUB_OFFLINE and not offline:
        raise RemoteError("HF_HUB_OFFLINE is set, so the hub is not asked", fix="unset HF_HUB_OFFLINE")
    return HfApi(library_name="setclip", library_version=__version__)


def asked(place: Place, action: Callable[[], T], what: str, *, revision: str = "") -> T:
    """Asks a hub, and again a few times while it is busy, in trouble or cut off.

    Args:
        what: What could not be done, such as ``"read"``.

    Raises:
        RemoteError: it did not work; no token is ever in the message.
    """
    for attempt in range(TRIES):
        try:
            with _quiet_library():
                return action()
        except SetClipError:
            raise
        except Exception as caught:
            cause = caught.__cause__
            error = cause if type(caught) is RuntimeError and isinstance(cause, Exception) else caught  # of a thread
            if attempt == TRIES - 1 or not _may_pass(error):
                raise _trouble(place, error, what, revision) from None
            if attempt == 0:
                note(f"note: {place.shown}: the hub failed to answer; asking again, at most {TRIES - 1} times")
            time.sleep(_wait_s(error, attempt))
    raise AssertionError("unreachable")


class _BreaksOffError(ConnectionError):
    """The hub broke off again and again in one call of the library."""


class _FailureCounter(logging.Handler):
    """Takes what the library says of a connection that fails, and ends its call if that does not end.

    The library goes on as long as each answer brings some bytes, also from a hub that begins each file anew.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.failures = 0

    def handle(self, record: logging.LogRecord) -> bool:
        words = record.getMessage()
        if "Error" in words:
            self.failures += 1
            if self.failures > FAILURES_IN_A_CALL:
                raise _BreaksOffError(scrubbed(words))
        return False


@contextmanager
def _quiet_library() -> Iterator[None]:
    """What huggingface_hub logs in the block is not shown: the error of `asked` says it once."""
    logger = logging.getLogger("huggingface_hub")
    handlers, propagate = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [_FailureCounter()], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = handlers, propagate


def _snapshot(hub: HfApi, repo: str, revision: str, **given: Any) -> Path:
    from huggingface_hub import constants
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)  # of the library's own bars
            super().__init__(*args, **{**kwargs, "disable": not sys.stderr.isatty(), "file": sys.stderr})

    try:
        folder = hub.snapshot_download(repo, revision=revision, allow_patterns=list(PATTERNS), tqdm_class=Bar, **given)
    except OSError as error:
        if error.errno is None or _status(error) or error_number(error) is None:
            raise
        raise write_error(Path(constants.HF_HUB_CACHE) / repo, error) from error
    return Path(folder)


def _is_kept(repo: str, commit: str, names: list[str]) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return all(isinstance(try_to_load_from_cache(repo, name, revision=commit), str) for name in names)


def _kept_copy(place: Place, repo: str, revision: str) -> Path:
    """The copy that an earlier command made, when HF_HUB_OFFLINE says not to ask."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = _snapshot(open_hub(offline=True), repo, revision or "main", local_files_only=True)
    except (LocalEntryNotFoundError, OSError, ValueError) as error:
        raise RemoteError(
            f"{place.shown}: HF_HUB_OFFLINE is set, and there is no copy in the cache of huggingface_hub",
            fix="unset HF_HUB_OFFLINE once, or give the path of a RUN",
        ) from error
    note(f"note: {place.shown}: HF_HUB_OFFLINE is set, so the copy of commit {folder.name} is taken")
    return _called(folder, Place("hub", f"{repo}@{folder.name}"))


def _called(folder: Path, place: Place) -> Path:
    for path in {folder, folder.resolve()}:
        call(path, place.shown)
    return folder


def _status(error: BaseException) -> int:
    return int(getattr(getattr(error, "response", None), "status_code", 0) or 0)


def _may_pass(error: Exception) -> bool:
    """Whether asking again may bring another answer."""
    if status := _status(error):
        return status in (408, 425, 429) or status >= 500
    kind = {one.__name__ for one in type(error).__mro__}
    return bool(kind & _BROKEN)


def _wait_s(error: Exception, attempt: int) -> float:
    said = getattr(getattr(error, "response", None), "headers", {}).get("retry-after", "")
    wait = float(said) if str(said).isdecimal() else 0.5 * 3**attempt
    return min(wait, LONGEST_WAIT_S)


def _trouble(place: Place, error: Exception, what: str, revision: str) -> RemoteError:
    """The error for a user."""
    from huggingface_hub import get_token

    shown, status, kind = place.shown, _status(error), type(error).__name__
    mro = {one.__name__ for one in type(error).__mro__}
    if "RevisionNotFoundError" in mro:
        return RemoteError(
            f"{shown}: the repository has no branch, tag or commit {revision!r}",
            fix=f"check its name, or leave it out for the newest: {shown.partition('@')[0]}",
        )
    if "GatedRepoError" in mro:
        return RemoteError(f"{shown}: cannot be {what}: its owner asks for consent first", fix="give it on its page")
    if status == 401 and get_token():
        return RemoteError(f"{shown}: cannot be {what}: the hub does not take the token", fix=f"check {_TOKEN}")
    if status in (401, 404) and "/" not in place.path:
        return RemoteError(
            f"{shown}: cannot be {what}: there is no such repository, and its name has no owner",
            fix="write OWNER/NAME; its page on the hub shows both",
        )
    if status in (401, 404):
        secret = "the token may not see it" if get_token() else "it is private, and no token was found"
        return RemoteError(
            f"{shown}: cannot be {what}: there is no such repository, or {secret}",
            fix=f"check the name; set {_TOKEN} for a private one",
        )
    if status == 403:
        return RemoteError(
            f"{shown}: cannot be {what}: the hub does not allow it to this user ({_said(error)})",
            fix=f"check the rights of the token ({_TOKEN}), and that the owner is you or your organization",
        )
    if status == 429:
        return RemoteError(f"{shown}: cannot be {what}: the hub asks to wait (HTTP 429)", fix="try again later")
    if status >= 500:
        return RemoteError(
            f"{shown}: cannot be {what}: the hub is in trouble (HTTP {status})", fix="try again in some minutes"
        )
    if status:
        return RemoteError(f"{shown}: cannot be {what}: HTTP {status} ({_said(error)})", fix="check the name")
    if mro & _BROKEN:
        from huggingface_hub import constants

        return RemoteError(
            f"{shown}: cannot be {what}: the connection to {scrubbed(constants.ENDPOINT)} failed ({_said(error)})",
            fix="check the network, and HF_ENDPOINT if it is set; then run the same command again",
        )
    return RemoteError(f"{shown}: cannot be {what}: {kind}: {_said(error)}", fix="check the name")


def _said(error: Exception) -> str:
    """What the hub said, without what may be secret."""
    from huggingface_hub import get_token

    words = scrubbed(str(getattr(error, "server_message", None) or error)) or type(error).__name__
    token = get_token()
    return words.replace(token, "***") if token else words
