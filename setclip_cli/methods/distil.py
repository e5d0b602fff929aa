"""One head for each side in place of an ensemble of many: it has their cosines at the cost of one."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from setclip_cli.encoders import Composed, Concatenated, Encoder, ProjectionHead, ResidualHead
from setclip_cli.sampling import sample

STEPS = 600
BATCH = 256  # rows of each side
LEARNING_RATE = 3e-3
CHECKED = 1000  # rows of each side on which the one head is compared with the ensemble


def distil(
    ensembles: tuple[Composed, Composed], left: Tensor, right: Tensor, *, seed: int
) -> tuple[tuple[Composed, Composed], float]:
    """Trains a head for each side until its cosines, within and across the sides, are those of the ensemble.

    Minimises the mean of (cos_student(a, b) - cos_ensemble(a, b))² over pairs of rows of both pools, unlabelled and
    unpaired, from the weights of the first members.

    Args:
        ensembles: Left and right: projection heads side by side, behind one transform.
        left: (n, p) features of the left pool, on the CPU.
        right: (m, q) of the right pool.
        seed: Decides the batches.

    Returns:
        One head after the same transform for each side, and the correlation of their cosines across the sides with the
        ensemble's.

    Source: similarity-preserving distillation, Tung & Mori 2019, arXiv:1907.09682, with cosines in place of row-scaled
        products.
    """
    transforms = [ensemble.transform for ensemble in ensembles]
    pools = [transform(pool) for transform, pool in zip(transforms, (left, right), strict=True)]
    teachers = [ensemble.encoder for ensemble in ensembles]
    students = [_first(teacher) for teacher in teachers]
    optimizer = torch.optim.AdamW([p for student in students for p in student.parameters()], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in range(STEPS):
        rows = [
            pool[sample(len(pool), BATCH, step, seed=seed, stream=f"distil/{side}")]
            for side, pool in zip(("left", "right"), pools, strict=True)
        ]
        with torch.no_grad():
            wanted = torch.cat([teacher(part) for teacher, part in zip(teachers, rows, strict=True)])
        found = torch.cat([student(part) for student, part in zip(students, rows, strict=True)])
        optimizer.zero_grad()
        torch.autograd.backward(F.mse_loss(found @ found.T, wanted @ wanted.T))
        optimizer.step()
        schedule.step()
    few = [pool[:: max(1, len(pool) // CHECKED)] for pool in pools]
    with torch.no_grad():
        cosines = [(heads[0](few[0]) @ heads[1](few[1]).T).flatten() for heads in (students, teachers)]
        correlation = float(torch.corrcoef(torch.stack(cosines))[0, 1])
    one_left, one_right = (
        Composed(transform, student).eval() for transform, student in zip(transforms, students, strict=True)
    )
    return (one_left, one_right), correlation


def _first(ensemble: Encoder) -> ProjectionHead | ResidualHead:
    """A copy of the first member."""
    member = ensemble.encoders[0] if isinstance(ensemble, Concatenated) else ensemble
    if not isinstance(member, ProjectionHead | ResidualHead):
        raise ValueError(f"distil needs trained heads, found {type(member).__name__}")
    return copy.deepcopy(member).train()
