"""From the recipe's [objective] to the losses: here its sections become plain numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from setclip_cli import defaults
from setclip_cli.losses import terms
from setclip_cli.losses.nested import NestedTerm
from setclip_cli.losses.objective import TrainingObjective, WeightedTerm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from setclip_cli.recipe import sections

LEAST_SHARE = 0.3  # of the weight of the pairs, however few they are


def build_objective(
    section: sections.Objective, *, pairs: int, nested: Sequence[int] | None = None
) -> TrainingObjective:
    """The objective that a recipe asks for, without the terms of weight 0.

    Args:
        pairs: Number of known pairs, on which the weight of the clip term depends.
        nested: Widths at which each term is taken, see `losses.nested`; None for all values alone.
    """
    clip, sdd, mmd, views = section.clip, section.sdd, section.mk_mmd, section.self_supervised
    widths = sdd.bandwidth if isinstance(sdd.bandwidth, list) else [sdd.bandwidth]
    modules: dict[str, nn.Module] = {
        "clip": terms.ClipTerm(clip.temperature, learnable_temperature=clip.learnable_temperature),
        "sdd": terms.SddTerm(widths, leave_one_out=sdd.leave_one_out, queue=sdd.queue),
        "mk_mmd": terms.MkMmdTerm(mmd.bandwidths or None, unbiased=mmd.unbiased),
        "self_supervised": terms.SelfSupervisedTerm(views.temperature),
        "neighbourhood": terms.NeighbourhoodTerm(
            section.neighbourhood.feature_temperature, section.neighbourhood.temperature
        ),
        "teacher": terms.TeacherTerm(defaults.CLIP_TEMPERATURE, section.teacher.sharpness),
        "s_clip": terms.SClipTerm(section.s_clip.temperature, section.s_clip.regularisation),
    }
    for name, term in (("clip", clip), ("sdd", sdd), ("mk_mmd", mmd), ("self_supervised", views)):
        if term.form == "published":
            modules[name] = terms.PublishedTerm(name)
    if nested:
        modules = {name: NestedTerm(module, nested) for name, module in modules.items()}
    shares = {}
    if clip.full_weight_at_pairs:
        shares["clip"] = max(LEAST_SHARE, min(1.0, pairs / clip.full_weight_at_pairs))
    return TrainingObjective(
        {
            name: WeightedTerm(
                modules[name], shares.get(name, 1.0) * term.weight, term.start_step, term.end_step, term.warmup_steps
            )
            for name, term in section.active().items()
        }
    )
