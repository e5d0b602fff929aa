"""The page of `setclip view` in a thread of the test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from setclip_cli.viewing.options import ViewOptions
from setclip_cli.viewing.view import view
from setclip_cli.web.serving import LocalServer

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "\u202egnirts\x1b[31m",
    "{{1+1}} **bold** [a](javascript:alert(2)) <script>alert(3)</script>",
    "https://evil.example/picture.png",
    "data:image/svg+xml,<svg onload=alert(4)>",
)


@contextmanager
def view_of(folder: Path, **options: Any) -> Iterator[str]:
    """Serves the map of EMBEDDINGS; yields the address."""
    addresses: list[str] = []
    servers: list[LocalServer] = []
    started = threading.Event()
    settings = ViewOptions(no_browser=True, **options)

    def ready(address: str) -> None:
        addresses.append(address)
        started.set()

    given = {"options": settings, "ready": ready, "served": servers.append}
    thread = threading.Thread(target=view, args=(folder,), kwargs=given)
    thread.start()
    try:
        assert started.wait(120)
        yield addresses[0]
    finally:
        for server in servers:
            server.stop()
        thread.join(60)
