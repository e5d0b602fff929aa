"""Learning rates as a pure function of the step."""

from __future__ import annotations

import math
from typing import Literal


def rate_at(step: int, steps: int, schedule: Literal["constant", "cosine", "linear"], warmup_steps: int) -> float:
    """The factor, in (0, 1], on the learning rate in a step.

    It rises linearly over ``warmup_steps`` and is 1 at the last of them. Then it stays, or falls along half a cosine
    (Loshchilov & Hutter 2017, arXiv:1608.03983) or a straight line, to reach 0 one step after the last.

    Args:
        step: 0-based.
        steps: Steps in all.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    return 1 - done if schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
