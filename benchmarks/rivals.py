"""Methods of other papers for aligning frozen features, written from their formulas. They are for benchmarks alone.

Each rival is called as ``rival(left, right, pairs, seed=0, **settings)`` and returns two functions that map features to
unit embeddings. The dot product of a left and a right embedding is the score of the rival.

    sotalign      Roschmann et al. 2026, arXiv:2602.23353   pairs and unpaired rows
    structure     Gröger et al. 2025, arXiv:2506.16895      pairs, and unpaired rows if asked for
    csa           Li et al. 2025, arXiv:2410.07610          pairs
    relative      Moschella et al. 2023, arXiv:2209.15430   pairs
    mini_vec2vec  Dar 2025, arXiv:2510.02348                unpaired rows alone

The docstring of each rival gives its formula, what its paper reports and what differs here. ASIF (Norelli et al. 2023)
is a method of the program itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rivals_fitted import Embeds, csa, relative
from rivals_trained import sotalign, structure
from rivals_unpaired import mini_vec2vec

__all__ = ["RIVALS", "SETTINGS", "Embeds", "Rival", "csa", "mini_vec2vec", "relative", "sotalign", "structure"]

Rival = Callable[..., Embeds]
"""``rival(left, right, pairs, *, seed, **settings)``, where left is (n, p) and right (m, q), both float32, and pairs is
(b, 2) int64: the left and right row of each known pair. ``seed`` decides everything that is drawn."""

RIVALS: dict[str, Rival] = {
    "sotalign": sotalign,
    "structure": structure,
    "csa": csa,
    "relative": relative,
    "mini_vec2vec": mini_vec2vec,
}

# What to try on a validation split. The first entry is the default of the rival.
SETTINGS: dict[str, tuple[dict[str, Any], ...]] = {
    "sotalign": (  # looked at too: a weight of 1, 384 axes and, with this weight, a rate of 1e-3; no better
        {},
        {"axes": 64, "teacher_axes": 64},
        {"axes": 0, "teacher_axes": 0},
        {"weight": 40.0},
        {"weight": 1.0, "lr": 1e-3},
    ),
    "structure": (  # looked at too: a weight of 1, and the rate of 1e-3 with 256 axes; no better
        {},
        {"axes": 64},
        {"axes": 64, "lr": 1e-3},
    ),
    "csa": (  # a ridge of 0.1 and 1 to 200 directions were looked at too: no better
        {},
        *({"axes": axes, "ridge": ridge} for axes in (0, 384, 256, 64) for ridge in (1.0, 4.0)),
        {"axes": 256, "ridge": 1.0, "directions": 50},
    ),
    "relative": tuple({"axes": axes} for axes in (None, 0, 384, 256, 64)),
    "mini_vec2vec": (
        {},
        {"axes": 0},
        {"axes": 16},
        {"clusters": 10},
        {"clusters": 40},
        {"neighbours": 10},
        {"neighbours": 200},
    ),
}
