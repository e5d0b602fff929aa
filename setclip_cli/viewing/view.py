"""`setclip view`: EMBEDDINGS as an interactive map, until it is closed."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setclip_cli.console import note, text_of_lines
from setclip_cli.embedding.embedded_dataset import dataset_of
from setclip_cli.embedding.embeddings import open_embeddings
from setclip_cli.options import path_of
from setclip_cli.remote.arguments import takes_places
from setclip_cli.viewing.app import view_app, viewer_files
from setclip_cli.viewing.options import ViewOptions
from setclip_cli.viewing.table import table_of
from setclip_cli.web.local_app import new_token
from setclip_cli.web.serving import LocalServer, open_in_browser, port_of, take_port

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class ViewResult:
    """What was shown, when the page has been closed."""

    embeddings: Path
    rows: int

    def as_json(self) -> dict[str, Any]:
        return {"embeddings": str(self.embeddings), "rows": self.rows}

    def summary(self) -> str:
        return text_of_lines([f"{self.embeddings}: {self.rows:,} rows were shown"])


@takes_places("embeddings")
def view(
    embeddings: str | Path,
    *,
    options: ViewOptions = ViewOptions(),
    ready: Callable[[str], None] = lambda _address: None,
    served: Callable[[LocalServer], None] = lambda _server: None,
) -> ViewResult:
    """Serves the map to this computer until the server is stopped, with Ctrl-C for example.

    Args:
        embeddings: The EMBEDDINGS.
        ready: Is called with the address as soon as the page can be opened.
        served: Is called with the server before, for a caller that wants to stop it.

    Raises:
        SetClipError: the viewer is not installed, a file is missing or has changed, or the port is in use.
    """
    embeddings = path_of(embeddings, "embeddings")
    files = viewer_files()
    with closing(take_port(options.port)) as taken:
        opened = open_embeddings(embeddings)
        dataset = dataset_of(opened, None if options.data is None else Path(options.data), needed=False)
        port, token = port_of(taken), new_token()
        place = f"http://127.0.0.1:{port}"
        table, pictures = table_of(opened, options.split, dataset, pictures=f"{place}/picture")
        address = f"{place}/?token={token}"

        def say_ready() -> None:
            note(f"ready: {address}")
            note(f"{len(table):,} rows are shown there; press Ctrl-C here to stop")
            if not options.no_browser:
                open_in_browser(address)
            ready(address)

        server = LocalServer(view_app(table, pictures, files, port=port, token=token), ready=say_ready)
        served(server)
        server.run(sockets=[taken])
        return ViewResult(embeddings, len(table))
