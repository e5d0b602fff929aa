"""The requests of the service, and their description."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, HTTPException
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as AnyHTTPException

from setclip_cli.embedding.search import residues
from setclip_cli.errors import SetClipError, UsageError
from setclip_cli.serving.batching import BusyError
from setclip_cli.serving.bodies import (
    FRAMES,
    RESIDUES,
    VIDEOS,
    About,
    EmbedAnswer,
    EmbedRequest,
    Health,
    Item,
    MatchAnswer,
    MatchRequest,
    Problem,
    SearchAnswer,
    SearchRequest,
    Tower,
)
from setclip_cli.serving.pictures import picture_of
from setclip_cli.serving.service import EmbedJob, SearchJob, Service, picture_of_row
from setclip_cli.version import __version__
from setclip_cli.web.local_app import local_app

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import Request

    from setclip_cli.dataset.modality import Modality, RowKind
    from setclip_cli.embedding.vectors import Vectors
    from setclip_cli.serving.batching import Batches
    from setclip_cli.serving.matches import Partners
    from setclip_cli.serving.videos import Videos

PAGE = Path(__file__).parent / "page"
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The body cannot be read.", "model": Problem},
    403: {"description": "Without the token, or another page sent it.", "model": Problem},
    408: {"description": "The request took too long to arrive.", "model": Problem},
    413: {"description": "The request is too large.", "model": Problem},
    422: {"description": "The request cannot be answered.", "model": Problem},
    500: {"description": "The service cannot answer, and the request is not why.", "model": Problem},
    503: {
        "description": "Too much is asked for just now, rows are still compared, or the service stops.",
        "model": Problem,
    },
}
_REFUSED = {code: _PROBLEMS[code] for code in (403, 408, 413)}
_SEE = "see the page /docs"
_JSON = "send a JSON object and the header Content-Type: application/json"
_KINDS: dict[str, RowKind] = {
    "text": "text",
    "sequence": "protein",
    "image": "image",
    "vector": "vector",
    "video": "video",
    "frames": "video",
}
_DESCRIPTION = """\
Embeds items with a trained model and searches the rows that it has embedded. Send the header
`Authorization: Bearer TOKEN` with the token that `setclip serve` printed. Everything is JSON."""


def serve_app(
    service: Service,
    batches: Batches[EmbedJob | SearchJob, Any],
    partners: Partners,
    videos: Videos,
    *,
    port: int,
    token: str | None,
    body_bytes: int,
    timeout_s: float,
    any_host: bool = False,
) -> FastAPI:
    """The application of one service.

    Args:
        timeout_s: Seconds for a request to arrive, and as many to be answered.
        any_host: Other computers may ask too.
    """
    app = FastAPI(
        title="setclip serve",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    local_app(
        app=app,
        port=port,
        token=token,
        pages=[PAGE],
        body_bytes=body_bytes,
        body_s=timeout_s,
        open_paths=("/health",),
        any_host=any_host,
    )

    @app.get("/health")
    async def health() -> Health:
        """Whether the service answers. It needs no token."""
        return Health(status="ok", version=__version__)

    @app.get("/about", responses={403: _PROBLEMS[403]})
    async def about() -> About:
        """What is served."""
        towers = [
            Tower(
                modality=name,
                kind=service.kind(name),
                searched=len(service.collections[name].index) if name in service.collections else 0,
            )
            for name in service.towers
        ]
        index = service.embeddings.index
        return About(
            model=index.model,
            method=index.method,
            dim=index.dim,
            towers=towers,
            split=service.split,
            match=partners.state,
        )

    @app.post("/embed", responses=_PROBLEMS)
    async def embed(request: EmbedRequest) -> EmbedAnswer:
        """Embeddings of items, which may be of several modalities. Rows of length 1."""
        letters = sum(len(item.sequence or "") for item in request.items)
        if letters > RESIDUES:
            raise UsageError(
                f"items: their sequences have {letters:,} residues, more than {RESIDUES:,}",
                fix="send them in several requests",
            )
        for what, found, most in (
            ("videos", sum(item.video is not None for item in request.items), VIDEOS),
            ("frames", sum(len(item.frames or ()) for item in request.items), FRAMES),
        ):
            if found > most:
                raise UsageError(f"items: have {found} {what}, more than {most}", fix="send them in several requests")
        items = [await _item(service, videos, item, f"items.{place}.") for place, item in enumerate(request.items)]
        embedded = await batches.answer(EmbedJob(items), within_s=timeout_s)
        index = service.embeddings.index
        return EmbedAnswer(model=index.model, dim=index.dim, embeddings=embedded)

    @app.post("/search", responses=_PROBLEMS)
    async def search(request: SearchRequest) -> SearchAnswer:
        """The rows nearest to a query by cosine. Every row is compared."""
        answer: SearchAnswer = await batches.answer(await _search_job(service, videos, request), within_s=timeout_s)
        return answer

    @app.post("/match", responses={**_PROBLEMS, 409: {"model": Problem, "description": "The rows cannot be compared."}})
    async def match(request: MatchRequest) -> MatchAnswer:
        """The partners of rows, each with the probability that it is right, and that there is none.

        They are those of `setclip match`. The first request starts the comparison of all rows, and may get 503.
        """
        try:
            return await partners.answer(request, within_s=timeout_s)
        except UsageError:
            raise
        except SetClipError as error:
            problem, fix = error.for_command_line()
            raise HTTPException(409, {"error": problem, "fix": fix}) from error

    @app.get(
        "/picture/{modality}/{place}/{size}",
        responses={
            200: {"content": {"image/jpeg": {}}, "description": "A JPEG of at most 240 or 720 pixels a side."},
            403: _PROBLEMS[403],
            404: {"model": Problem, "description": "There is no such picture."},
            422: _PROBLEMS[422],
            500: _PROBLEMS[500],
        },
        response_class=Response,
    )
    def picture(
        modality: str, place: Annotated[int, InPath(ge=0, le=2**62)], size: Literal["small", "large"]
    ) -> Response:
        """A picture that an answer names."""
        content = picture_of_row(service, modality, place, size)
        if content is None:
            raise HTTPException(404, "there is no such picture")
        return Response(content, media_type="image/jpeg")

    @app.get("/docs", include_in_schema=False)
    def docs() -> Response:
        return Response((PAGE / "docs.html").read_bytes(), media_type="text/html")

    def told(error: str, fix: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
        content = {"error": service.without_paths(error), "fix": service.without_paths(fix)}
        return JSONResponse(content, status, headers)

    @app.exception_handler(UsageError)
    async def unusable(_request: Request, error: UsageError) -> Response:
        return told(*error.for_command_line(), 422)

    @app.exception_handler(SetClipError)
    async def problem(_request: Request, error: SetClipError) -> Response:
        return told(*error.for_command_line(), 500)

    @app.exception_handler(BusyError)
    async def busy(_request: Request, error: BusyError) -> Response:
        return told(str(error), "ask again later", 503, {"retry-after": "1"})

    @app.exception_handler(AnyHTTPException)
    @app.exception_handler(HTTPException)
    async def refused(_request: Request, error: AnyHTTPException) -> Response:
        return told(*_parts(error.detail), error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def misunderstood(request: Request, error: RequestValidationError) -> Response:
        return told(*_first_mistake(error, request.headers.get("content-type")), 422)

    return app


def _parts(detail: object) -> tuple[str, str]:
    """What is wrong and how to mend it, of the detail of an error."""
    return (detail["error"], detail["fix"]) if isinstance(detail, dict) else (str(detail), _SEE)


def _first_mistake(error: RequestValidationError, sent_as: str | None) -> tuple[str, str]:
    """Where the first mistake is and what it is; of what was sent only the name of a field is repeated."""
    found = error.errors()[0]
    place = ".".join(str(part) for part in found["loc"][1:])
    if found["loc"][0] == "body":
        if sent_as is None:
            return "the header Content-Type is missing", _JSON
        if not sent_as.partition(";")[0].strip().lower().endswith(("/json", "+json")):
            return "the header Content-Type says that the request is not JSON", _JSON
    if found["type"] == "json_invalid":
        return "the request is not JSON", _JSON
    if found["type"] == "extra_forbidden":
        return f"the request has a field that is not known: {place[-60:]!r}", _SEE
    said = found["msg"].removeprefix("Value error, ")
    return f"{place}: {said}" if place else said, _SEE


async def _item(service: Service, videos: Videos, item: Item, place: str = "") -> tuple[Modality, Any]:
    """The modality of an item, and what its tower reads."""
    name, value = next((name, value) for name in _KINDS if (value := getattr(item, name)) is not None)
    modality = service.modality_of(_KINDS[name], item.query_modality)
    if name == "vector":
        width = service.towers[modality].backbone.dim
        if len(value) != width:
            raise UsageError(
                f"{place}vector: has {len(value)} values, and the {modality} tower reads {width}",
                fix="send a vector of the encoder that the tower was aligned with",
            )
        return modality, np.array(value, np.float32)
    if name == "image":
        bands = bool(getattr(service.towers[modality].backbone, "bands", None))
        return modality, await asyncio.to_thread(picture_of, value, bands=bands)
    if name in ("video", "frames"):
        taken = service.towers[modality].frames
        field = f"{place}{name}"
        return modality, await (videos.of_file if name == "video" else videos.of_frames)(value, taken, field)
    if name == "sequence":
        value = residues(value)
    if not value.strip():
        raise UsageError(f"{place}{name}: is empty", fix="send some letters")
    return modality, value


async def _search_job(service: Service, videos: Videos, request: SearchRequest) -> SearchJob:
    if request.embedding is not None or request.id is not None:
        asked = request.query_modality
        if request.id is None:
            vector = _embedding(service, request.embedding or [])
        else:
            vector = await asyncio.to_thread(_row, service, request)
        if asked is not None and asked not in service.towers:
            raise UsageError(
                f"as: there is no {asked!r} tower here, only {' and '.join(service.towers)}",
                fix=f"choose {' or '.join(service.towers)}",
            )
        return SearchJob(asked, _wanted(service, request, asked), request.top, vector=vector)
    modality, item = await _item(service, videos, request)
    return SearchJob(modality, _wanted(service, request, modality), request.top, item=item)


def _wanted(service: Service, request: SearchRequest, asked: Modality | None) -> Modality:
    names = [*service.collections]
    if request.modality is not None:
        return service.collection(request.modality, "in").modality
    others = [name for name in names if name != asked]
    if asked is None and len(names) > 1:
        raise UsageError("in: nothing says which rows to search", fix=f'say it, such as "in": "{names[0]}"')
    return others[0] if others else names[0]


def _row(service: Service, request: SearchRequest) -> Vectors:
    if request.query_modality is None:
        raise UsageError("id: nothing says of which modality", fix='say it, such as "as": "image"')
    collection = service.collection(request.query_modality, "as")
    row = collection.row_of(request.id or "")
    if row is None:
        raise UsageError(f"id: there is no such {request.query_modality} row", fix="give the id of a row that is here")
    return collection.vector(row)


def _embedding(service: Service, values: list[float]) -> Vectors:
    dim = service.embeddings.index.dim
    if len(values) != dim:
        raise UsageError(
            f"embedding: has {len(values)} values, and embeddings here have {dim}",
            fix="send an embedding that /embed gave",
        )
    vector = np.array(values, np.float64)
    largest = np.abs(vector).max()
    if largest == 0:
        raise UsageError("embedding: is zero", fix="send an embedding that /embed gave")
    vector /= largest  # the squares of very large or small numbers would be none
    unit: Vectors = (vector / np.linalg.norm(vector)).astype(np.float32)
    return unit
