"""Training on several processes: each embeds its own rows, and all compute the losses of the whole batch.

A step needs two exchanges. The embeddings of all ranks are gathered, so each rank computes the same losses and the same
gradient at every embedding; it sends back the gradient of its own rows and the parameter gradients are summed. That is
the gradient of a single process, whatever the number of ranks, with no differentiable collective.
"""

from __future__ import annotations

import importlib
import os
import traceback
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch import distributed as dist

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager


@dataclass(frozen=True)
class Group:
    """The processes that train together; a group of one without torchrun."""

    rank: int = 0
    world: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes the files and the messages."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """This rank's rows of a batch. They are contiguous, and two ranks differ by one row at most."""
        return self._share(self.rank, rows)

    def gather(self, own: Tensor, rows: int) -> Tensor:
        """(rows, d): the shares of all ranks together, without gradient."""
        if self.world == 1:
            return own
        longest = -(-rows // self.world)
        padded = own.new_zeros(longest, *own.shape[1:])
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(parts, padded)
        kept = []
        for rank, part in enumerate(parts):
            share = self._share(rank, rows)
            kept.append(part[: share.stop - share.start])
        return torch.cat(kept)

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Adds up every parameter's gradient over the ranks; a rank without one adds 0."""
        if self.world == 1:
            return
        parameters = list(parameters)
        flat = torch.cat([_gradient(parameter).flatten() for parameter in parameters])
        dist.all_reduce(flat)
        start = 0
        for parameter in parameters:
            parameter.grad = flat[start : start + parameter.numel()].view_as(parameter).clone()
            start += parameter.numel()

    def all_of(self, own: bool, device: torch.device) -> bool:
        """Whether this holds on all ranks. ``device`` is that of the training."""
        if self.world == 1:
            return own
        votes = torch.tensor([int(own)], device=device)
        dist.all_reduce(votes, op=dist.ReduceOp.MIN)
        return bool(votes.item())

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process runs the block first, then the others do."""
        if not self.main:
            self.wait()
        yield
        if self.main:
            self.wait()

    def wait(self) -> None:
        """Returns when all ranks have called it."""
        if self.world > 1:
            dist.barrier()

    def _share(self, rank: int, rows: int) -> slice:
        return slice(rows * rank // self.world, rows * (rank + 1) // self.world)


def launched() -> AbstractContextManager[Group]:
    """Joins the group that torchrun started; a group of one without torchrun."""
    return _Launched()


class _Launched:
    """On leaving, ends the threads of the group. One that still holds a tensor when Python ends aborts the process.

    They end with the last reference to the group. Source: https://github.com/pytorch/pytorch/issues/190489
    """

    def __enter__(self) -> Group:
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world == 1:
            return Group()
        # The first step of an optimizer imports this module, whose default arguments would then keep the group.
        importlib.import_module("torch.distributed.nn.functional")
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return Group(dist.get_rank(), world)

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if not dist.is_initialized():
            return
        while error is not None:  # the frames of a failed exchange keep the group too
            traceback.clear_frames(error.__traceback__)
            error = error.__cause__ or error.__context__
        dist.destroy_process_group()


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
