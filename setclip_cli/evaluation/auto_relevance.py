"""`--relevance auto`, the default: what counts as a right answer, by what the split can answer.

A model that was aligned for partners is asked for partners, so groups come first for it. For every other model labels
come first. EMBEDDINGS are asked for the same as the RUN that made them. A rule that the split cannot answer is passed
over, and the reason says why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from setclip_cli.dataset.modality import plural
from setclip_cli.errors import SetClipError, argument
from setclip_cli.evaluation.evaluation_set import read_sides, with_rows_of_groups
from setclip_cli.recipe.presets import GOAL_METHODS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.dataset.modality import Modality
    from setclip_cli.evaluation.evaluation_set import Side
    from setclip_cli.evaluation.model_folders import ModelFolder
    from setclip_cli.evaluation.options import EvaluateOptions, RelevanceRule


def relevance_of_models(
    options: EvaluateOptions, models: Sequence[ModelFolder], dataset: Dataset, without_embedding: Mapping[str, set[str]]
) -> tuple[RelevanceRule, str]:
    """What counts as a right answer for these models, and why: the first RUN decides, or the first EMBEDDINGS.

    The reason is empty if the user gave the rule.

    Raises:
        SetClipError: as ``choose_relevance`` does.
    """
    if options.relevance != "auto":
        return options.relevance, ""
    first = next((model for model in models if model.kind == "run"), models[0])
    return choose_relevance(
        dataset, *first.modalities, split=options.split, method=first.method, without_embedding=without_embedding
    )


def choose_relevance(
    dataset: Dataset,
    left: Modality,
    right: Modality,
    *,
    split: str,
    method: str | None = None,
    without_embedding: Mapping[str, set[str]] | None = None,
) -> tuple[RelevanceRule, str]:
    """The first rule that the split can answer, and why it was taken.

    Args:
        method: That the model was aligned with; None to look at the data alone.
        without_embedding: Modality -> ids that are not scored.

    Raises:
        SetClipError: the split is missing, or can answer none of the rules.
    """
    sides = read_sides(dataset, left, right, split, without_embedding or {}, {})
    partners = method == GOAL_METHODS["partner"]
    order: tuple[RelevanceRule, ...] = ("group", "label", "pairs") if partners else ("label", "group", "pairs")
    lacks: dict[RelevanceRule, str] = {}
    for rule in order:
        lack = _lack(rule, dataset, sides, split)
        if not lack:
            goal = [f"method {method} is for partners"] if partners else []
            return rule, _in_words([*goal, _has(rule, sides), *lacks.values()])
        lacks[rule] = lack
    raise SetClipError(
        f"{dataset.root}: split {split!r} does not say which {left} and {right} rows belong together: "
        + "; ".join(f"{rule}: {lack}" for rule, lack in lacks.items()),
        fix=f"ingest labels that both sides have, captions whose group is the id of what they describe, or known "
        f"pairs of this split; or choose another {argument('split')}",
    )


def _lack(rule: RelevanceRule, dataset: Dataset, sides: Sequence[Side], split: str) -> str:
    """What the split lacks for this rule, in words; empty if it lacks nothing."""
    left, right = sides
    if rule == "label":
        return _lack_of_labels(left, right)
    return _lack_of_groups(dataset, sides) if rule == "group" else _lack_of_pairs(dataset, left, right, split)


def _lack_of_labels(left: Side, right: Side) -> str:
    found = {side.modality: {label for label in side.labels if label is not None} for side in (left, right)}
    without = [modality for modality, labels in found.items() if not labels]
    if without:
        return f"{' and '.join(without)} rows have no labels"
    of_left, of_right = found.values()
    if of_left & of_right:
        return ""
    return (
        f"{left.modality} and {right.modality} rows have no label in common, "
        f"for example {min(of_left)!r} and {min(of_right)!r}"
    )


def _lack_of_groups(dataset: Dataset, sides: Sequence[Side]) -> str:
    describing = [side for side in sides if side.describes]
    if not describing:
        return "there are no captions, which could have groups"
    captions = next((side for side in describing if any(side.groups)), describing[0])
    example = next((group for group in captions.groups if group is not None), None)
    if example is None:
        return f"{plural(captions.modality)} have no groups"
    left, right = (set(side.groups) - {None} for side in with_rows_of_groups(dataset, sides, {}))
    if left & right:
        return ""
    other = next(side for side in sides if side is not captions)
    if other.describes:
        return f"{captions.modality} and {other.modality} rows have no group in common, for example {example!r}"
    named = f"a group that is the id of one {other.modality} of the split"
    return f"no {captions.modality} has {named}, for example {example!r}"


def _lack_of_pairs(dataset: Dataset, left: Side, right: Side, split: str) -> str:
    rows: dict[str, set[str]] = {left.modality: set(left.ids), right.modality: set(right.ids)}
    for pair in dataset.pairs(split):
        ends = {pair.left_modality: pair.left_id, pair.right_modality: pair.right_id}
        if ends.keys() == rows.keys() and all(name in rows[modality] for modality, name in ends.items()):
            return ""
    return f"there are no known {left.modality}-{right.modality} pairs"


def _has(rule: RelevanceRule, sides: Sequence[Side]) -> str:
    """What the split has for this rule, in words."""
    if rule == "group":
        return f"{' and '.join(plural(side.modality) for side in sides if side.describes)} have groups"
    return "both sides have labels in common" if rule == "label" else "there are known pairs"


def _in_words(parts: Sequence[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)}, and {last}" if first else last
