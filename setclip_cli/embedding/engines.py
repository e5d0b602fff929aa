"""Where shards are worked on: in this process, in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import torch

from setclip_cli.backbones.devices import resolve_device
from setclip_cli.errors import SetClipError, UsageError, argument, cause_of, first_line, translated
from setclip_cli.processes import run_in_processes

Input = TypeVar("Input")
Result = TypeVar("Result")

RETRIES = 3  # of a job whose worker was lost
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
    """Yields each result of a Ray cluster as soon as it is there. A job whose worker or node is lost runs again.

    The cluster is the one that ``RAY_ADDRESS`` names, or the one that runs on this machine; if there is none, Ray
    starts here. Each job takes one GPU if the cluster has GPUs, else as many CPUs as torch uses here. All machines must
    see the same paths.

    Raises:
        SetClipError: Ray is not installed.
    """
    try:
        cluster: Any = importlib.import_module("ray")
    except ImportError as error:
        raise UsageError(f"{argument('engine')} ray: Ray is not installed", fix="pip install 'setclip[ray]'") from error
    if not cluster.is_initialized():
        place = f"RAY_ADDRESS={os.environ['RAY_ADDRESS']}" if "RAY_ADDRESS" in os.environ else "Ray on this machine"
        fix = f"check the cluster with `ray status`, or leave {argument('engine')} out"
        with translated(place, Exception, found="cannot be started or reached", fix=fix):
            cluster.init(log_to_driver=False, logging_level=logging.ERROR)
    threads = torch.get_num_threads()
    wants_gpu = device in ("auto", "cuda") and cluster.cluster_resources().get("GPU", 0) >= 1
    resources: dict[str, Any] = {"num_gpus": 1, "num_cpus": 1} if wants_gpu else {"num_cpus": threads}

    folder = Path.cwd()

    def task(job: Input) -> Result:
        os.chdir(folder)  # so that relative paths are the same as here
        torch.set_num_threads(threads)
        return work(job)

    remote = cluster.remote(max_retries=RETRIES, retry_exceptions=False, **resources)(task)
    pending = [remote.remote(job) for job in jobs]
    try:
        while pending:
            done, pending = cluster.wait(pending)
            for reference in done:
                yield _fetch(cluster, reference)
    finally:
        for reference in pending:
            cluster.cancel(reference, force=True)


def _fetch(cluster: Any, reference: Any) -> Any:
    """A task's result. Raises the task's own SetClipError, without Ray's error around it."""
    try:
        return cluster.get(reference)
    except cluster.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, SetClipError):
            raise cause from error
        if found := cause_of(cause):
            raise SetClipError(f"a worker of the Ray cluster: {found[0]}", fix=found[1]) from error
        raise
    except cluster.exceptions.RayError as error:
        raise SetClipError(
            f"a worker of the Ray cluster: was lost {RETRIES + 1} times ({first_line(error)})",
            fix="check the nodes with `ray status` and run the same command again; finished shards are kept",
        ) from error
