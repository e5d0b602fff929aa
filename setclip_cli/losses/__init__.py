"""The losses: pure functions of tensors, one term a file, and the one kernel sum that they share.

``terms`` and ``objective`` put them together for a training step. ``published`` holds the forms that were released.
"""

from setclip_cli.losses.clip import clip, shared_partners
from setclip_cli.losses.kernels import log_kernel_sum, median_bandwidth
from setclip_cli.losses.mk_mmd import mk_mmd
from setclip_cli.losses.neighbourhood import neighbourhood
from setclip_cli.losses.s_clip import s_clip
from setclip_cli.losses.sdd import log_density_ratios, sdd
from setclip_cli.losses.self_supervised import self_supervised
from setclip_cli.losses.teacher import teacher

__all__ = [
    "clip",
    "log_density_ratios",
    "log_kernel_sum",
    "median_bandwidth",
    "mk_mmd",
    "neighbourhood",
    "s_clip",
    "sdd",
    "self_supervised",
    "shared_partners",
    "teacher",
]
