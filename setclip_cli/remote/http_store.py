"""Files behind http:// and https://, through `files.web`, which follows no redirect to where it must not go.

A web server lists nothing. So a place is a file, or a folder of ours whose index says which files it has.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from setclip_cli.errors import SetClipError
from setclip_cli.files.web import RefusedError, open_url
from setclip_cli.remote.errors import ChangedError, RemoteError, scrubbed, tried
from setclip_cli.remote.place import Place
from setclip_cli.remote.run_files import names_of_towers
from setclip_cli.remote.store import PIECE_BYTES, Entry

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT_S = 30.0
MAX_INDEX_BYTES = 256 << 20
_BLOCK_BYTES = 1 << 20
_WITHOUT_RANGES_BYTES = 256 << 20
_INDEXES = ("dataset.json", "embeddings.json", "config.json")


class HttpStore:
    """A file, or one of our folders, on a web server. Nothing is written."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.identity = ""
        self.piece_bytes = PIECE_BYTES

    def entries(self) -> dict[str, Entry]:
        if "." not in self.place.name and (found := self._folder()):
            return found
        entry = self.look("")
        if entry is not None:
            return {"": entry}
        return self._folder() if "." in self.place.name else {}

    def _folder(self) -> dict[str, Entry]:
        """The files that the index of a folder of ours names; empty if it has none."""
        for index in _INDEXES:
            with suppress(RemoteError):
                entry = self.look(index)
                if entry is None or not 0 < entry.size <= MAX_INDEX_BYTES:
                    continue
                names = _listed(index, json.loads(self._all(index, entry.size)))
                if names:
                    asked = {name: self.look(name) for name in names}
                    return {index: entry, **{name: one for name, one in asked.items() if one is not None}}
        return {}

    def _all(self, name: str, size: int) -> bytes:
        def read() -> bytes:
            content = b""
            while len(content) < size:
                content += self.read(name, len(content), size)
            return content

        return tried(read, self.place.inside(name), "be read")

    def look(self, relative: str) -> Entry | None:
        place = self._at(relative)

        def ask() -> Entry | None:
            try:
                with self._open(place, {"Range": "bytes=0-0"}) as answer:
                    if answer.status != 206:
                        self.piece_bytes = _WITHOUT_RANGES_BYTES  # each piece begins at the start of the file
                    return _entry(answer)
            except urllib.error.HTTPError as error:
                error.close()
                if error.code in (404, 410):
                    return None
                if error.code == 416:  # of an empty file
                    return Entry(0, (error.headers.get("ETag") or "").strip('"'), _seconds(error.headers))
                raise _HttpError(error.code) from None

        return tried(ask, place, "be read")

    def read(self, relative: str, start: int, end: int) -> bytes:
        try:
            with self._open(self._at(relative), {"Range": f"bytes={start}-{end - 1}"}) as answer:
                if answer.status == 206:
                    if not str(answer.headers.get("Content-Range", "")).startswith(f"bytes {start}-"):
                        raise ConnectionError("the server sent another part of the file")
                    return answer.read(end - start)
                for at in range(0, start, _BLOCK_BYTES):  # the server knows no ranges: what comes before is left
                    answer.read(min(_BLOCK_BYTES, start - at))
                return answer.read(end - start)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:
                raise ChangedError(relative) from None
            if error.code in (404, 410):
                raise FileNotFoundError(relative) from None
            raise _HttpError(error.code) from None

    def _open(self, place: Place, headers: dict[str, str]) -> http.client.HTTPResponse:
        asked = {"User-Agent": "setclip", "Accept-Encoding": "identity", **headers}
        try:
            return open_url(place.url, asked, timeout=TIMEOUT_S)
        except RefusedError as error:
            raise RemoteError(
                f"{self.place.shown}: cannot be read: {scrubbed(str(error))}", fix="check the address"
            ) from None

    def _at(self, relative: str) -> Place:
        return self.place.inside(relative) if relative else self.place

    def send(self, local: Path, relative: str) -> None:
        raise self._read_only()

    def send_bytes(self, content: bytes, relative: str) -> None:
        raise self._read_only()

    def create(self, relative: str, content: bytes) -> bool:
        raise self._read_only()

    def copy(self, source: str, target: str) -> None:
        raise self._read_only()

    def remove(self, relative: str) -> None:
        raise self._read_only()

    def _read_only(self) -> SetClipError:
        return SetClipError(f"{self.place.shown}: setclip only reads from web servers", fix="write to s3:// or gs://")


class _HttpError(ConnectionError):
    """An answer that is not the file."""

    def __init__(self, code: int) -> None:
        super().__init__(f"HTTP {code} {http.client.responses.get(code, '')}".strip())
        self.code = code


def _entry(answer: http.client.HTTPResponse) -> Entry:
    whole = str(answer.headers.get("Content-Range", "")).rpartition("/")[2] if answer.status == 206 else ""
    size = whole or answer.headers.get("Content-Length") or ""
    if not size.isdecimal() or len(size) > 18:
        raise RemoteError(
            "the server does not say how large the file is", fix="download it yourself, and give its path"
        )
    return Entry(int(size), (answer.headers.get("ETag") or "").removeprefix("W/").strip('"'), _seconds(answer.headers))


def _seconds(headers: Any) -> int:
    with suppress(TypeError, ValueError):
        return int(parsedate_to_datetime(headers.get("Last-Modified")).timestamp())
    return 0


def _listed(index: str, content: Any) -> list[str]:
    """The files that an index names."""
    if not isinstance(content, dict):
        return []
    if index == "config.json":
        if not isinstance(content.get("towers"), dict):
            return []
        return names_of_towers(content["towers"])
    shards, files = content.get("shards"), content.get("files", {})
    if not isinstance(shards, list) or not isinstance(files, dict):
        return []
    paths = [shard.get("path") for shard in shards if isinstance(shard, dict)]
    return [str(name) for name in [*paths, *files] if isinstance(name, str)]
