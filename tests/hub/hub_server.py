"""A model hub on loopback: it speaks the calls of huggingface_hub that push and pull use, and fails when told to."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_loopbacktoken0123456789"
LFS = (".safetensors",)


@dataclass
class Repo:
    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)


@dataclass
class Hub:
    """The state of the server, and what it is to do wrong.

    Attributes:
        fails: Called with the method and the path of each request; a status to answer with, ``"cut"`` to break the
            answer off after half of its bytes, ``"restart"`` to do so and send each file from its start, or None.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    fails: Callable[[str, str], int | str | None] = lambda method, path: None
    asked: list[tuple[str, str]] = field(default_factory=list)
    sent: int = 0  # bytes of files that were read
    address: str = ""

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        one = self.repos[repo]
        return one.commits[one.branches.get(revision, revision)]

    def commit(self, repo: str, branch: str, files: dict[str, bytes]) -> str:
        one = self.repos[repo]
        old = one.branches.get(branch, "")
        if old and one.commits[old] == files:
            return old
        listed = json.dumps({name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())})
        name = hashlib.sha1(f"{old}{listed}".encode()).hexdigest()
        one.commits[name], one.branches[branch] = dict(files), name
        return name


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._route("HEAD")

    def do_GET(self) -> None:
        self._route("GET")

    def do_POST(self) -> None:
        self._route("POST")

    def do_PUT(self) -> None:
        self._route("PUT")

    def _route(self, method: str) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self._body()
        self.hub.asked.append((method, path))
        self._failure = self.hub.fails(method, path)
        if isinstance(self._failure, int):
            self._json({"error": f"the server says {self._failure}"}, self._failure)
            return
        for pattern, name in _ROUTES:
            if (found := re.fullmatch(pattern, path)) is not None:
                getattr(self, name)(body, **found.groupdict())
                return
        self._json({"error": f"no such call: {path}"}, 404)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    # --- reading

    def info(self, _body: bytes, repo: str, revision: str = "main") -> None:
        if (one := self._repo(repo)) is None:
            return
        if (commit := self._commit_of(one, revision)) is None:
            return
        siblings = [
            {"rfilename": name, "size": len(content), "blobId": _git_id(content)}
            for name, content in one.commits[commit].items()
        ]
        self._json(
            {"id": repo, "modelId": repo, "sha": commit, "private": one.private, "tags": [], "siblings": siblings}
        )

    def tree(self, _body: bytes, repo: str, revision: str) -> None:
        if (one := self._repo(repo)) is None:
            return
        if (commit := self._commit_of(one, revision)) is None:
            return
        listed = [
            {"type": "file", "path": name, "size": len(content), "oid": _git_id(content)}
            for name, content in one.commits[commit].items()
        ]
        self._json(listed)

    def resolve(self, _body: bytes, repo: str, revision: str, name: str) -> None:
        if (one := self._repo(repo)) is None:
            return
        if (commit := self._commit_of(one, revision)) is None:
            return
        if name not in one.commits[commit]:
            self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        content = one.commits[commit][name]
        headers = {"ETag": f'"{_git_id(content)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        start, status = 0, 200
        if self._failure != "restart" and (found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))):
            start, status = int(found[1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        part = content[start:]
        self._answer(part, status, headers)
        if self.command == "GET":
            self.hub.sent += len(part)

    # --- writing

    def create(self, body: bytes) -> None:
        if not self._authorized():
            self._json({"error": "Invalid username or password."}, 401)
            return
        asked = json.loads(body)
        repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        if repo in self.hub.repos:
            self._json({"error": "You already created this model repo", "url": f"{self.hub.address}/{repo}"}, 409)
            return
        private = asked.get("private", asked.get("visibility") == "private")
        self.hub.repos[repo] = Repo(bool(private))
        self.hub.commit(repo, "main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        self._json({"url": f"{self.hub.address}/{repo}", "name": repo})

    def validate(self, body: bytes) -> None:
        content = json.loads(body)["content"]
        found = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        errors = [] if found and "license:" in found[1] else [{"message": "no metadata with a license"}]
        self._json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def branch(self, _body: bytes, repo: str, branch: str) -> None:
        if (one := self._repo(repo, write=True)) is None:
            return
        if branch in one.branches:
            self._json({"error": "exists"}, 409)
            return
        one.branches[branch] = one.branches["main"]
        self._json({})

    def preupload(self, body: bytes, repo: str, revision: str) -> None:
        if self._repo(repo, write=True) is None:
            return
        files = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if one["path"].endswith(LFS) else "regular",
                "shouldIgnore": False,
            }
            for one in json.loads(body)["files"]
        ]
        self._json({"files": files})

    def batch(self, body: bytes, repo: str) -> None:
        if self._repo(repo, write=True) is None:
            return
        objects = []
        for one in json.loads(body)["objects"]:
            action = {"upload": {"href": f"{self.hub.address}/lfs/{one['oid']}", "header": {}}}
            known = one["oid"] in self.hub.blobs
            objects.append({**one, "authenticated": True, **({} if known else {"actions": action})})
        self._json({"transfer": "basic", "objects": objects})

    def lfs(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.blobs[oid] = body
        self._answer(b"", 200, {})

    def commit(self, body: bytes, repo: str, revision: str) -> None:
        if (one := self._repo(repo, write=True)) is None:
            return
        lines = [json.loads(line) for line in body.splitlines()]
        files = dict(one.commits[one.branches[revision]])
        for line in lines:
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit", one.branches[revision]) != one.branches[revision]:
                self._json({"error": "A commit has happened since."}, 412)
                return
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        name = self.hub.commit(repo, revision, files)
        self._json({"commitUrl": f"{self.hub.address}/{repo}/commit/{name}", "commitOid": name, "success": True})

    # --- answers

    def _authorized(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repo(self, repo: str, *, write: bool = False) -> Repo | None:
        one = self.hub.repos.get(repo)
        if self.headers.get("Authorization") and not self._authorized():
            self._json({"error": "Invalid credentials in Authorization header"}, 401)
            return None
        if one is None or (one.private and not self._authorized()):
            status = 404 if self._authorized() else 401
            self._json({"error": "Repository not found"}, status, {"X-Error-Code": "RepoNotFound"})
            return None
        if write and not self._authorized():
            self._json({"error": "You need the right to write"}, 403)
            return None
        return one

    def _commit_of(self, one: Repo, revision: str) -> str | None:
        commit = one.branches.get(revision, revision)
        if commit not in one.commits:
            self._json({"error": "Revision not found"}, 404, {"X-Error-Code": "RevisionNotFound"})
            return None
        return commit

    def _json(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        more = {"Content-Type": "application/json", **(headers or {})}
        if status >= 400 and isinstance(content, dict):
            more["X-Error-Message"] = str(content.get("error", ""))
        self._answer(json.dumps(content).encode(), status, more)

    def _answer(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self._failure in ("cut", "restart"):
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)  # close alone would leave the client waiting
            self.close_connection = True
            return
        self.wfile.write(content)


_NAME = r"(?P<repo>[\w.-]+/[\w.-]+)"
_ROUTES = [
    (r"/api/repos/create", "create"),
    (r"/api/validate-yaml", "validate"),
    (rf"/api/models/{_NAME}", "info"),
    (rf"/api/models/{_NAME}/revision/(?P<revision>.+)", "info"),
    (rf"/api/models/{_NAME}/tree/(?P<revision>[^/]+)", "tree"),
    (rf"/api/models/{_NAME}/branch/(?P<branch>.+)", "branch"),
    (rf"/api/models/{_NAME}/preupload/(?P<revision>.+)", "preupload"),
    (rf"/api/models/{_NAME}/commit/(?P<revision>.+)", "commit"),
    (rf"/{_NAME}\.git/info/lfs/objects/batch", "batch"),
    (r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs"),
    (rf"/{_NAME}/resolve/(?P<revision>[^/]+)/(?P<name>.+)", "resolve"),
]


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
