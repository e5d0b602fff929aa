"""One thread that does the work of many requests: of what came while it was busy it makes its next batch."""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
import traceback
from concurrent.futures import Future
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")
R = TypeVar("R")

MOST = 16  # jobs of a batch: their scores are in memory together
LEAST = 4  # that a batch takes if so many wait
WAITING = 256  # jobs that wait at a time


class BusyError(Exception):
    """Too many requests wait, or this one has waited for too long; says which."""


class Batches(Generic[T, R]):
    """Gives waiting jobs to one function, several at a time.

    A job never waits for others to come: a batch is of what has gathered while the one before it was at work. So one
    request alone is answered at once, and under load a batch grows by itself. Of many jobs it takes half: their answers
    are sent, and the next requests read, while the other half is at work.
    """

    def __init__(self, work: Callable[[Sequence[T]], Sequence[R | Exception]], *, most: int = MOST) -> None:
        """``work`` answers each job of a batch, with a result or with what went wrong with it."""
        self._work, self._most = work, most
        self._waiting: queue.SimpleQueue[tuple[T, Future[R]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="setclip-batches", daemon=True)
        self._thread.start()

    async def answer(self, job: T, *, within_s: float) -> R:
        """The result of one job.

        Raises:
            BusyError: too many jobs wait, or there was no result within the time.
        """
        if self._waiting.qsize() >= WAITING:
            raise BusyError("too much is asked for just now")
        future: Future[R] = Future()
        self._waiting.put((job, future))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), within_s)
        except TimeoutError as error:
            raise BusyError(f"there was no answer within {within_s:g} s") from error

    def close(self) -> None:
        """Ends the thread after the batch that is at work."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch, ended = [first], False
            size = min(self._most, max(LEAST, -(-(1 + self._waiting.qsize()) // 2)))
            while len(batch) < size and not ended:
                try:
                    one = self._waiting.get_nowait()
                except queue.Empty:
                    break
                ended = one is None
                if one is not None:
                    batch.append(one)
            self._answer([(job, future) for job, future in batch if future.set_running_or_notify_cancel()])
            if ended:
                break

    def _answer(self, batch: list[tuple[T, Future[R]]]) -> None:
        if not batch:
            return
        try:
            results = self._work([job for job, _ in batch])
        except Exception as error:
            if len(batch) > 1:  # one job must not spoil the others
                for one in batch:
                    self._answer([one])
                return
            traceback.print_exception(error, file=sys.stderr)
            results = [error]
        for (_, future), result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
