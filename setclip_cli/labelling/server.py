"""The requests of the label page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import HTTPException, Query
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict

from setclip_cli.dataset.schemas import PICTURES
from setclip_cli.labelling.answers import Verdict
from setclip_cli.labelling.next_steps import Running, as_typed
from setclip_cli.labelling.session import MisfitError, Session, StaleError
from setclip_cli.web.local_app import local_app

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import FastAPI, Request

PAGE = Path(__file__).parent / "page"


class Move(BaseModel):
    """A request that changes something: made on the state of this revision."""

    model_config = ConfigDict(extra="forbid")

    revision: int


class Choice(Move):
    """An answer; ``row`` of the other side for the answer ``partner``."""

    answer: Verdict
    row: int | None = None


def label_app(
    session: Session,
    commands: Callable[[], list[list[str]]],
    running: Running,
    *,
    port: int,
    token: str,
    stop: Callable[[], None],
) -> FastAPI:
    """The application of one labelling session.

    Args:
        commands: What comes after the answers, see `next_steps`.
        stop: Ends the server.
    """
    app = local_app(port=port, token=token, pages=[PAGE])

    def answer_of(state: dict[str, Any]) -> dict[str, Any]:
        done = state["question"] is None
        return state | {"commands": [as_typed(words) for words in commands()] if done else []}

    @app.get("/api/state")
    def state() -> dict[str, Any]:
        return answer_of(session.state())

    @app.post("/api/answer")
    def answer(choice: Choice) -> dict[str, Any]:
        return answer_of(session.answer(choice.revision, choice.answer, choice.row))

    @app.post("/api/undo")
    def undo(move: Move) -> dict[str, Any]:
        return answer_of(session.undo(move.revision))

    @app.post("/api/again")
    def again(move: Move) -> dict[str, Any]:
        return answer_of(session.look_again(move.revision))

    @app.get("/api/more")
    def more() -> dict[str, Any]:
        return {"rows": session.more()}

    @app.get("/api/search")
    def search(words: Annotated[str, Query(max_length=300)]) -> dict[str, Any]:
        rows, holding, problem = session.search(words)
        return {"rows": rows, "holding": holding, "problem": problem}

    @app.get("/picture/{side}/{row}/{size}")
    def picture(side: Literal["0", "1"], row: int, size: Literal["small", "large"]) -> Response:
        rows = session.rows[int(side)]
        if not 0 <= row < len(rows) or rows.kind not in PICTURES:
            raise HTTPException(404, "there is no such picture")
        return Response(rows.picture(row, size), media_type="image/jpeg")

    @app.post("/api/run")
    def run(_move: Move) -> dict[str, Any]:
        running.start()
        return running.shown()

    @app.get("/api/run")
    def run_so_far() -> dict[str, Any]:
        return running.shown()

    @app.post("/api/stop")
    def stopped(_move: Move) -> dict[str, Any]:
        stop()
        return {}

    @app.exception_handler(StaleError)
    def stale(_request: Request, _error: StaleError) -> Response:
        told = {"error": "this question has been answered, perhaps in another window", "state": state()}
        return JSONResponse(told, status_code=409)

    @app.exception_handler(MisfitError)
    def misfit(_request: Request, _error: MisfitError) -> Response:
        return JSONResponse({"error": "this is not an answer to the open question", "fix": "reload the page"}, 422)

    return app
