"""One side in training: where the features of its rows come from, and the heads over them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from setclip_cli.backbones.batching import tf32
from setclip_cli.backbones.former_names import with_present_names
from setclip_cli.backbones.tuning import dropout_on
from setclip_cli.encoders.encoders import Composed, Concatenated, Encoder, FeatureTransform, ProjectionHead
from setclip_cli.errors import ExitCode, SetClipError
from setclip_cli.methods.extra_encoders import trained_part
from setclip_cli.sampling import generator

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from setclip_cli.backbones.base import Backbone
    from setclip_cli.features.raw_rows import Items
    from setclip_cli.recipe.recipe import Recipe


@dataclass(frozen=True)
class Tuned:
    """A backbone whose weights change, and the raw items it reads."""

    backbone: Backbone
    items: Items
    lengths: Tensor | None = None  # (n,) of the items, where their batches are padded to the longest


@dataclass(frozen=True)
class Pool:
    """The unpaired rows of one modality.

    Attributes:
        features: (n, p) float32 of the backbone as it was found.
        views: (k, n, p) features of k augmented views of the same rows; None makes views by noise on the features.
        tuned: The backbone, where it is trained.
    """

    features: Tensor
    views: Tensor | None = None
    tuned: Tuned | None = None


@dataclass(frozen=True)
class Start:
    """Weights of another run to start from: its encoder and what it tuned of the backbone."""

    encoder: Encoder
    tuned: dict[str, Tensor]


class Tower:
    """A side's transform, heads and, where it is trained, backbone.

    Attributes:
        side: "left" or "right": part of the name of each of its random streams.
        features: (n, q) the pool's features, transformed.
    """

    def __init__(self, recipe: Recipe, side: str, pool: Pool) -> None:
        device = pool.features.device
        self.side, self.pool, self.dim = side, pool, recipe.projection.dim
        self.noise = recipe.objective.self_supervised.noise
        self.chunk = recipe.train.chunk if pool.tuned else None
        self._tf32 = recipe.train.tf32
        self.transform = FeatureTransform.fit(pool.features, recipe.projection.pca).to(device)
        with torch.no_grad():
            self.features = self.transform(pool.features)
        self.heads = nn.ModuleList(
            ProjectionHead(
                self.features.shape[1],
                recipe.projection.dim,
                head=recipe.projection.kind,
                seed=generator(recipe.seed, "init", side, member).initial_seed(),
            )
            for member in range(recipe.ensemble)
        ).to(device)

    def start_from(self, encoder: Encoder, tuned: dict[str, Tensor]) -> None:
        """Takes the transform and heads of another run, and the backbone's tuned weights where it has any.

        Raises:
            SetClipError: the other run's encoder is of another kind or size, or other weights were tuned.
        """
        own, encoder = self.encoder(), trained_part(encoder)
        if encoder.describe() != own.describe():
            raise SetClipError(
                f"init_from: its {self.side} encoder is {encoder.describe()}, the recipe makes {own.describe()}",
                fix="give both runs the same [projection] and ensemble, and a trained method",
                exit_code=ExitCode.USAGE,
            )
        state = encoder.state_dict()
        self.transform.load_state_dict(under("transform.", state))
        heads = under("encoder.", state)
        single = len(self.heads) == 1
        self.heads.load_state_dict(
            {f"0.{name}": value for name, value in heads.items()} if single else under("encoders.", heads)
        )
        with torch.no_grad():
            self.features = self.transform(self.pool.features)
            trained = self.tuned_parameters()
            if self.pool.tuned is not None:
                tuned = with_present_names(self.pool.tuned.backbone.spec, tuned)
            if tuned and trained.keys() != tuned.keys():
                raise SetClipError(
                    f"init_from: it tuned {len(tuned)} weights of the {self.side} backbone, the recipe {len(trained)}",
                    fix="give both recipes the same trainable and lora_rank",
                    exit_code=ExitCode.USAGE,
                )
            for name, value in tuned.items():
                trained[name].copy_(value)

    def prepare(self, rows: Tensor, part: slice, view_seed: int | None = None) -> Any:
        """What `embed` takes for a part of these rows, or for another view of them; needs no weights.

        The view of a row depends on its place among all ``rows``, not on the part that it is prepared in.
        """
        draw = None if view_seed is None else torch.Generator().manual_seed(view_seed)
        if self.pool.tuned is not None:
            items = self.pool.tuned.items.take(rows[part].tolist())
            seeds = None if draw is None else torch.randint(2**31, (len(rows),), generator=draw)[part].tolist()
            return self.pool.tuned.backbone.prepare(items, views=seeds)
        own = rows[part].to(self.features.device)
        if draw is None:
            return self.features[own]
        if self.pool.views is not None:
            which = torch.randint(len(self.pool.views), (len(rows),), generator=draw)[part].to(own.device)
            with torch.no_grad():
                return self.transform(self.pool.views[which, own])
        width = self.features.shape[1]
        noise = torch.randn(len(rows), width, generator=draw)[part].to(own.device)
        return self.features[own] + self.noise / width**0.5 * noise

    def by_length(self, rows: Tensor) -> Tensor:
        """Unpaired rows, whose order means nothing, by their lengths: a chunk then needs little padding."""
        tuned = self.pool.tuned
        if tuned is None or tuned.lengths is None:
            return rows
        return rows[tuned.lengths[rows].argsort(stable=True)]

    def embed(self, member: int, prepared: Any, *, dropout_seed: int | None = None) -> Tensor:
        """(n, d) embeddings of prepared rows, with gradient.

        Args:
            dropout_seed: Runs the backbone with dropout from this seed: part of what makes another view of a text.
        """
        with self.matmuls():
            if self.pool.tuned is None:
                return self._head(member, prepared)
            backbone = self.pool.tuned.backbone
            if dropout_seed is None:
                return self._head(member, self.transform(backbone.features(prepared)))
            with torch.random.fork_rng(), dropout_on(backbone.module):
                torch.manual_seed(dropout_seed)
                return self._head(member, self.transform(backbone.features(prepared)))

    def matmuls(self) -> AbstractContextManager[object]:
        """In which the tower goes forward and backward: TensorFloat-32 where the recipe asks for it."""
        return tf32(self.features.device, self._tf32)

    def _head(self, member: int, transformed: Tensor) -> Tensor:
        embeddings: Tensor = self.heads[member](transformed)
        return embeddings

    def encoder(self, averages: dict[str, Tensor] | None = None) -> Composed:
        """The heads as they are now, or with averaged weights in their place: a copy, so later steps leave it alone."""
        modules = copy.deepcopy(self.heads)
        if averages:
            modules.load_state_dict({**modules.state_dict(), **averages})
        heads = [head for head in modules if isinstance(head, ProjectionHead)]
        joined = heads[0] if len(heads) == 1 else Concatenated(heads)
        return Composed(copy.deepcopy(self.transform), joined).cpu().eval()

    def tuned_parameters(self) -> dict[str, Tensor]:
        """The backbone's trained weights by name; none for a frozen one."""
        if self.pool.tuned is None:
            return {}
        return {
            name: value for name, value in self.pool.tuned.backbone.module.named_parameters() if value.requires_grad
        }


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The entries whose names start with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
