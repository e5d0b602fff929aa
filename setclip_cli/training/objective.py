"""From the sections of a recipe to the objective: the one place that unpacks them into plain numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from setclip_cli.losses import objective as losses

if TYPE_CHECKING:
    from torch import nn

    from setclip_cli.recipe import sections

LEAST_SHARE = 0.3  # of the weight of the pairs, however few they are


def build_objective(section: sections.Objective, *, pairs: int) -> losses.Objective:
    """The objective a recipe asks for, where so many pairs are known; terms of weight 0 are left out."""
    clip, sdd, mmd, views = section.clip, section.sdd, section.mk_mmd, section.self_supervised
    widths = sdd.bandwidth if isinstance(sdd.bandwidth, list) else [sdd.bandwidth]
    modules: dict[str, nn.Module] = {
        "clip": losses.Clip(clip.temperature, learnable_temperature=clip.learnable_temperature),
        "sdd": losses.Sdd(widths, leave_one_out=sdd.leave_one_out, queue=sdd.queue),
        "mk_mmd": losses.MkMmd(mmd.bandwidths or None, unbiased=mmd.unbiased),
        "self_supervised": losses.SelfSupervised(views.temperature),
        "neighbourhood": losses.Neighbourhood(
            section.neighbourhood.feature_temperature, section.neighbourhood.temperature
        ),
        "teacher": losses.Teacher(sharpness=section.teacher.sharpness),
        "s_clip": losses.SClip(section.s_clip.temperature, section.s_clip.regularisation),
    }
    for name, term in (("clip", clip), ("sdd", sdd), ("mk_mmd", mmd), ("self_supervised", views)):
        if term.form == "published":
            modules[name] = losses.Published(name)
    shares = {}
    if clip.full_weight_at_pairs:
        shares["clip"] = max(LEAST_SHARE, min(1.0, pairs / clip.full_weight_at_pairs))
    return losses.Objective(
        {
            name: losses.Term(
                modules[name], shares.get(name, 1.0) * term.weight, term.start_step, term.end_step, term.warmup_steps
            )
            for name, term in section.active().items()
        }
    )
