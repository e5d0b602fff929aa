"""Where shards are worked on: in this process, in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import TypeVar

import torch

from setclip_cli.backbones.devices import resolve_device
from setclip_cli.cluster import gpus_of_cluster, run_on_cluster
from setclip_cli.errors import SetClipError, argument
from setclip_cli.processes import run_in_processes

Input = TypeVar("Input")
Result = TypeVar("Result")

_worker_device: str | None = None  # set once in each worker process


def device_here(name: str) -> torch.device:
    """The device of a name in this process: in a worker, ``auto`` and ``cuda`` are the GPU that it was given.

    Raises:
        SetClipError: as `resolve_device` does.
    """
    if name in ("auto", "cuda") and _worker_device:
        name = _worker_device
    return resolve_device(name, setting=argument("device"))


def run_locally(
    work: Callable[[Input], Result], jobs: Sequence[Input], *, device: str, workers: int
) -> Generator[Result, None, None]:
    """Yields each result as soon as it is there: from this process if one worker is enough, else from several.

    Args:
        work: A function that other processes can import.
        jobs: Its inputs.
        device: ``auto``, or a torch device; with ``auto`` or ``cuda`` each process takes one GPU.
        workers: Processes; 0 is one for each GPU, or one without GPUs.

    Raises:
        SetClipError: a worker process was killed.
    """
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    workers = min(workers or max(1, gpus), max(1, len(jobs)))
    if workers == 1:
        yield from map(work, jobs)
        return
    share = max(1, torch.get_num_threads() // workers)
    running = run_in_processes(
        work,
        jobs,
        processes=workers,
        prepare=_start_worker,
        prepare_with=lambda place: (f"cuda:{place % gpus}" if gpus else device, share),
    )
    with closing(running):
        for finished in running:
            if not finished.results:
                raise SetClipError(
                    "a worker process was killed, most likely because memory ran out",
                    fix=f"run the same command again with fewer {argument('workers')}; finished shards are kept",
                )
            yield finished.results[0]


def _start_worker(device: str, threads: int) -> None:
    global _worker_device
    _worker_device = None if device == "auto" else device
    torch.set_num_threads(threads)


def run_on_ray(work: Callable[[Input], Result], jobs: Sequence[Input], *, device: str) -> Generator[Result, None, None]:
    """Yields each result of a Ray cluster as soon as it is there, as `run_on_cluster` does.

    Each job takes one GPU if the cluster has GPUs, else as many CPUs as torch uses here.

    Raises:
        SetClipError: as `run_on_cluster` does.
    """
    threads = torch.get_num_threads()
    wants_gpu = device in ("auto", "cuda") and gpus_of_cluster() >= 1

    def task(job: Input) -> Result:
        torch.set_num_threads(threads)
        return work(job)

    yield from run_on_cluster(task, jobs, cpus=1 if wants_gpu else threads, gpus=int(wants_gpu))
