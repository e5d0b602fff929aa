"""What a name such as ``s3://bucket/data/my`` means, and how it is shown.

A name may hold a secret: the query of a signed ``https://`` address, or a user with a password. What is shown, recorded
or hashed never has it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from setclip_cli.errors import UsageError
from setclip_cli.places import SCHEMES

_REPO = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)
_REVISION = re.compile(r"[\w][\w./-]*", re.ASCII)
_LONGEST_PART = 255  # bytes, of a name in most file systems


@dataclass(frozen=True)
class Place:
    """A folder or file on another machine.

    Attributes:
        scheme: Such as ``s3``.
        path: What follows ``://``, without query and without a slash at the end: a bucket and a key; a host and a path.
        query: Of an ``https://`` address; it may be a signature. It is sent to that host and goes nowhere else.
    """

    scheme: str
    path: str
    query: str = ""

    @property
    def shown(self) -> str:
        return f"hub:{self.path}" if self.scheme == "hub" else f"{self.scheme}://{self.path}"

    @property
    def name(self) -> str:
        """Its last part, as a local file has it."""
        last = self.path.rpartition("/")[2]
        return unquote(last) if self.scheme in ("http", "https") else last

    @property
    def url(self) -> str:
        """The address to ask for, of http and https."""
        return f"{self.shown}?{self.query}" if self.query else self.shown

    def inside(self, relative: str) -> Place:
        """A file in this folder. The query goes along: some servers sign whole folders."""
        part = quote(relative) if self.scheme in ("http", "https") else relative
        return Place(self.scheme, f"{self.path}/{part}", self.query)

    def holds(self, other: Place) -> bool:
        """Whether the other place is this one, or in it."""
        return self.scheme == other.scheme and f"{other.path}/".startswith(f"{self.path}/")

    def hashed(self, *more: str) -> str:
        return hashlib.sha256("\0".join((self.shown, *more)).encode()).hexdigest()[:16]


def parse_place(given: str) -> Place:
    """Reads the name of a place.

    Raises:
        UsageError: the scheme is not known, a part is missing, or it holds a user name or a password.
    """
    if given.startswith("hub:"):
        return parse_hub(given)
    scheme, _, rest = given.partition("://")
    scheme = scheme.lower()
    if scheme not in SCHEMES:
        known = ", ".join(f"{one}://" for one in SCHEMES if one not in ("http", "memory"))
        raise UsageError(f"{scheme}://: is not a kind of place that setclip reads", fix=f"use one of: {known}")
    if scheme in ("http", "https"):
        return _parse_url(scheme, given)
    host = rest.partition("/")[0]
    if "@" in host and scheme != "hf":
        raise UsageError(
            f"{scheme}://...@{host.rpartition('@')[2]}: has a user name or a key in front of the bucket",
            fix="leave it out; docs/remote.md says where keys are read from",
        )
    path = rest.rstrip("/")
    if not path.strip():
        raise UsageError(
            f"{scheme}://: names no {_FIRST[scheme]}", fix=f"write {scheme}://{_FIRST[scheme].upper()}/NAME"
        )
    if bad := why_not_a_file_name(path):
        raise UsageError(f"{scheme}://{path}: {bad}", fix="give a name without it")
    return Place(scheme, path)


_FIRST = {"s3": "bucket", "gs": "bucket", "hf": "repository", "memory": "folder"}


def _parse_url(scheme: str, given: str) -> Place:
    shown = f"{scheme}://" + re.split(r"[?#]", given.partition("://")[2])[0].rpartition("@")[2]
    try:
        parts = urlsplit(given)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{shown}: is not an address ({error})", fix="check it") from error
    if parts.username is not None or parts.password is not None:
        raise UsageError(f"{shown}: has a user name or a password in it", fix="use an address that is signed or open")
    host = parts.hostname or ""
    if not host:
        raise UsageError(f"{shown}: names no host", fix=f"write {scheme}://HOST/PATH")
    host = f"[{host}]" if ":" in host else host
    path = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~-._")
    if bad := why_not_a_file_name(unquote(path).lstrip("/") or host):
        raise UsageError(f"{shown}: {bad}", fix="give an address without it")
    return Place(scheme, f"{host}{'' if port is None else f':{port}'}{path}", parts.query)


def parse_hub(given: str) -> Place:
    """Reads ``hub:NAME`` or ``hub:NAME@REVISION``; a revision is a branch, a tag or a commit.

    Raises:
        UsageError: it is not the name of a repository, or not that of a revision.
    """
    repo, at, revision = given.removeprefix("hub:").partition("@")
    if not is_repo(repo):
        raise UsageError(
            f"hub:{repo}: is not the name of a repository on a hub",
            fix="write hub:OWNER/NAME, with letters, digits and single - _ . in the names",
        )
    if at and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise UsageError(
            f"hub:{repo}@{revision}: {revision!r} is not the name of a branch, a tag or a commit",
            fix=f"leave it out for the newest, hub:{repo}, or write hub:{repo}@main",
        )
    return Place("hub", f"{repo}@{revision}" if at else repo)


def is_repo(name: str) -> bool:
    """Whether a text can be the name of a repository."""
    bad_ends = (".git", ".ipynb", "-", ".")
    return (
        len(name) <= 96
        and bool(_REPO.fullmatch(name))
        and "--" not in name
        and ".." not in name
        and not any(part.endswith(bad_ends) for part in name.split("/"))
    )


def why_not_a_file_name(path: str) -> str | None:
    """Why a key cannot be the path of a local file below a folder; None if it can."""
    for part in path.split("/"):
        if part in ("", ".", ".."):
            return f"has a part {part!r} between two slashes, which is not the name of a file" if part else _EMPTY
        if "\0" in part:
            return "holds a NUL character"
        if len(part.encode(errors="surrogateescape")) > _LONGEST_PART:
            return f"has a part of more than {_LONGEST_PART} bytes"
    return None


_EMPTY = "has an empty part (two slashes, or one at the start)"
