"""torch.compile for backbones, block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from setclip_cli.errors import first_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from setclip_cli.backbones.base import Backbone


def compile_blocks(backbone: Backbone) -> str | None:
    """Compiles each block of a backbone's network in place, at its first call. Weights keep their names.

    Blocks of one kind share what is compiled for the first of them. So a deep network takes no longer than a shallow
    one, and the code between the blocks need not be compilable.

    Returns:
        Why this machine cannot compile; None if it can.
    """
    device = backbone.device
    try:
        torch.compile(torch.sin)(torch.ones(2, device=device))
    except (RuntimeError, ImportError, OSError) as error:  # no C++ compiler, or no Triton
        return first_line(error)
    # Images have one size; proteins and texts would be compiled anew for every length.
    dynamic = None if backbone.kind in ("image", "video") else True
    for block in _blocks(backbone.module):
        block.compile(dynamic=dynamic)
    return None


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost lists and sequences inside a network: its blocks, stages or layers."""
    for child in module.children():
        if isinstance(child, (nn.ModuleList, nn.Sequential)):
            yield from child
        else:
            yield from _blocks(child)
