"""`method = "auto"`: hold some pairs out, fit every candidate to the rest, keep the one that finds the held-out pairs.

The default, ``set-clip-plus``, gives way only to a method that leads it by more than the standard error of that lead
(the one-standard-error rule of Breiman et al. 1984, Classification and Regression Trees). With 70 pairs a smaller lead
says little, and the rank of one partner does not show how well a method orders the rest.

A candidate that cannot be fitted to some of the pairs, for instance because their items do not differ, is left out.
With few pairs there is nothing to hold out, and no measure without pairs is known that tells good alignments from bad
ones. Then ``set-clip-plus`` is taken, the method that did best on few pairs in benchmarks/results.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from setclip_cli.console import text_of_lines
from setclip_cli.dataset.dataset import pairs_in_words
from setclip_cli.errors import SetClipError, first_line
from setclip_cli.methods.held_out import FOLDS, folds, mean_lead, means_of_items, partner_scores

if TYPE_CHECKING:
    from setclip_cli.encoders import Encoder
    from setclip_cli.recipe.presets import Method
    from setclip_cli.recipe.recipe import Recipe

CANDIDATES: tuple[Method, ...] = ("set-clip-plus", "transport", "cca", "ridge", "asif", "procrustes", "asif-graph")
FALLBACK: Method = "set-clip-plus"
LEAST_ITEMS = 50  # with pairs of fewer, a handful of ranks would decide

Fit = Callable[["Recipe", Tensor, Tensor, Tensor], "tuple[Encoder, Encoder]"]


@dataclass(frozen=True)
class Choice:
    """Which method was chosen, and why.

    Attributes:
        recipe: The recipe with the chosen method, to be fitted to all pairs.
        scores: Method -> how well it found held-out partners, mean over items: 1 is always first, about 0.1 is chance.
            Empty if there were too few pairs to hold any out.
        margin: Mean lead over the best other method, and its standard error over items. The lead is negative if the
            default was kept although another method is ahead, by less than one standard error. None if there was
            nothing to compare.
        left_out: Method -> why it could not be fitted.
    """

    recipe: Recipe
    pairs: int
    items: int  # that the pairs belong to: as many, unless some items have several
    scores: dict[Method, float]
    margin: tuple[float, float] | None
    left_out: dict[Method, str] = field(default_factory=dict)

    def summary(self) -> str:
        """One line for a person, and one for each method that is left out."""
        missing = [f"auto: {method} is left out: {reason}" for method, reason in self.left_out.items()]
        return text_of_lines([self._why(), *missing])

    def _why(self) -> str:
        if self.left_out and self.margin is None:
            only = (
                "the only candidate that could be fitted"
                if self.scores
                else "the default; no candidate could be fitted"
            )
            return f"auto: {self.recipe.method}, {only}"
        if self.margin is None:
            return (
                f"auto: {self.recipe.method}, because {self._known()} are too few to hold any out "
                f"(from {LEAST_ITEMS} on, where enough of them share no item, the candidates are compared)"
            )
        ranked = sorted(self.scores.items(), key=lambda item: -item[1])
        table = ", ".join(f"{method} {score:.3f}" for method, score in ranked)
        other = next(method for method, _ in ranked if method != self.recipe.method)
        lead, error = self.margin
        why = f"by {lead:.3f} ± {error:.3f} over {other}"
        if lead < 0:
            why = f"the default, since {other} leads it by {-lead:.3f} only, with a standard error of {error:.3f},"
        return f"auto: {self.recipe.method}, {why} on {self._known()} held out in {FOLDS} folds ({table})"

    def _known(self) -> str:
        return pairs_in_words(self.pairs, self.items)

    def as_json(self) -> dict[str, Any]:
        """What the RUN records about the choice."""
        lead, error = self.margin or (None, None)
        return {
            "method": self.recipe.method,
            "pairs": self.pairs,
            "items": self.items,
            "scores": self.scores,
            "lead": lead,
            "lead_standard_error": error,
            "left_out": self.left_out,
            "summary": self._why(),
        }


def choose(
    recipe: Recipe, left: Tensor, right: Tensor, pairs: Tensor, fit: Fit, *, items: Tensor | None = None
) -> Choice:
    """Chooses a method for these pools and pairs.

    Args:
        left: (n, p) frozen features of the left pool.
        right: (m, q) of the right pool.
        pairs: (b, 2) int64, rows of the known pairs.
        fit: Fits a recipe to pools and pairs and returns both encoders.
        items: (b,) int64: for each pair the number of its item, such as an image with five captions. None if each pair
            is an item of its own.
    """
    items = torch.arange(len(pairs)) if items is None else torch.unique(items, return_inverse=True)[1]
    counts = items.bincount()
    fold = folds(pairs, recipe.seed, items)
    if len(counts) < LEAST_ITEMS or len(set(fold.tolist())) < FOLDS:
        return Choice(recipe.with_settings(method=FALLBACK), len(pairs), len(counts), {}, None)
    results: dict[Method, Tensor] = {}
    left_out: dict[Method, str] = {}
    for method in CANDIDATES:
        scores = torch.zeros(len(pairs))
        try:
            candidate = recipe.with_settings(method=method)  # a recipe that tunes a tower refuses closed-form methods
            for held_out in range(FOLDS):
                hidden = fold == held_out
                encoders = fit(candidate, left, right, pairs[~hidden])
                scores[hidden] = partner_scores(encoders, left, right, pairs[hidden], pairs[~hidden], items[hidden])
        except SetClipError as error:
            left_out[method] = " ".join(error.problem.split())
        except (torch.linalg.LinAlgError, np.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
            left_out[method] = f"cannot be fitted ({first_line(error)})"
        else:
            results[method] = means_of_items(scores, items)
    means = {method: float(scores.mean()) for method, scores in results.items()}
    ranked = sorted(results, key=lambda method: -means[method])
    chosen = ranked[0] if ranked else FALLBACK
    if FALLBACK in results:
        ahead, deviation = mean_lead(results[chosen], results[FALLBACK])
        if ahead <= deviation:
            chosen = FALLBACK
    other = next((method for method in ranked if method != chosen), None)
    margin = mean_lead(results[chosen], results[other]) if other else None
    return Choice(recipe.with_settings(method=chosen), len(pairs), len(counts), means, margin, left_out)
