"""Worker processes: one job at a time each, and none of them outlives this process, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from setclip_cli.errors import translated

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

Input = TypeVar("Input")
Result = TypeVar("Result")

_THREAD_S = 5.0  # a thread of a pool needs a moment to see that its processes have ended


@dataclass(frozen=True)
class Finished(Generic[Input, Result]):
    """A job that ended. ``results`` is empty if its process was killed, else it holds the one result."""

    job: Input
    results: tuple[Result, ...]


def run_in_processes(
    work: Callable[[Input], Result],
    jobs: Sequence[Input],
    *,
    processes: int,
    prepare: Callable[..., None] | None = None,
    prepare_with: Callable[[int], tuple[Any, ...]] = lambda _place: (),
) -> Generator[Finished[Input, Result], None, None]:
    """Yields each job as soon as it ends. A process that is killed costs its own job only.

    If a job raises, the caller closes the generator, or a signal comes, the other processes are ended at once.

    Args:
        work: A function that other processes can import.
        jobs: Its inputs, begun in this order.
        processes: Number of processes.
        prepare: A function that runs once in each process.
        prepare_with: Its arguments, by number of the process.
    """
    waiting = deque(jobs)
    pools: dict[int, ProcessPoolExecutor] = {}
    running: dict[Future[Result], tuple[int, Input]] = {}
    context = multiprocessing.get_context("spawn")  # a forked torch may hang

    def begin(place: int) -> None:
        if place not in pools:
            pools[place] = ProcessPoolExecutor(1, context, _begin_worker, (prepare, prepare_with(place)))
        with _interrupts_kept_from_children():
            try:
                with translated("a worker process", found="cannot be started", fix="ask for fewer of them"):
                    future = pools[place].submit(work, waiting[0])
            except BrokenProcessPool:  # it was killed between two jobs
                pools.pop(place).shutdown()
                begin(place)
                return
        running[future] = place, waiting.popleft()

    try:
        for place in range(min(processes, len(jobs))):
            begin(place)
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                place, job = running.pop(future)
                results: tuple[Result, ...] = ()
                try:
                    results = (future.result(),)
                except BrokenProcessPool:
                    pools.pop(place).shutdown()
                if waiting:
                    begin(place)
                yield Finished(job, results)
    finally:
        if running:
            _end_at_once(pools.values())
        else:
            for pool in pools.values():
                pool.shutdown()


def _end_at_once(pools: Iterable[ProcessPoolExecutor]) -> None:
    """Ends the processes, and does not wait for ever for the threads of the pools.

    These end by themselves when they find their processes gone. If Python ends in that moment, it wakes a thread that
    has just closed what it is woken by, and prints a traceback. But the exception of a signal may have come while this
    thread held a lock that they wait for.
    """
    pools = list(pools)
    processes = [process for pool in pools for process in list((pool._processes or {}).values())]
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()
    for pool in pools:
        if (thread := getattr(pool, "_executor_manager_thread", None)) is not None:
            thread.join(_THREAD_S)


@contextmanager
def _interrupts_kept_from_children() -> Iterator[None]:
    """Ctrl-C goes to all processes of a terminal. This one ends its children itself; they would print tracebacks."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(prepare: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if prepare is not None:
        prepare(*arguments)


def _end_with_parent() -> None:
    """Ends this worker when its parent ends, even if that is killed; it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
