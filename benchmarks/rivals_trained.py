"""Rivals with trained heads: SOTAlign and STRUCTURE. See ``rivals``.

Both train one head a side by Adam, with a learning rate that falls to 0 along a cosine. Their inputs are the principal
axes of each pool. Pairs with the same item on one side, or with items of equal features, are partners of each other:
both papers know one caption an image, and would push the other captions of the same image away.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from rivals_fitted import Embeds
from torch import Tensor, nn

from setclip_cli.encoders import Composed, FeatureTransform, ProjectionHead
from setclip_cli.losses import clip, shared_partners
from setclip_cli.methods.closed_form import fit_closed_form

STUDENT_SWEEPS, TEACHER_SWEEPS = 20, 50  # a small regularisation takes more


def sotalign(
    left: Tensor,
    right: Tensor,
    pairs: Tensor,
    *,
    seed: int,
    width: int = 256,
    axes: int = 256,
    head: str = "linear",
    teacher: str = "cca",
    teacher_axes: int = 256,
    weight: float = 10.0,
    student_epsilon: float = 0.05,
    teacher_epsilon: float = 0.005,
    batches: int = 50,
    scale: float = 20.0,
    bias: float = -10.0,
    steps: int = 500,
    lr: float = 3e-4,
    pairs_per_batch: int = 512,
    unpaired: int = 256,
) -> Embeds:
    """SOTAlign: heads that find the pairs, and carry unpaired rows as a linear teacher does.

        L = siglip(pairs) + weight · KL(P* ‖ P)

    P is the entropic transport plan between unpaired rows under the heads' cosines, P* that under the teacher's. See
    ``sigmoid_loss`` and ``transport_divergence``.

    Args:
        left: (n, p) features.
        right: (m, q) features.
        pairs: (b, 2) rows of the known pairs.
        seed: Decides the first weights and the batches.
        width: Width of the embeddings.
        axes: Principal axes of each pool that the heads see; 0 keeps all.
        head: ``linear`` or ``mlp``.
        teacher: A closed form that is fitted to the pairs: ``cca``, ``procrustes`` or ``ridge``.
        teacher_axes: Principal axes that the teacher sees.
        weight: Weight of the divergence; 0 trains on the pairs alone.
        student_epsilon: Entropic regularisation of P.
        teacher_epsilon: Entropic regularisation of P*; smaller, so the teacher's plan is sharper.
        batches: Batches of unpaired rows. They and their P* are made once, and used in turn.
        scale: Sharpness of the sigmoid loss at the start; it is trained.
        bias: Bias of the sigmoid loss at the start; it is trained.
        steps: Training steps.
        lr: Learning rate of Adam.
        pairs_per_batch: Most pairs in a batch.
        unpaired: Rows of each pool in a batch, for the divergence.

    Reported: light heads on frozen encoders, a linear teacher, regularisations of 0.05 and 0.005 and 100 sweeps (the
    released loss). Differences: the batches are smaller and the sweeps fewer, as a fit here has one core and a minute;
    a batch of unpaired rows comes back every ``batches`` steps; it is drawn from the whole pools. The teacher is
    setclip's ridged CCA, whose directions count by their correlations. We do not know the paper's weight of the
    divergence, nor its schedule: ``SETTINGS`` has some to choose from.

    Source: Roschmann et al. 2026 (ICML), arXiv:2602.23353.
    """
    maker = _Trainer(left, right, pairs, seed=seed, axes=axes, width=width, head=head)
    with torch.no_grad():
        taught = tuple(
            encoder(pool)
            for encoder, pool in zip(
                fit_closed_form(teacher, left, right, pairs, axes=teacher_axes), (left, right), strict=True
            )
        )
    log_scale, offset = nn.Parameter(torch.tensor(math.log(scale))), nn.Parameter(torch.tensor(bias))

    def given(rows: Tensor) -> Tensor:
        cosines = (taught[0][rows[:, 0]] @ taught[1][rows[:, 1]].T).double()
        return log_plan(cosines / teacher_epsilon, TEACHER_SWEEPS).float()

    drawn = [maker.draw_rows(unpaired) for _ in range(min(batches, steps))] if weight else []
    turn = itertools.cycle([(rows, given(rows)) for rows in drawn])

    def loss(_: float) -> Tensor:
        batch = maker.draw_pairs(pairs_per_batch)
        same = maker.partners(batch)
        total = sigmoid_loss(*maker.embed(pairs[batch]), same, scale=log_scale.exp(), bias=offset)
        if weight:
            rows, log_target = next(turn)
            a, b = maker.embed(rows)
            total = total + weight * transport_divergence(a @ b.T, log_target, epsilon=student_epsilon)
        return total

    descend([*maker.parameters(), log_scale, offset], loss, steps=steps, lr=lr)
    return maker.embeds()


def structure(
    left: Tensor,
    right: Tensor,
    pairs: Tensor,
    *,
    seed: int,
    width: int = 256,
    axes: int = 256,
    head: str = "linear",
    weight: float = 10.0,
    levels: int = 1,
    temperature: float = 0.07,
    steps: int = 500,
    lr: float = 3e-4,
    pairs_per_batch: int = 512,
    unpaired: int = 0,
) -> Embeds:
    """STRUCTURE: heads that find the pairs and keep how similar the rows of each modality are to each other.

        L = clip(pairs) + weight · ½ [R(X, f(X)) + R(Y, g(Y))]

    R is ``structure_term`` between the frozen features of the batch and their embeddings.

    Args:
        left: (n, p) features.
        right: (m, q) features.
        pairs: (b, 2) rows of the known pairs.
        seed: Decides the first weights and the batches.
        width: Width of the embeddings.
        axes: Principal axes of each pool that the heads see; 0 keeps all. The term always sees whole features.
        head: ``linear`` or ``mlp``.
        weight: Weight of the term; it grows from 0 to this during the first half of the steps.
        levels: Powers of the similarity matrices, L.
        temperature: Of the contrastive loss and of the similarity matrices.
        steps: Training steps.
        lr: Learning rate of Adam.
        pairs_per_batch: Most pairs in a batch.
        unpaired: Rows of each pool that the term sees beside those of the pairs.

    Reported: weight 10, one level, one temperature for both losses, 500 steps of warm-up (the released loss); tens of
    thousands of pairs. Differences: the choice of layers, the second half of the paper, is left out, since the features
    are of one layer; unpaired rows in the term are an option here, and the paper's term sees pairs.

    Source: Gröger et al. 2025 (NeurIPS), arXiv:2506.16895.
    """
    maker = _Trainer(left, right, pairs, seed=seed, axes=axes, width=width, head=head)

    def loss(progress: float) -> Tensor:
        batch = maker.draw_pairs(pairs_per_batch)
        a, b = maker.embed(pairs[batch])
        total = clip(a, b, temperature=temperature, targets=maker.partners(batch).float())
        if weight:
            rows = pairs[batch]
            if unpaired:
                drawn = maker.draw_rows(unpaired)
                rows, (more_a, more_b) = torch.cat([rows, drawn]), maker.embed(drawn)
                a, b = torch.cat([a, more_a]), torch.cat([b, more_b])
            kept = [
                structure_term(features, embeddings, levels=levels, temperature=temperature)
                for features, embeddings in ((left[rows[:, 0]], a), (right[rows[:, 1]], b))
            ]
            total = total + min(1.0, 2 * progress) * weight * (kept[0] + kept[1]) / 2
        return total

    descend(maker.parameters(), loss, steps=steps, lr=lr)
    return maker.embeds()


def sigmoid_loss(left: Tensor, right: Tensor, same: Tensor, *, scale: Tensor, bias: Tensor) -> Tensor:
    """Whether each left and each right row are partners, as a yes or no of its own.

        L = -1/b Σ_ij log σ(z_ij (scale · l_i · r_j + bias)), z_ij = 1 for partners and -1 for all others

    Args:
        left: (b, d) unit rows.
        right: (c, d) unit rows.
        same: (b, c) bool: which are partners.
        scale: Scalar > 0.
        bias: Scalar.

    Source: SigLIP, Zhai et al. 2023, arXiv:2303.15343.
    """
    signs = torch.where(same, 1.0, -1.0)
    return -F.logsigmoid(signs * (scale * left @ right.T + bias)).sum() / len(left)


def transport_divergence(
    similarities: Tensor, log_target: Tensor, *, epsilon: float, sweeps: int = STUDENT_SWEEPS
) -> Tensor:
    """KL(P* ‖ P) from the transport plan of a similarity matrix to a given plan, with the gradient of the limit.

        P = diag(u) exp(S / ε) diag(v) with rows of mass 1/n and columns of mass 1/m

    log P = S/ε + log u + log v, and u and v maximise the dual of the transport problem. So by the envelope theorem
    dKL/dS = (P - P*) / ε, and no gradient runs through the sweeps.

    Args:
        similarities: (n, m) S.
        log_target: (n, m) log P*, a plan with the same masses.
        epsilon: ε, the entropic regularisation.
        sweeps: Sinkhorn sweeps.

    Sources: Roschmann et al. 2026, arXiv:2602.23353, the divergence and its gradient; Cuturi 2013, arXiv:1306.0895.
    """
    with torch.no_grad():
        log_p, target = log_plan(similarities / epsilon, sweeps), log_target.exp()
        value = (target * (log_target - log_p)).sum()
        gradient = (log_p.exp() - target) / epsilon
    # The value of the divergence, and its gradient by the dot product: the last two are 0 together.
    return value + (gradient * similarities).sum() - (gradient * similarities.detach()).sum()


def log_plan(logits: Tensor, sweeps: int) -> Tensor:
    """`sinkhorn` by products with vectors, which take a fraction of the time.

    Logits have to be within 80 of each other in float32 and within 600 in float64: else their exponentials are 0.
    """
    kernel = (logits - logits.amax(1, keepdim=True)).exp()
    rows, columns = logits.new_ones(len(logits)), logits.new_ones(logits.shape[1])
    for _ in range(sweeps):
        rows = 1 / (len(rows) * (kernel @ columns))
        columns = 1 / (len(columns) * (rows @ kernel))
    return kernel.log() + rows.log()[:, None] + columns.log()


def structure_term(features: Tensor, embeddings: Tensor, *, levels: int, temperature: float) -> Tensor:
    """How much a head changes the similarities among rows, near and far.

        P = softmax(X̄ X̄ᵀ / t) a row, X̄ the unit rows minus their mean; Q the same of the embeddings
        R = 1/L Σ_l 1/l · JS(P^l, Q^l), JS the mean Jensen-Shannon divergence of the rows

    The power P^l is l steps of a walk along the similarities. R is 0 if the head is an isometry.

    Args:
        features: (n, p) frozen features.
        embeddings: (n, d) what the head made of them.
        levels: L.
        temperature: t.

    Source: Gröger et al. 2025, arXiv:2506.16895. The released loss has KL(M ‖ P) where the Jensen-Shannon divergence
    has KL(P ‖ M), M the mean of P and Q; this is the divergence of the paper.
    """
    before, after = _walk(features, temperature), _walk(embeddings, temperature)
    p, q = before, after
    total = torch.zeros(())
    for level in range(1, levels + 1):
        if level > 1:
            p, q = p @ before, q @ after
        mean = (p + q) / 2
        total = total + (_relative_entropy(p, mean) + _relative_entropy(q, mean)) / (2 * level)
    return total / levels


def _walk(rows: Tensor, temperature: float) -> Tensor:
    unit = F.normalize(rows, dim=1)
    centred = unit - unit.mean(0)
    return torch.softmax(centred @ centred.T / temperature, dim=1)


def _relative_entropy(p: Tensor, q: Tensor) -> Tensor:
    tiny = torch.finfo(p.dtype).tiny
    return (p * (p.clamp_min(tiny).log() - q.clamp_min(tiny).log())).sum(1).mean()


def descend(parameters: Iterable[Tensor], loss: Callable[[float], Tensor], *, steps: int, lr: float) -> None:
    """Adam on ``loss(progress)``, progress from 0 to 1; the learning rate falls to 0 along half a cosine."""
    optimizer = torch.optim.Adam(list(parameters), lr=lr)
    for step in range(steps):
        progress = step / steps
        optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * progress)) / 2
        optimizer.zero_grad()
        loss(progress).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


class _Trainer:
    """Two heads, what they read, and the draws of their batches."""

    def __init__(
        self, left: Tensor, right: Tensor, pairs: Tensor, *, seed: int, axes: int, width: int, head: str
    ) -> None:
        if len(pairs) < 2:
            raise ValueError(f"this rival learns from known pairs and needs 2 or more; got {len(pairs)}")
        self._pairs = pairs
        self._transforms = FeatureTransform.fit(left, axes), FeatureTransform.fit(right, axes)
        self._inputs = self._transforms[0](left), self._transforms[1](right)
        self._heads = tuple(
            ProjectionHead(inputs.shape[1], width, head=head, seed=2 * seed + side)
            for side, inputs in enumerate(self._inputs)
        )
        self._items = _equal_rows(left[pairs[:, 0]]), _equal_rows(right[pairs[:, 1]])
        self._generator = torch.Generator().manual_seed(seed)

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for head in self._heads for parameter in head.parameters()]

    def draw_pairs(self, most: int) -> Tensor:
        """Numbers of pairs: all, or as many as a batch holds."""
        if len(self._pairs) <= most:
            return torch.arange(len(self._pairs))
        return torch.randperm(len(self._pairs), generator=self._generator)[:most]

    def draw_rows(self, count: int) -> Tensor:
        """(count, 2) rows of both pools, drawn apart: no row is more than once in a column."""
        count = min(count, *(len(side) for side in self._inputs))
        return torch.stack(
            [torch.randperm(len(side), generator=self._generator)[:count] for side in self._inputs], dim=1
        )

    def partners(self, batch: Tensor) -> Tensor:
        return shared_partners(self._items[0][batch], self._items[1][batch]) > 0

    def embed(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        a, b = (
            head(inputs[rows[:, side]])
            for side, (head, inputs) in enumerate(zip(self._heads, self._inputs, strict=True))
        )
        return a, b

    def embeds(self) -> Embeds:
        a, b = (
            Composed(transform, head).requires_grad_(False)
            for transform, head in zip(self._transforms, self._heads, strict=True)
        )
        return a, b


def _equal_rows(features: Tensor) -> Tensor:
    """A number for each row; rows with the same features get the same one."""
    numbers: dict[bytes, int] = {}
    return torch.tensor([numbers.setdefault(row.tobytes(), len(numbers)) for row in features.numpy()])
