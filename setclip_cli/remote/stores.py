"""Which store a place has, and the one of all places with which fsspec speaks.

Nothing that fsspec lists is kept between two questions.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any

from setclip_cli.errors import SetClipError, UsageError
from setclip_cli.remote.errors import RemoteError, tried
from setclip_cli.remote.place import Place, why_not_a_file_name
from setclip_cli.remote.store import PIECE_BYTES, Entry, Store

if TYPE_CHECKING:
    from pathlib import Path

_MODULES = {"s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub", "memory": "fsspec"}
_TAGS = ("ETag", "etag", "generation", "md5Hash", "blob_id", "created", "mtime")
_DATES = ("LastModified", "updated", "last_modified", "created", "mtime")
_TIMEOUT_S = {"connect_timeout": 10, "read_timeout": 60}


class FsspecStore:
    """A place that fsspec knows."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.piece_bytes = PIECE_BYTES
        self._fs = _filesystem(place)
        self._root: str = self._fs._strip_protocol(f"{place.scheme}://{place.path}")
        self.identity = str(getattr(self._fs, "endpoint_url", None) or _endpoint(place))

    def entries(self) -> dict[str, Entry]:
        found = tried(self._find, self.place, "be read")
        if found.keys() == {self._root}:
            return {"": _entry(found[self._root])}
        entries = {}
        for name, info in found.items():
            relative = name[len(self._root) + 1 :]
            if not relative or name.endswith("/") or info.get("type") == "directory":
                continue  # what some tools make in place of a folder
            if bad := why_not_a_file_name(relative):
                raise SetClipError(
                    f"{self.place.shown}: holds {relative!r}, which {bad}: no local file can have this name",
                    fix="rename that object, or give the folders beside it one by one",
                )
            entries[relative] = _entry(info)
        for name in entries:
            above = name.rpartition("/")[0]
            if above in entries:
                raise SetClipError(
                    f"{self.place.shown}: holds {above!r} both as a file and as a folder, which no disk can",
                    fix="rename one of them",
                )
        return entries

    def _find(self) -> dict[str, Any]:
        self._fs.invalidate_cache()
        try:
            found: dict[str, Any] = self._fs.find(self._root, detail=True)
        except FileNotFoundError as error:
            if "bucket" in str(error).lower() and "key" not in str(error).lower():
                raise
            return {}
        return found

    def look(self, relative: str) -> Entry | None:
        def ask() -> Entry | None:
            self._fs.invalidate_cache()
            try:
                info = self._fs.info(self._at(relative))
            except FileNotFoundError:
                return None
            return None if info.get("type") == "directory" else _entry(info)

        return tried(ask, self.place, "be read")

    def read(self, relative: str, start: int, end: int) -> bytes:
        content: bytes = self._fs.cat_file(self._at(relative), start=start, end=end)
        return content

    def send(self, local: Path, relative: str) -> None:
        tried(lambda: self._fs.put_file(str(local), self._at(relative)), self._here(relative), "be written")

    def send_bytes(self, content: bytes, relative: str) -> None:
        tried(lambda: self._fs.pipe_file(self._at(relative), content), self._here(relative), "be written")

    def create(self, relative: str, content: bytes) -> bool:
        if self.look(relative) is not None:
            return False
        try:
            tried(
                lambda: self._fs.pipe_file(self._at(relative), content, mode="create"),
                self._here(relative),
                "be written",
            )
        except RemoteError:
            if self.look(relative) is not None:
                return False
            raise
        return True

    def copy(self, source: str, target: str) -> None:
        tried(lambda: self._fs.cp_file(self._at(source), self._at(target)), self._here(target), "be written")

    def remove(self, relative: str) -> None:
        def rm() -> None:
            try:
                self._fs.rm_file(self._at(relative))
            except FileNotFoundError:
                return

        tried(rm, self._here(relative), "be removed")

    def _at(self, relative: str) -> str:
        return f"{self._root}/{relative}" if relative else self._root

    def _here(self, relative: str) -> Place:
        return self.place.inside(relative) if relative else self.place


def _entry(info: dict[str, Any]) -> Entry:
    lfs = info.get("lfs") or {}
    tag = (lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)) or next(
        (_tag(info[key]) for key in _TAGS if info.get(key)), ""
    )
    date = next((info[key] for key in _DATES if info.get(key)), 0)
    size = info.get("size")
    return Entry(-1 if size is None else int(size), tag.strip('"'), _seconds(date))


def _tag(value: Any) -> str:
    return repr(value.timestamp()) if isinstance(value, datetime) else str(value)


def _seconds(date: Any) -> int:
    if isinstance(date, datetime):
        return int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp())
    if isinstance(date, str):
        try:
            return int(datetime.fromisoformat(date).timestamp())
        except ValueError:
            return 0
    return int(date) if isinstance(date, int | float) else 0


def open_store(place: Place) -> Store:
    """The store of a place.

    Raises:
        UsageError: what speaks with such servers is not installed.
    """
    if place.scheme in ("http", "https"):
        from setclip_cli.remote.http_store import HttpStore

        return HttpStore(place)
    return FsspecStore(place)


def _filesystem(place: Place) -> Any:
    module = _MODULES[place.scheme]
    try:
        import_module(module)
        fsspec = import_module("fsspec")
    except ImportError as error:
        raise UsageError(
            f"{place.shown}: {place.scheme}:// needs the package {module} ({error})",
            fix='pip install "setclip[remote]"',
        ) from error
    settings: dict[str, Any] = {"skip_instance_cache": True}
    if place.scheme == "s3":
        settings |= {
            "use_listings_cache": False,
            "max_concurrency": 2,  # parts of 50 MB of one large file that are in memory at once
            "config_kwargs": {**_TIMEOUT_S, "retries": {"max_attempts": 1, "mode": "standard"}},
        }
    if place.scheme == "memory":
        settings = {}
    filesystem = fsspec.filesystem(place.scheme, **settings)
    if place.scheme == "s3":
        filesystem.retries = 1  # we try again ourselves
    return filesystem


def _endpoint(place: Place) -> str:
    given = os.environ
    return given.get("AWS_ENDPOINT_URL_S3", given.get("AWS_ENDPOINT_URL", "")) if place.scheme == "s3" else ""
