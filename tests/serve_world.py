"""RUNs and EMBEDDINGS to serve, and a service of them in a thread of the test."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paired_vectors
from label_world import Client
from small_world import run_ok

from setclip_cli.serving.options import ServeOptions
from setclip_cli.serving.serve import serve
from setclip_cli.web.serving import LocalServer


def make_vectors(folder: Path) -> Path:
    """data, run and embeddings of two modalities of vectors; the RUN is calibrated on its known pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    paired_vectors.write_pools(folder / "data", lonely=20)
    recipe = paired_vectors.write_recipe(folder)
    run_ok("align", recipe, "--data", folder / "data", "--out", folder / "run")
    run_ok("embed", folder / "run", folder / "data", "--out", folder / "embeddings")
    return folder


@contextmanager
def service_of(folder: Path, **options: Any) -> Iterator[str]:
    """Serves run and embeddings of a folder; yields the address."""
    addresses: list[str] = []
    servers: list[LocalServer] = []
    failed: list[BaseException] = []
    started = threading.Event()

    def ready(address: str) -> None:
        addresses.append(address)
        started.set()

    def work() -> None:
        try:
            settings = ServeOptions(**options)
            serve(folder / "run", folder / "embeddings", options=settings, ready=ready, served=servers.append)
        except BaseException as error:
            failed.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert started.wait(120)
        if not failed:
            yield addresses[0]
    finally:
        for server in servers:
            server.stop()
        thread.join(60)
    if failed:
        raise failed[0]


def in_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def token_of(address: str) -> str:
    return address.partition("token=")[2]


class Caller(Client):
    """Sends requests as a program does that was given the token."""

    def __init__(self, address: str, token: str | None = None) -> None:
        super().__init__(address.partition("?")[0])
        self.token = token_of(address) if token is None else token

    def post(self, path: str, body: object, **headers: str | None) -> tuple[int, Any]:
        """Status and content."""

        sent = {"origin": None, "authorization": f"Bearer {self.token}" if self.token else None} | headers
        status, told, content = self.ask("POST", path, body, **sent)
        return status, json.loads(content) if told.get("content-type") == "application/json" else content.decode()

    def fine(self, path: str, **body: Any) -> Any:
        """The content of an answer that must be good. ``as_`` and ``in_`` are sent without their last letter."""
        status, content = self.post(path, {name.removesuffix("_"): value for name, value in body.items()})
        assert status == 200, content
        return content
