"""What an alignment gains without the suspect pairs, on known pairs that are held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from setclip_cli.encoders import FeatureTransform
from setclip_cli.errors import SetClipError
from setclip_cli.methods.held_out import held_out, means_of_items, partner_scores
from setclip_cli.methods.transport import fit_transport
from setclip_cli.sampling import generator

if TYPE_CHECKING:
    from torch import Tensor

    from setclip_cli.pools import Pools

AXES = 384  # as method transport has them
ROUNDS, ROWS = 8, 1_500  # as where transport compares its settings
DRAWS = 1_000  # of the bootstrap


@dataclass(frozen=True)
class Gain:
    """How well held-out partners are found: 1 is always first, about 0.1 is chance.

    Attributes:
        with_suspects: By a fit to all other known pairs.
        without: By a fit to those that are not suspect.
        difference: Of the two, by the same held-out pairs.
        interval: 95% of it, by bootstrap over items.
        items: Held out.
    """

    with_suspects: float
    without: float
    difference: float
    interval: tuple[float, float]
    items: int

    def as_json(self) -> dict[str, Any]:
        return {
            "with_suspects": self.with_suspects,
            "without_suspects": self.without,
            "difference": self.difference,
            "interval": [*self.interval],
            "held_out_items": self.items,
        }

    def sentence(self) -> str:
        low, high = self.interval
        unsure = "" if low > 0 or high < 0 else ": the difference may be chance"
        return (
            f"an alignment finds held-out partners with a score of {self.with_suspects:.3f} with the suspects and "
            f"{self.without:.3f} without ({self.difference:+.3f}, 95% interval {low:+.3f} to {high:+.3f}{unsure})"
        )


@torch.no_grad()
def gain_without(pools: Pools, suspects: Tensor, *, seed: int) -> Gain | None:
    """Fits the known pairs of each fold with and without the suspects, and scores trusted pairs that are held out.

    Args:
        suspects: (k,) int64, the pairs that are likely wrong. They are never scored.

    Returns:
        None if nothing is suspect, or if there are too few items to hold some out.
    """
    if not len(suspects):
        return None
    x, y = (FeatureTransform.fit(side.features, AXES)(side.features).float() for side in pools.sides)
    suspect = torch.zeros(len(pools.pairs), dtype=torch.bool)
    suspect[suspects] = True
    scores = torch.full((2, len(suspect)), torch.nan)
    one = torch.ones(1, 1)
    for hidden, known in held_out(pools.pairs, seed, pools.items):
        scored, trusted = hidden & ~suspect, known[~suspect[~hidden]]
        if not bool(scored.any()) or min(len(side.unique()) for side in trusted.T) < 2:
            continue
        for place, pairs in enumerate((known, trusted)):
            try:
                maps = fit_transport(x, y, pairs, seed=seed, rounds=ROUNDS, rows=ROWS)
            except (RuntimeError, SetClipError):  # these pairs do not differ enough to fit anything
                return None
            found = partner_scores([maps], one, x, y, pools.pairs[scored], known, pools.items[scored])
            scores[place, scored] = found[0]
    if bool(scores.isnan().all()):
        return None
    before, after = (means_of_items(row, pools.items) for row in scores)
    difference = after - before
    drawn = torch.randint(len(difference), (DRAWS, len(difference)), generator=generator(seed, "check-pairs"))
    low, high = difference[drawn].mean(1).quantile(torch.tensor([0.025, 0.975])).tolist()
    return Gain(float(before.mean()), float(after.mean()), float(difference.mean()), (low, high), len(difference))
