"""`setclip serve`: a RUN and its EMBEDDINGS behind HTTP, until it is stopped."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from setclip_cli.console import note, text_of_lines, warning
from setclip_cli.embedding.embedded_dataset import dataset_of
from setclip_cli.embedding.embeddings import open_embeddings
from setclip_cli.errors import UsageError, argument, translated
from setclip_cli.files.what_is import what_is
from setclip_cli.options import path_of
from setclip_cli.remote.arguments import takes_places
from setclip_cli.serving.app import serve_app
from setclip_cli.serving.batching import Batches
from setclip_cli.serving.matches import Partners
from setclip_cli.serving.options import LOCAL_HOSTS, ServeOptions
from setclip_cli.serving.service import EmbedJob, SearchJob, Service
from setclip_cli.serving.videos import Videos
from setclip_cli.web.local_app import new_token
from setclip_cli.web.serving import LocalServer, port_of, take_port

if TYPE_CHECKING:
    from collections.abc import Callable

SHORTEST_TOKEN = 16
SWITCH_S = 0.0005  # the thread that searches often needs the interpreter for a moment; 5 ms are a third of a pass


@dataclass(frozen=True)
class ServeResult:
    """What was served, when the service has been stopped.

    Attributes:
        rows: Modality -> rows that could be searched.
    """

    run: Path
    embeddings: Path
    rows: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        return {"run": str(self.run), "embeddings": str(self.embeddings), "rows": self.rows}

    def summary(self) -> str:
        return text_of_lines([f"{self.embeddings}: was served, with {self.run}"])


@takes_places("run", "embeddings")
def serve(
    run: str | Path,
    embeddings: str | Path,
    *,
    options: ServeOptions = ServeOptions(),
    ready: Callable[[str], None] = lambda _address: None,
    served: Callable[[LocalServer], None] = lambda _server: None,
) -> ServeResult:
    """Answers requests until the server is stopped, with Ctrl-C for example.

    Args:
        run: The RUN.
        embeddings: EMBEDDINGS that it made.
        ready: Is called with the address as soon as requests are answered.
        served: Is called with the server before, for a caller that wants to stop it.

    Raises:
        SetClipError: the RUN did not make the EMBEDDINGS, weights are missing, a file is damaged, or the port is in
            use.
    """
    run, embeddings = path_of(run, "run"), path_of(embeddings, "embeddings")
    if (what_is(run).kind, what_is(embeddings).kind) == ("embeddings", "run"):
        raise UsageError(
            f"{run} is EMBEDDINGS and {embeddings} is a RUN: they are in the wrong order",
            fix=f"setclip serve {embeddings} {run}",
        )
    token = None if options.no_token else _token(options)
    with closing(take_port(options.port, options.host)) as taken:
        opened = open_embeddings(embeddings)
        if opened.index.run is None:
            raise UsageError(
                f"{embeddings}: holds raw features of a backbone, which no RUN made",
                fix=f"setclip embed {run} DATASET --out EMBEDDINGS; then serve these",
            )
        data = None if options.data is None else Path(options.data)
        service = Service.open(run, opened, split=options.split, dataset=dataset_of(opened, data, needed=False))
        before = sys.getswitchinterval(), torch.get_num_threads()
        sys.setswitchinterval(SWITCH_S)
        torch.set_num_threads(max(1, before[1] - 1))  # one is left to read requests and write answers
        batches: Batches[EmbedJob | SearchJob, Any] = Batches(service.work)
        partners = Partners(service)
        videos = Videos(within_s=options.timeout)
        port, local = port_of(taken), options.host in LOCAL_HOSTS
        shown = options.host if ":" not in options.host else f"[{options.host}]"
        address = f"http://{shown}:{port}/" + (f"?token={token}" if token else "")
        app = serve_app(
            service,
            batches,
            partners,
            videos,
            port=port,
            token=token,
            body_bytes=options.body_mib << 20,
            timeout_s=options.timeout,
            any_host=not local,
        )

        def say_ready() -> None:
            note(f"ready: {address}")
            note(f"the page is there, and its requests are described in http://{shown}:{port}/docs; Ctrl-C stops it")
            if not local:
                warning("what is sent is not encrypted, the token neither: put a server with TLS before it")
            ready(address)

        server = LocalServer(app, ready=say_ready, patience_s=3 * options.timeout, arrival_s=options.timeout)
        served(server)
        try:
            server.run(sockets=[taken])
        finally:
            batches.close()
            partners.close()
            videos.close()
            sys.setswitchinterval(before[0])
            torch.set_num_threads(before[1])
        return ServeResult(run, embeddings, {name: len(one.index) for name, one in service.collections.items()})


def _token(options: ServeOptions) -> str:
    """The token of the file, or a new one.

    Raises:
        SetClipError: the file cannot be read.
        UsageError: what it holds is no token.
    """
    if options.token_file is None:
        return new_token()
    path, shown = Path(options.token_file), argument("token_file")
    with translated(path, OSError, UnicodeDecodeError, found="cannot be read", fix="check the path"):
        token = path.read_text(encoding="ascii").strip()
    if len(token) < SHORTEST_TOKEN or not all(letter.isalnum() or letter in "-_" for letter in token):
        raise UsageError(
            f"{shown} {path}: does not hold {SHORTEST_TOKEN} or more letters, digits, '-' and '_'",
            fix=f"make one: python -c 'import secrets; print(secrets.token_urlsafe(32))' > {path}",
        )
    return token
