"""Jobs on a Ray cluster: a job whose worker or node is lost runs again."""

from __future__ import annotations

import importlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from setclip_cli.errors import SetClipError, UsageError, argument, cause_of, first_line, translated

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

Input = TypeVar("Input")
Result = TypeVar("Result")

RETRIES = 3  # of a job whose worker was lost


def gpus_of_cluster() -> float:
    """The GPUs of the cluster. Raises SetClipError as `run_on_cluster` does."""
    return float(_cluster().cluster_resources().get("GPU", 0))


def run_on_cluster(
    work: Callable[[Input], Result], jobs: Sequence[Input], *, cpus: int = 1, gpus: int = 0
) -> Generator[Result, None, None]:
    """Yields each result of a Ray cluster as soon as it is there. A job whose worker or node is lost runs again.

    The cluster is the one that ``RAY_ADDRESS`` names, or the one that runs on this machine; if there is none, Ray
    starts here. All machines must see the same paths.

    Args:
        work: A function that other processes can import.
        jobs: Its inputs, begun in this order.
        cpus: Those that each job takes,
        gpus: and the same of GPUs.

    Raises:
        SetClipError: Ray is not installed, or no cluster can be reached; a job was lost ``RETRIES`` + 1 times; or what
            a job raised.
    """
    cluster = _cluster()
    folder = Path.cwd()

    def task(job: Input) -> Result:
        os.chdir(folder)  # so that relative paths are the same as here
        return work(job)

    remote = cluster.remote(max_retries=RETRIES, retry_exceptions=False, num_cpus=cpus, num_gpus=gpus)(task)
    pending = [remote.remote(job) for job in jobs]
    try:
        while pending:
            done, pending = cluster.wait(pending)
            for reference in done:
                yield _fetch(cluster, reference)
    finally:
        for reference in pending:
            cluster.cancel(reference, force=True)


def _cluster() -> Any:
    """Ray, connected to a cluster."""
    try:
        cluster: Any = importlib.import_module("ray")
    except ImportError as error:
        raise UsageError(f"{argument('engine')} ray: Ray is not installed", fix="pip install 'setclip[ray]'") from error
    if not cluster.is_initialized():
        place = f"RAY_ADDRESS={os.environ['RAY_ADDRESS']}" if "RAY_ADDRESS" in os.environ else "Ray on this machine"
        fix = f"check the cluster with `ray status`, or leave {argument('engine')} out"
        with translated(place, Exception, found="cannot be started or reached", fix=fix):
            cluster.init(log_to_driver=False, logging_level=logging.ERROR)
    return cluster


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
