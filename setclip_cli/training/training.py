"""Fitting a method to features: the objective's one step, and everything that changes while it is repeated.

A step draws unpaired rows of each modality and known pairs from independent streams, takes the gradient of each term of
the objective at the embeddings, and sends their sum back through the heads. Labels and groups are never read.
"""

from __future__ import annotations

import math
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from setclip_cli.backbones.former_names import with_present_names
from setclip_cli.backbones.tuning import is_pooling
from setclip_cli.encoders.encoders import Encoder
from setclip_cli.errors import SetClipError
from setclip_cli.losses import log_density_ratios
from setclip_cli.losses.terms import StepSide
from setclip_cli.methods import closed_form, no_pairs
from setclip_cli.methods.auto import Choice, choose
from setclip_cli.methods.distil import distil
from setclip_cli.methods.extra_encoders import accompanied
from setclip_cli.methods.graph_teacher import fit_teacher, pair_balance
from setclip_cli.recipe.presets import TRAINING_FREE_METHODS
from setclip_cli.run import checkpoint
from setclip_cli.sampling import generator, sample
from setclip_cli.training.distributed import Group
from setclip_cli.training.gradient_cache import Embedded, Lot
from setclip_cli.training.objective import build_objective
from setclip_cli.training.schedules import rate_at
from setclip_cli.training.tower import Pool, Start, Tower, under

if TYPE_CHECKING:
    from setclip_cli.recipe.recipe import Recipe

DISTIL_WARNING = 0.9  # correlation with the ensemble below which a distilled head is worth a word


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
    recipe = resolved(recipe, left, right, pairs).recipe
    if is_trained(recipe, pairs):
        training = Training(recipe, Pool(left), Pool(right), pairs)
        while training.taken < training.steps:
            training.advance()
        return training.fitted()
    initial = (Tower(recipe, "left", Pool(left)).encoder(), Tower(recipe, "right", Pool(right)).encoder())
    if len(pairs):
        encoders = closed_form.fit(recipe.method, left, right, pairs, axes=recipe.projection.pca)
        return Fitted(encoders, initial)
    matched = no_pairs.fit(left, right, seed=recipe.seed, axes=recipe.projection.pca)
    return Fitted(matched.encoders, initial, {"consensus/agreement": matched.agreement}, matched.warnings())


def resolved(recipe: Recipe, left: Tensor, right: Tensor, pairs: Tensor) -> Choice:
    """The recipe with a method in place of ``auto``, chosen on pairs held out; any other method chooses itself."""
    if recipe.method != "auto":
        return Choice(recipe, len(pairs), {}, None)
    return choose(recipe, left, right, pairs, lambda *given: fit(*given).encoders)


def is_trained(recipe: Recipe, pairs: Tensor) -> bool:
    """Whether the method takes gradient steps: not the linear and graph baselines, nor matching without any pair."""
    matched_by_consensus = recipe.method == "set-clip-plus" and not len(pairs)
    return recipe.method not in TRAINING_FREE_METHODS and not matched_by_consensus


