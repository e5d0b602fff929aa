"""The page of `setclip view`: the files of embedding-atlas, and the table that it reads."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from fastapi import HTTPException
from fastapi.responses import JSONResponse, Response
from starlette.staticfiles import StaticFiles

from setclip_cli.errors import SetClipError
from setclip_cli.viewing.table import ROW_NAME
from setclip_cli.web.local_app import local_app

if TYPE_CHECKING:
    from fastapi import FastAPI

    from setclip_cli.dataset.modality import Modality
    from setclip_cli.web.rows import Rows

# The viewer compiles WebAssembly, starts workers and styles its elements. It evaluates no text and asks no other site.
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' data: blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


_HIDDEN = {name: {"display": "hidden"} for name in ("x", "y")}  # when a person points at a row


def viewer_files() -> Path:
    """The folder with the pages of embedding-atlas; the package itself is not imported.

    Raises:
        SetClipError: it is not installed, or has no pages.
    """
    found = importlib.util.find_spec("embedding_atlas")
    folder = None if found is None or found.origin is None else Path(found.origin).parent / "static"
    if folder is None or not (folder / "index.html").is_file():
        raise SetClipError("the viewer embedding-atlas is not installed", fix="pip install 'setclip[view]'")
    return folder


def view_app(table: pa.Table, pictures: dict[Modality, Rows], files: Path, *, port: int, token: str) -> FastAPI:
    """The application.

    Args:
        table: From `table_of`.
        pictures: Rows whose pictures are shown.
        files: From `viewer_files`.
    """
    app = local_app(port=port, token=token, pages=[files], policy=POLICY)
    content = _parquet(table)

    @app.get("/data/metadata.json")
    def metadata() -> Response:
        return JSONResponse(_metadata(table))

    @app.api_route("/data/dataset.parquet", methods=["GET", "HEAD"])
    def dataset() -> Response:
        return Response(content, media_type="application/octet-stream")

    @app.get("/data/cache/{name}")
    def cached(name: str) -> Response:
        raise HTTPException(404, "nothing is kept")

    @app.post("/data/cache/{name}")
    def keep(name: str) -> Response:
        return Response(status_code=204)

    @app.get("/picture/{modality}/{row}/{size}")
    def picture(modality: str, row: int, size: Literal["small", "large"]) -> Response:
        rows = pictures.get(modality)
        if rows is None or not 0 <= row < len(rows):
            raise HTTPException(404, "there is no such picture")
        return Response(rows.picture(row, size), media_type="image/jpeg", headers={"cache-control": "max-age=600"})

    for folder in ("assets", "duckdb-wasm"):
        if (files / folder).is_dir():
            app.mount(f"/{folder}", StaticFiles(directory=files / folder))
    return app


def _parquet(table: pa.Table) -> bytes:
    written = pa.BufferOutputStream()
    pq.write_table(table, written, compression="snappy")
    content: bytes = written.getvalue().to_pybytes()
    return content


def _metadata(table: pa.Table) -> dict[str, Any]:
    """What the viewer is told of the table."""
    shown = {kind: name for kind, name in {"text": "text", "image": "picture"}.items() if name in table.column_names}
    data = {"id": ROW_NAME, "projection": {"x": "x", "y": "y"}, **shown}
    embedding = {"data": {"x": "x", "y": "y", "category": "modality", **shown}}
    props = {
        "data": data,
        "defaultChartsConfig": {"embedding": embedding, "exclude": ["id", "picture"]},  # all values differ
        "initialState": {"columnStyles": {"picture": {"renderer": "image", "display": "full"}, **_HIDDEN}},
    }
    return {"props": props, "database": {"type": "wasm", "load": True}}
