"""The partners of rows: as `setclip match` finds them, made once, when they are first asked for."""

from __future__ import annotations

import asyncio
import ctypes
import math
import threading
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch

from setclip_cli.errors import SetClipError, UsageError
from setclip_cli.files.documents import read_toml
from setclip_cli.matching.match import Matches
from setclip_cli.matching.options import MatchOptions
from setclip_cli.pools import Towers, read_pools
from setclip_cli.recipe.recipe import Recipe
from setclip_cli.run.config import RECIPE_NAME, load_config, require_file
from setclip_cli.serving.batching import BusyError
from setclip_cli.serving.bodies import MatchAnswer, Matched, MatchRequest, Partner, Shown
from setclip_cli.serving.collection import shown_of
from setclip_cli.trust.saved import read_calibration, why_not
from setclip_cli.web.rows import Rows

if TYPE_CHECKING:
    from setclip_cli.serving.service import Service

State = Literal["not asked for", "preparing", "ready", "failed"]
PARTNERS = 20  # of each row that are kept
_PATIENCE_S = 10  # for a comparison to end that was told to
_FEW = "too few pairs of this split are known to tell which rows have no partner"


class Partners:
    """All rows of one split compared with each other, in a thread of their own."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._made: Future[_Made] | None = None
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def state(self) -> State:
        if self._made is None:
            return "not asked for"
        if not self._made.done():
            return "preparing"
        return "ready" if self._made.exception() is None else "failed"

    async def answer(self, request: MatchRequest, *, within_s: float) -> MatchAnswer:
        """The partners of some rows.

        Raises:
            BusyError: the rows are still being compared; they will be later.
            SetClipError: the DATASET is not there or has changed, or there is no such row.
        """
        with self._starting:
            future = self._made
            if future is None or self.state == "failed":  # what was missing may have been put back
                future = self._made = Future()
                self._thread = threading.Thread(target=self._make, args=(future,), name="setclip-match", daemon=True)
                self._thread.start()
        try:
            made = await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(future)), within_s)
        except TimeoutError as error:
            raise BusyError("all rows are being compared, once") from error
        return await asyncio.to_thread(made.answer, request)

    def close(self) -> None:
        """Ends a comparison that is under way, as Ctrl-C ends a command: at its next step in Python."""
        thread = self._thread
        if thread is not None and thread.is_alive() and thread.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_StoppedError))
            thread.join(_PATIENCE_S)

    def _make(self, future: Future[_Made]) -> None:
        try:
            future.set_result(_Made(self._service))
        except _StoppedError:
            return  # who waited was told that the service stops
        except Exception as error:
            future.set_exception(error)


class _StoppedError(SystemExit):
    """Ends the thread of a comparison, wherever it is, without a word."""


class _Made:
    def __init__(self, service: Service) -> None:
        """Raises SetClipError as `match`."""
        run, dataset = service.run, service.dataset
        if dataset is None:
            raise SetClipError(
                "the DATASET that was embedded is not there, and rows are matched with it",
                fix="whoever runs the service starts it again with the path of the DATASET: --data DATASET",
            )
        config = load_config(run)
        require_file(run, config, RECIPE_NAME)
        recipe = Recipe.read_back(read_toml(run / RECIPE_NAME))
        towers = Towers(
            dataset, recipe, service.model, {name: tower.backbone for name, tower in service.towers.items()}
        )
        splits = {shard.split for shard in service.embeddings.index.shards}
        split = service.split or (splits.pop() if len(splits) == 1 else None)  # None: that of the recipe
        pools = read_pools(dataset, split=split, towers=towers)
        calibration = read_calibration(run)
        options = MatchOptions(top=PARTNERS)
        made = Matches.of(pools, calibration, options)
        nothing = torch.zeros(0)  # what the answers do not need any more
        left, right = (replace(side, features=nothing, embeddings=None) for side in pools.sides)
        self.matches = replace(made, pools=replace(pools, left=left, right=right), unmatched=None)
        self.coverage = options.coverage
        self.why = "" if calibration else service.without_paths("; ".join(why_not(run, config)))
        self.modalities = [side.modality for side in pools.sides]
        self.places = [{name: row for row, name in enumerate(side.ids)} for side in pools.sides]
        self.rows = [Rows(dataset, modality, pools.split) for modality in self.modalities]

    def answer(self, request: MatchRequest) -> MatchAnswer:
        """Raises UsageError if there is no such modality or row."""
        if request.modality not in self.modalities:
            raise UsageError(
                f"modality: there are no {request.modality!r} rows here", fix=f"choose {' or '.join(self.modalities)}"
            )
        side = self.modalities.index(request.modality)
        pools = self.matches.pools
        if absent := [name for name in request.ids if name not in self.places[side]]:
            raise UsageError(
                f"ids: split {pools.split!r} has no {request.modality} {absent[0][:60]!r}",
                fix="give ids of rows as /search shows them",
            )
        asked = torch.tensor([self.places[side][name] for name in request.ids])
        block = self.matches.block_of(side, asked)
        found = block.right if side == 0 else block.left
        width = len(found) // len(asked)
        matched = []
        for number, name in enumerate(request.ids):
            places = range(number * width, number * width + min(request.top, width))
            partners = [
                Partner(
                    rank=int(block.rank[at]),
                    id=found[at],
                    score=round(float(block.cosine[at]), 6),
                    probability=_known(block.probability[at]),
                    in_set=None if block.in_set[at] < 0 else bool(block.in_set[at]),
                    known=bool(block.known[at]),
                    shown=self._shown(1 - side, found[at]),
                )
                for at in places
            ]
            first = number * width
            size = int(block.set_size[first])
            matched.append(
                Matched(
                    id=name,
                    no_partner=_known(block.no_partner[first]),
                    set_size=None if size < 0 else size,
                    partners=partners,
                )
            )
        return MatchAnswer(
            modality=request.modality,
            partner_modality=self.modalities[1 - side],
            split=pools.split,
            coverage=self.coverage,
            matches=matched,
            why_no_probability=self.why,
            why_no_partner_unknown="" if self.matches.no_partner is not None else _FEW,
        )

    def _shown(self, side: int, identifier: str) -> Shown:
        return shown_of(self.rows[side], self.places[side][identifier])


def _known(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 6)
