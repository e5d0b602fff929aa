"""Fitting a method to features: the objective's one step, and everything that changes while it is repeated.

A step draws unpaired rows of each modality and known pairs from independent streams, takes the gradient of each term of
the objective at the embeddings, and sends their sum back through the heads. Labels and groups are never read.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from setclip_cli import baselines, checkpoint, consensus
from setclip_cli.encoders import Composed, Concatenated, Encoder, FeatureTransform, ProjectionHead
from setclip_cli.errors import SetClipError
from setclip_cli.losses.objective import Side
from setclip_cli.methods import build_objective, fit_teacher
from setclip_cli.recipe import TRAINING_FREE_METHODS
from setclip_cli.sampling import generator, sample

if TYPE_CHECKING:
    from setclip_cli.recipe import Recipe


@dataclass(frozen=True)
class Fitted:
    """Encoders of both sides, as trained and as they were before training.

    Attributes:
        findings: What the method learned of its own result, such as how far to trust it, by metric key.
        warnings: The same in words for the user, where there is reason to.
    """

    encoders: tuple[Encoder, Encoder]
    initial: tuple[Encoder, Encoder]
    findings: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def fit(recipe: Recipe, left: Tensor, right: Tensor, pairs: Tensor) -> Fitted:
    """Fits the recipe's method to features in memory.

    Args:
        left: (n, p) float32 frozen features of the left pool.
        right: (m, q) float32 frozen features of the right pool; row order means nothing.
        pairs: (b, 2) int64 rows of the known pairs; b may be 0.
    """
    if is_trained(recipe, pairs):
        training = Training(recipe, left, right, pairs)
        while training.taken < training.steps:
            training.advance()
        return training.fitted()
    initial = (_Tower(recipe, "left", left).encoder(), _Tower(recipe, "right", right).encoder())
    if len(pairs):
        encoders = baselines.fit(recipe.method, left, right, pairs, axes=recipe.projection.pca)
        return Fitted(encoders, initial)
    matched = consensus.fit(left, right, seed=recipe.seed, axes=recipe.projection.pca)
    findings = {"consensus/agreement": matched.agreement, "consensus/mass_distance": matched.mass_distance}
    return Fitted(matched.encoders, initial, findings, matched.warnings())


def is_trained(recipe: Recipe, pairs: Tensor) -> bool:
    """Whether the method takes gradient steps: not the linear and graph baselines, nor matching without any pair."""
    matched_by_consensus = recipe.method == "set-clip-plus" and not len(pairs)
    return recipe.method not in TRAINING_FREE_METHODS and not matched_by_consensus


class _Tower:
    """One side in training: the transformed features of its pool and the heads over them."""

    def __init__(self, recipe: Recipe, side: str, pool: Tensor) -> None:
        self.side = side
        self.dropout = recipe.objective.self_supervised.dropout
        self.transform = FeatureTransform.fit(pool, recipe.projection.pca).to(pool.device)
        with torch.no_grad():
            self.features = self.transform(pool)
        self.heads = nn.ModuleList(
            ProjectionHead(
                self.features.shape[1],
                recipe.projection.dim,
                head=recipe.projection.kind,
                seed=generator(recipe.seed, "init", side, member).initial_seed(),
            )
            for member in range(recipe.ensemble)
        ).to(pool.device)

    def encoder(self) -> Encoder:
        """The heads as they are now: a copy, so that later steps do not change it."""
        heads = [head for head in copy.deepcopy(self.heads) if isinstance(head, ProjectionHead)]
        return (
            Composed(copy.deepcopy(self.transform), heads[0] if len(heads) == 1 else Concatenated(heads)).cpu().eval()
        )

    def view(self, features: Tensor, draw: torch.Generator) -> Tensor:
        """A second view of frozen features: some of them left out, the rest scaled up to keep the mean."""
        kept = torch.rand(features.shape, generator=draw).to(features.device) >= self.dropout
        return features * kept / (1 - self.dropout)


class Training:
    """The state of a training run and its one step. Everything random is a function of the recipe's seed and the step.

    Attributes:
        taken: Steps already taken, over all members of the ensemble.
        steps: Steps to take.
    """

    def __init__(self, recipe: Recipe, left: Tensor, right: Tensor, pairs: Tensor) -> None:
        self.recipe = recipe
        self.taken = 0
        self.steps = recipe.train.steps * recipe.ensemble
        self.pairs = pairs
        self.left, self.right = _Tower(recipe, "left", left), _Tower(recipe, "right", right)
        self.initial = (self.left.encoder(), self.right.encoder())
        self.objective = build_objective(recipe.objective).to(left.device)
        self.coordinates: tuple[Tensor, Tensor] | None = None
        if "teacher" in self.objective.terms and len(pairs):
            teachers = fit_teacher(
                self.left.features, self.right.features, pairs, neighbours=recipe.objective.teacher.neighbours
            )
            self.coordinates = (teachers[0].coordinates(), teachers[1].coordinates())
        self.optimizer = self._new_optimizer(member=0)

    def advance(self) -> dict[str, float]:
        """Takes one step and returns what it saw, by the keys of metrics.jsonl.

        Raises:
            SetClipError: a term or its gradient is not finite; the parameters are as they were before the step.
        """
        member, step = divmod(self.taken, self.recipe.train.steps)
        if step == 0:
            self.optimizer = self._new_optimizer(member)
        left, right = self._side(self.left, 0, member, step), self._side(self.right, 1, member, step)
        value = self.objective(left.detached, right.detached, step)
        inputs = [*left.leaves, *right.leaves, *self.objective.parameters()]
        gradients = {
            name: _gradients(term, inputs) for name, term in value.terms.items()
        }  # at the embeddings, one backward a term: their sum is the whole gradient, their norms its shares
        self._check_finite(value.terms, gradients)

        self.optimizer.zero_grad(set_to_none=True)
        summed = [
            sum((value.weights[name] * parts[index] for name, parts in gradients.items()), torch.zeros_like(tensor))
            for index, tensor in enumerate(inputs)
        ]
        embeddings = [*left.embeddings, *right.embeddings]
        torch.autograd.backward(embeddings, summed[: len(embeddings)])
        for parameter, gradient in zip(self.objective.parameters(), summed[len(embeddings) :], strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        self.taken += 1

        norms = {
            name: value.weights[name] * float(torch.cat([part.flatten() for part in parts]).norm())
            for name, parts in gradients.items()
        }
        whole = sum(norms.values()) or 1.0
        return {
            "step": self.taken,
            "loss/total": float(value.total.detach()),
            **{f"loss/{name}": float(term.detach()) for name, term in value.terms.items()},
            **{f"gradient_share/{name}": norm / whole for name, norm in norms.items()},
            "density_gap": float(value.density_gap),
        }

    def fitted(self) -> Fitted:
        return Fitted((self.left.encoder(), self.right.encoder()), self.initial)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that training changes, by name."""
        return {
            **{f"left.{name}": value for name, value in self.left.heads.state_dict().items()},
            **{f"right.{name}": value for name, value in self.right.heads.state_dict().items()},
            **{f"objective.{name}": value for name, value in self.objective.state_dict().items()},
            **checkpoint.optimizer_tensors(self.optimizer),
        }

    def restore(self, taken: int, tensors: dict[str, Tensor]) -> None:
        """Puts back what `tensors` gave after ``taken`` steps."""
        modules = {"left": self.left.heads, "right": self.right.heads, "objective": self.objective}
        for prefix, module in modules.items():
            start = f"{prefix}."
            module.load_state_dict(
                {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
            )
        self.taken = taken
        self.optimizer = self._new_optimizer(min(taken // self.recipe.train.steps, self.recipe.ensemble - 1))
        checkpoint.restore_optimizer(self.optimizer, tensors)

    def _new_optimizer(self, member: int) -> torch.optim.Optimizer:
        """Each member of an ensemble has its own heads, and so its own moments."""
        parameters = [*self.left.heads[member].parameters(), *self.right.heads[member].parameters()]
        settings = self.recipe.optim
        return torch.optim.AdamW(
            [*parameters, *self.objective.parameters()], lr=settings.lr, weight_decay=settings.weight_decay
        )

    def _side(self, tower: _Tower, column: int, member: int, step: int) -> _Drawn:
        """Draws this side's rows of a step and embeds them."""
        train, seed = self.recipe.train, self.recipe.seed
        head, pool = tower.heads[member], tower.features
        rows = sample(len(pool), train.batch, step, seed=seed, stream=f"{tower.side}/{member}").to(pool.device)
        features = pool[rows]
        embeddings = [head(features)]
        paired_ids = self.pairs[:0, column]
        if len(self.pairs):
            chosen = sample(len(self.pairs), train.pairs_per_batch, step, seed=seed, stream=f"pairs/{member}")
            paired_ids = self.pairs[chosen.to(self.pairs.device), column]
            embeddings.append(head(pool[paired_ids]))
        if "self_supervised" in self.objective.terms:
            draw = generator(seed, "view", tower.side, member, step)
            embeddings.append(head(tower.view(features, draw)))
        leaves = [embedding.detach().requires_grad_() for embedding in embeddings]
        return _Drawn(
            embeddings,
            leaves,
            Side(
                features=features,
                embeddings=leaves[0],
                paired=leaves[1] if len(self.pairs) else leaves[0][:0],
                paired_ids=paired_ids,
                second_view=leaves[-1] if "self_supervised" in self.objective.terms else None,
                teacher=self.coordinates[column][rows] if self.coordinates else None,
            ),
        )

    def _check_finite(self, terms: dict[str, Tensor], gradients: dict[str, list[Tensor]]) -> None:
        for name, term in terms.items():
            finite = bool(torch.isfinite(term)) and all(bool(torch.isfinite(part).all()) for part in gradients[name])
            if not finite:
                raise SetClipError(
                    f"step {self.taken + 1}: objective.{name} is {float(term.detach())}, or its gradient is not finite",
                    fix=f"lower optim.lr ({self.recipe.optim.lr}) or objective.{name}.weight",
                )


@dataclass(frozen=True)
class _Drawn:
    """A side's embeddings with their graph, the same cut off as leaves, and the side that the losses see."""

    embeddings: list[Tensor]
    leaves: list[Tensor]
    detached: Side


def _gradients(term: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """The gradient of one term at every input, zeros where the term does not depend on it."""
    if not term.requires_grad:
        return [torch.zeros_like(tensor) for tensor in inputs]
    found = torch.autograd.grad(term, inputs, allow_unused=True, retain_graph=True)
    return [
        torch.zeros_like(tensor) if gradient is None else gradient
        for tensor, gradient in zip(inputs, found, strict=True)
    ]