class Training:
    """The state of a training run and its one step. Everything random is a function of the recipe's seed and the step.

    Attributes:
        taken: Steps already taken, over all members of the ensemble.
        steps: Steps to take.
        initial: The encoders before the first step.
    """

    def __init__(
        self,
        recipe: Recipe,
        left: Pool,
        right: Pool,
        pairs: Tensor,
        *,
        group: Group | None = None,
        start: tuple[Start, Start] | None = None,
    ) -> None:
        """``pairs`` is (b, 2) int64: the left and right rows of the known pairs; b may be 0."""
        self.recipe, self.pairs = recipe, pairs
        self.group = group or Group()
        self.taken, self.steps = 0, recipe.train.steps * recipe.ensemble
        self.towers = (Tower(recipe, "left", left), Tower(recipe, "right", right))
        for tower, weights in zip(self.towers, start or (), strict=False):
            tower.start_from(weights.encoder, weights.tuned)
        self.initial = (self.towers[0].encoder(), self.towers[1].encoder())
        device = left.features.device
        self.objective = build_objective(recipe.objective, pairs=len(pairs)).to(device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.train.precision == "float16")
        self.averages: dict[str, Tensor] = {}
        if recipe.optim.ema:
            self.averages = {name: value.detach().clone() for name, value in self._parameters().items()}
        self.coordinates: tuple[Tensor, Tensor] | None = None
        self.weights: tuple[Tensor | None, Tensor | None] = (None, None)
        if len(pairs) and ("teacher" in self.objective.terms or recipe.train.balance):
            wanted = recipe.objective.teacher.neighbours
            of_left, of_right = fit_teacher(
                self.towers[0].features,
                self.towers[1].features,
                pairs,
                neighbours=None if wanted == "auto" else wanted,
            )
            self.coordinates = (of_left.coordinates(), of_right.coordinates())
            if recipe.train.balance:
                self.weights = (pair_balance(self.coordinates[0]), pair_balance(self.coordinates[1]))
        self.optimizer = self._new_optimizer(member=0)
        self._last = (left.features[:0], right.features[:0])
        # Tuned backbones read raw rows: those of the next step are read while this one computes.
        self._ahead = ThreadPoolExecutor(1) if left.tuned or right.tuned else None
        self._next: tuple[int, Future[tuple[list[Lot], list[Lot]]]] | None = None

    def advance(self) -> dict[str, float]:
        """Takes one step and returns what it saw, by the keys of metrics.jsonl.

        Raises:
            SetClipError: a term or a gradient is not finite; all that `tensors` gives is as it was before the step.
        """
        before = self.objective.state_dict()
        try:
            return self._step()
        except BaseException:
            self.objective.load_state_dict(before)  # its queue holds the rows of the step that failed
            raise

    def _step(self) -> dict[str, float]:
        member, step = divmod(self.taken, self.recipe.train.steps)
        if step == 0:
            self.optimizer = self._new_optimizer(member)
        lots = self._lots()
        left, right = (
            [Embedded(tower, member, lot, self.group) for lot in side]
            for tower, side in zip(self.towers, lots, strict=True)
        )
        self._check_embeddings(left, right)
        value = self.objective(self._side(0, left), self._side(1, right), step)
        embedded = [*left, *right]
        inputs = [*(part.leaf for part in embedded), *self.objective.parameters()]
        # At the embeddings, one backward a term: their sum is the whole gradient, their norms its shares.
        gradients = {name: _gradients(term, inputs) for name, term in value.terms.items()}
        self._check_finite(value.terms, gradients)
        self._last = left[0].leaf.detach(), right[0].leaf.detach()
        summed = [
            sum((value.weights[name] * parts[index] for name, parts in gradients.items()), torch.zeros_like(tensor))
            for index, tensor in enumerate(inputs)
        ]

        self.optimizer.zero_grad(set_to_none=True)
        for part, gradient in zip(embedded, summed, strict=False):
            part.backward(self.scaler.scale(gradient))
        self.group.sum_gradients(self._trained(member))
        for parameter, gradient in zip(self.objective.parameters(), summed[len(embedded) :], strict=True):
            parameter.grad = self.scaler.scale(gradient)  # the same on every rank
        norm, rate = self._update(member, step)
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
            **({"gradient_norm": norm} if math.isfinite(norm) else {}),  # in float16, a step that the scaler skipped
            "lr": rate,
            "density_gap": float(value.density_gap),
        }

    def last_embeddings(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of the last step's unpaired rows: both sides' embeddings, and |log p_left - log p_right| at each row."""
        left, right = self._last
        over_left, over_right = log_density_ratios(left, right)
        return left, right, torch.cat([over_left, over_right]).abs().flatten()

    def fitted(self) -> Fitted:
        """The encoders as they are now: averaged weights where the recipe asks for an average."""
        left, right = (tower.encoder(self._averages_of(f"{tower.side}.heads.")) for tower in self.towers)
        findings, warnings = {}, []
        if self.recipe.ensemble_distil:
            pools = [tower.pool.features.cpu() for tower in self.towers]
            (left, right), agreement = distil((left, right), pools[0], pools[1], seed=self.recipe.seed)
            findings["distil/correlation"] = agreement
            if agreement < DISTIL_WARNING:
                warnings.append(
                    f"the one head's cosines correlate with the ensemble's by {agreement:.2f} only; "
                    "ensemble_distil = false keeps the ensemble, a larger projection.dim follows it better"
                )
        encoders: tuple[Encoder, Encoder] = (left, right)
        if not any(tower.pool.tuned for tower in self.towers):  # they are fitted to the features as they are
            extra = self.recipe.extra_encoders
            encoders = accompanied(
                (left, right),
                (self.towers[0].features.cpu(), self.towers[1].features.cpu()),
                self.pairs.cpu(),
                linear=extra.linear,
                diffused=extra.diffused,
                shifted=extra.shifted,
                seed=self.recipe.seed,
            )
        return Fitted(encoders, self.initial, findings, warnings)

    def tuned(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The trained weights of the left and right backbone, by name; empty for frozen ones."""
        left, right = (
            {
                name: self.averages.get(f"{tower.side}.backbone.{name}", value).detach().clone()
                for name, value in tower.tuned_parameters().items()
            }
            for tower in self.towers
        )
        return left, right

    def tensors(self) -> dict[str, Tensor]:
        """Everything that training changes, by name."""
        scaler = {f"scaler.{name}": torch.tensor(float(value)) for name, value in self.scaler.state_dict().items()}
        return {
            **{name: value.detach() for name, value in self._parameters().items()},
            **{f"average.{name}": value for name, value in self.averages.items()},
            **{f"objective.{name}": value for name, value in self.objective.state_dict().items()},
            **checkpoint.optimizer_tensors(self.optimizer),
            **scaler,
        }

    def restore(self, taken: int, tensors: dict[str, Tensor]) -> None:
        """Puts back what `tensors` gave after ``taken`` steps."""
        for tower in self.towers:
            if tower.pool.tuned is not None:
                prefix = f"{tower.side}.backbone."
                tensors = with_present_names(tower.pool.tuned.backbone.spec, tensors, prefix=prefix)
        with torch.no_grad():
            for name, parameter in self._parameters().items():
                parameter.copy_(tensors[name])
            for name, average in self.averages.items():
                average.copy_(tensors[f"average.{name}"])
        self.objective.load_state_dict(under("objective.", tensors))
        if scaler := under("scaler.", tensors):
            settings = {name: float(value) for name, value in scaler.items()}
            whole = {"growth_interval", "_growth_tracker"}
            self.scaler.load_state_dict(
                {name: int(value) if name in whole else value for name, value in settings.items()}
            )
        self.taken = taken
        self.optimizer = self._new_optimizer(min(taken // self.recipe.train.steps, self.recipe.ensemble - 1))
        checkpoint.restore_optimizer(self.optimizer, tensors)

    def _parameters(self) -> dict[str, Tensor]:
        """Every trained parameter of the towers, by name."""
        found: dict[str, Tensor] = {}
        for tower in self.towers:
            found |= {f"{tower.side}.heads.{name}": value for name, value in tower.heads.named_parameters()}
            found |= {f"{tower.side}.backbone.{name}": value for name, value in tower.tuned_parameters().items()}
        return found

    def _trained(self, member: int) -> list[Tensor]:
        """The parameters that a step of this member changes, the objective's aside."""
        heads = [parameter for tower in self.towers for parameter in tower.heads[member].parameters()]
        return [*heads, *(value for tower in self.towers for value in tower.tuned_parameters().values())]

    def _averages_of(self, prefix: str) -> dict[str, Tensor]:
        return under(prefix, self.averages)

    def _new_optimizer(self, member: int) -> torch.optim.Optimizer:
        """Each member of an ensemble has its own heads, and so its own moments."""
        settings = self.recipe.optim
        heads: list[Tensor] = [value for tower in self.towers for value in tower.heads[member].parameters()]
        tuned = [named for tower in self.towers for named in tower.tuned_parameters().items()]
        heads += [value for name, value in tuned if is_pooling(name)]
        backbones = [value for name, value in tuned if not is_pooling(name)]
        groups: list[dict[str, Any]] = [
            {"params": [*heads, *self.objective.parameters()], "lr": settings.lr, "weight_decay": settings.weight_decay}
        ]
        if backbones:
            rates = {"lr": settings.backbone_lr, "weight_decay": settings.backbone_weight_decay}
            groups.append({"params": backbones, **rates})
        optimizer = torch.optim.AdamW(groups)
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
        return optimizer

    def _update(self, member: int, step: int) -> tuple[float, float]:
        """Clips, steps and averages; returns the norm of the gradient and the projections' learning rate."""
        settings = self.recipe.optim
        factor = rate_at(step, self.recipe.train.steps, settings.schedule, settings.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        parameters = [*self._trained(member), *self.objective.parameters()]
        norm = torch.nn.utils.get_total_norm([value.grad for value in parameters if value.grad is not None])
        if not self.scaler.is_enabled() and not math.isfinite(norm):
            self._raise_gradient(member)
        if settings.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, settings.clip_norm, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            current = self._parameters() if self.averages else {}
            for name, average in self.averages.items():
                average.lerp_(current[name], 1 - settings.ema)
        return float(norm), float(self.optimizer.param_groups[0]["lr"])

    def _lots(self) -> tuple[list[Lot], list[Lot]]:
        """This step's rows of both sides, prepared; with tuned backbones the next step's are begun."""
        if self._ahead is None:
            return self._draw(self.taken)
        ready = self._next[1] if self._next and self._next[0] == self.taken else None
        lots = ready.result() if ready else self._draw(self.taken)
        if self.taken + 1 < self.steps:
            self._next = (self.taken + 1, self._ahead.submit(self._draw, self.taken + 1))
        return lots

    def _draw(self, taken: int) -> tuple[list[Lot], list[Lot]]:
        """The lots of a step: the unpaired rows, their second view when a term needs it, and the pairs' rows."""
        member, step = divmod(taken, self.recipe.train.steps)
        train, seed = self.recipe.train, self.recipe.seed
        chosen = torch.zeros(0, dtype=torch.int64)
        if len(self.pairs):
            chosen = sample(len(self.pairs), train.pairs_per_batch, step, seed=seed, stream=f"pairs/{member}")
        sides = []
        for column, tower in enumerate(self.towers):
            stream = f"{tower.side}/{member}"
            rows = sample(
                len(tower.features), train.batch, step, seed=seed, stream=stream, weights=self.weights[column]
            )
            rows = tower.by_length(rows)
            lots = [self._lot(tower, rows)]
            if len(self.pairs):
                lots.append(self._lot(tower, self.pairs[chosen.to(self.pairs.device), column].cpu()))
            if "self_supervised" in self.objective.terms:
                lots.append(self._lot(tower, rows, generator(seed, "view", tower.side, member, step).initial_seed()))
            sides.append(lots)
        return sides[0], sides[1]

    def _lot(self, tower: Tower, rows: Tensor, view_seed: int | None = None) -> Lot:
        """This rank's share of the rows, prepared chunk by chunk."""
        own = self.group.share(len(rows))
        size = tower.chunk or max(1, len(rows))
        parts = [slice(start, min(start + size, own.stop)) for start in range(own.start, own.stop, size)]
        return Lot(rows, [tower.prepare(rows, part, view_seed) for part in parts], size, view_seed)

    def _side(self, column: int, embedded: list[Embedded]) -> StepSide:
        rows = embedded[0].lot.rows.to(self.pairs.device)
        features = self.towers[column].features
        paired = embedded[1] if len(self.pairs) else None
        return StepSide(
            features=features[rows.to(features.device)],
            embeddings=embedded[0].leaf,
            paired=paired.leaf if paired else embedded[0].leaf[:0],
            paired_features=features[paired.lot.rows.to(features.device)] if paired else features[:0],
            paired_ids=paired.lot.rows.to(self.pairs.device) if paired else self.pairs[:0, column],
            second_view=embedded[-1].leaf if "self_supervised" in self.objective.terms else None,
            teacher_coordinates=self.coordinates[column][rows] if self.coordinates else None,
        )

    def _raise_gradient(self, member: int) -> NoReturn:
        """Names the tower whose own arithmetic gave a gradient that is not finite, though every loss is."""
        sides = [
            tower.side
            for tower in self.towers
            for part in (tower.heads[member].parameters(), tower.tuned_parameters().values())
            if any(value.grad is not None and not torch.isfinite(value.grad).all() for value in part)
        ]
        raise SetClipError(
            f"step {self.taken + 1}: the gradient of the {' and the '.join(dict.fromkeys(sides))} tower is not finite, "
            "while every term of the objective is",
            fix=f"lower optim.backbone_lr ({self.recipe.optim.backbone_lr}) or optim.lr ({self.recipe.optim.lr}), "
            "or --set train.precision=float32",
        )

    def _check_embeddings(self, *sides: list[Embedded]) -> None:
        optim = self.recipe.optim
        for tower, parts in zip(self.towers, sides, strict=True):
            if not all(bool(torch.isfinite(part.leaf).all()) for part in parts):
                raise SetClipError(
                    f"step {self.taken + 1}: the {tower.side} tower gives embeddings that are not finite, so no term "
                    f"of the objective ({', '.join(self.objective.terms)}) is",
                    fix=f"lower optim.lr ({optim.lr}) or optim.backbone_lr ({optim.backbone_lr})",
                )

    def _check_finite(self, terms: dict[str, Tensor], gradients: dict[str, list[Tensor]]) -> None:
        for name, term in terms.items():
            finite = bool(torch.isfinite(term)) and all(bool(torch.isfinite(part).all()) for part in gradients[name])
            if not finite:
                raise SetClipError(
                    f"step {self.taken + 1}: objective.{name} is {float(term.detach())}, or its gradient is not finite",
                    fix=f"lower optim.lr ({self.recipe.optim.lr}) or objective.{name}.weight",
                )


def _gradients(term: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """The gradient of one term at every input, zeros where the term does not depend on it."""
    if not term.requires_grad:
        return [torch.zeros_like(tensor) for tensor in inputs]
    found = torch.autograd.grad(term, inputs, allow_unused=True, retain_graph=True)
    return [
        torch.zeros_like(tensor) if gradient is None else gradient
        for tensor, gradient in zip(inputs, found, strict=True)
    ]
