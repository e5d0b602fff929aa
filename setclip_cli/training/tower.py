"""One side in training: where the features of its rows come from, and the heads that map them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from setclip_cli.backbones.devices import tf32
from setclip_cli.backbones.former_names import with_present_names
from setclip_cli.backbones.tuning import dropout_on
from setclip_cli.encoders import (
    Composed,
    Concatenated,
    Encoder,
    FeatureTransform,
    ProjectionHead,
    ResidualHead,
    WithStart,
)
from setclip_cli.errors import UsageError
from setclip_cli.methods.extra_encoders import without_extra_encoders
from setclip_cli.sampling import generator

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from setclip_cli.backbones.base import Backbone
    from setclip_cli.features.raw_rows import RawRows
    from setclip_cli.training.landmarks import LargePool


@dataclass(frozen=True)
class TunedBackbone:
    """A backbone whose weights change, and the raw rows that it reads."""

    backbone: Backbone
    raw_rows: RawRows
    lengths: Tensor | None = None  # (n,) of the rows, if a batch of them is padded to the longest


@dataclass(frozen=True)
class Pool:
    """The unpaired rows of one modality.

    Attributes:
        features: (n, p) float32 of the backbone as it was found; of a large pool those of its landmarks.
        views: (k, n, p) features of k augmented views of the same rows; None makes views by noise on the features.
        tuned: The backbone, if its weights change.
        large: All rows of a large pool. Row numbers are those of all rows, where nothing else is said.
    """

    features: Tensor
    views: Tensor | None = None
    tuned: TunedBackbone | None = None
    large: LargePool | None = None

    def __len__(self) -> int:
        return len(self.features) if self.large is None else len(self.large.rows)


@dataclass(frozen=True)
class InitialWeights:
    """Weights of another RUN to start from: its encoder, and what it tuned of the backbone."""

    encoder: Encoder
    tuned: dict[str, Tensor]


class TrainingTower:
    """The transform and heads of a side, and its backbone if that is tuned.

    Attributes:
        side: "left" or "right": part of the name of each of its random streams.
        inputs: (n, q) what the heads read of the pool, of a large one of its landmarks: its features, transformed, and
            beside them the embeddings that the tower starts from, if it has a start.
        heads: One for each member of the ensemble.
    """

    def __init__(
        self,
        side: str,
        pool: Pool,
        *,
        head: Literal["mlp", "linear"],
        dim: int,
        axes: int,
        members: int,
        seed: int,
        noise: float,
        chunk: int,
        tf32: bool,
        start: Encoder | None = None,
        nested: Sequence[int] | None = None,
    ) -> None:
        """Fits the transform and draws the weights of the heads.

        Args:
            head: Kind of the heads.
            dim: Width of the embeddings of one head; with a start, of its inner layer.
            axes: Principal axes kept of the features; 0 keeps them all.
            members: Number of heads.
            seed: Decides the weights of the heads.
            noise: Length of the noise that makes a second view, where the mean length of the features is 1.
            chunk: Rows whose activations a tuned backbone holds at once.
            tf32: Whether matrix products may use TensorFloat-32 on CUDA.
            nested: Widths of the heads that the objective nests.
            start: From the pool's features to the embeddings before the first step; without it they are random.
        """
        device = pool.features.device
        self.side, self.pool, self.dim = side, pool, dim if start is None else start.dim
        self.noise = noise
        self.chunk = chunk if pool.tuned else None
        self._tf32 = tf32
        if pool.large is None:
            transform = FeatureTransform.fit(pool.features, axes)
        else:
            transform = FeatureTransform.fit_blocks(pool.large.rows.blocks, axes)
        self._axes = transform.axes.shape[1]
        self.transform = (transform if start is None else WithStart(transform, start)).to(device)
        with torch.no_grad():
            self.inputs = self.transform(pool.features)
        seeds = [generator(seed, "init", side, member).initial_seed() for member in range(members)]
        heads: list[Encoder]
        if start is None:
            heads = [ProjectionHead(self._axes, dim, head=head, seed=each, nested=nested) for each in seeds]
        else:
            heads = [ResidualHead(self._axes, start.dim, hidden=dim, head=head, seed=each) for each in seeds]
        self.heads = nn.ModuleList(heads).to(device)
        self._starts = start is not None

    @property
    def features(self) -> Tensor:
        """(n, axes) the pool's features, transformed: what the terms and the graphs compare."""
        return self.compared(self.inputs)

    def compared(self, inputs: Tensor) -> Tensor:
        """The part of the heads' inputs that the terms and the graphs compare."""
        return inputs[:, : self._axes]

    @property
    def starts(self) -> bool:
        """Whether the inputs have embeddings beside them that the tower starts from."""
        return self._starts

    def started(self, inputs: Tensor) -> Tensor:
        """(n, d) the part of the heads' inputs that are embeddings before the first step."""
        return inputs[:, self._axes :]

    def row_numbers(self, places: Tensor) -> Tensor:
        """The numbers of the rows at these places of the pool's features."""
        if self.pool.large is None:
            return places
        numbers: Tensor = self.pool.large.landmarks[places.cpu()]
        return numbers

    def inputs_of(self, rows: Tensor) -> Tensor:
        """(k, q) what the heads read of these rows."""
        if self.pool.large is None:
            held: Tensor = self.inputs[rows.to(self.inputs.device)]
            return held
        with torch.no_grad():
            found: Tensor = self.transform(self.pool.large.rows.take(rows).to(self.inputs.device))
        return found

    def start_from(self, initial: InitialWeights) -> None:
        """Takes the transform and heads of another RUN, and the weights of the backbone that it tuned.

        Raises:
            SetClipError: the encoder of the other RUN has another kind or size, or it tuned other weights.
        """
        own, encoder = self.encoder(), without_extra_encoders(initial.encoder)
        if encoder.describe() != own.describe():
            raise UsageError(
                f"init_from: its {self.side} encoder is {encoder.describe()}, the recipe makes {own.describe()}",
                fix="give both runs the same [projection] and ensemble, and a trained method; or set joint = true for "
                "both towers, which starts from any RUN",
            )
        state = encoder.state_dict()
        self.transform.load_state_dict(under("transform.", state))
        heads = under("encoder.", state)
        single = len(self.heads) == 1
        self.heads.load_state_dict(
            {f"0.{name}": value for name, value in heads.items()} if single else under("encoders.", heads)
        )
        with torch.no_grad():
            self.inputs = self.transform(self.pool.features)
        self.take_tuned(initial.tuned)

    def take_tuned(self, tuned: dict[str, Tensor]) -> None:
        """Takes the weights of the backbone that another RUN tuned.

        Raises:
            SetClipError: it tuned other weights.
        """
        with torch.no_grad():
            trained = self.tuned_parameters()
            if self.pool.tuned is not None:
                tuned = with_present_names(self.pool.tuned.backbone.spec, tuned)
            if tuned and trained.keys() != tuned.keys():
                raise UsageError(
                    f"init_from: it tuned {len(tuned)} weights of the {self.side} backbone, the recipe {len(trained)}",
                    fix="give both recipes the same trainable and lora_rank",
                )
            for name, value in tuned.items():
                trained[name].copy_(value)
        if tuned:
            self._starts = False  # the pool's features are those of the backbone before it was tuned

    def prepare(self, rows: Tensor, part: slice, view_seed: int | None = None) -> Any:
        """What `embed` takes for a part of these rows, or for another view of them. It uses no weights.

        The view of a row depends on its place among all ``rows``, not on the part that it is prepared in.
        """
        draw = None if view_seed is None else torch.Generator().manual_seed(view_seed)
        if self.pool.tuned is not None:
            items = self.pool.tuned.raw_rows.take(rows[part].tolist())
            seeds = None if draw is None else torch.randint(2**31, (len(rows),), generator=draw)[part].tolist()
            return self.pool.tuned.backbone.prepare(items, views=seeds)
        own = rows[part].to(self.inputs.device)
        if draw is None:
            return self.inputs_of(own)
        if self._view_count:
            which = torch.randint(self._view_count, (len(rows),), generator=draw)[part].to(own.device)
            with torch.no_grad():
                return self.transform(self._views_of(which, own))
        noise = torch.randn(len(rows), self._axes, generator=draw)[part].to(own.device)
        noise = F.pad(noise, (0, self.inputs.shape[1] - self._axes))  # none on the start
        return self.inputs_of(own) + self.noise / self._axes**0.5 * noise

    @property
    def _view_count(self) -> int:
        if self.pool.large is not None:
            return len(self.pool.large.views)
        return 0 if self.pool.views is None else len(self.pool.views)

    def _views_of(self, which: Tensor, rows: Tensor) -> Tensor:
        """(k, p) features of a view of each row, of the view that ``which`` names."""
        if self.pool.views is not None:
            return self.pool.views[which, rows]
        assert self.pool.large is not None
        found = torch.empty(len(rows), self.pool.large.rows.dim, device=rows.device)
        for number, view in enumerate(self.pool.large.views):
            found[which == number] = view.take(rows[which == number]).to(rows.device)
        return found

    def by_length(self, rows: Tensor) -> Tensor:
        """The same rows, shortest first, so that a chunk needs little padding. For unpaired rows only."""
        tuned = self.pool.tuned
        if tuned is None or tuned.lengths is None:
            return rows
        return rows[tuned.lengths[rows].argsort(stable=True)]

    def embed(self, member: int, prepared: Any, *, dropout_seed: int | None = None) -> Tensor:
        """(n, d) embeddings of prepared rows, with gradient.

        Args:
            dropout_seed: The backbone runs with dropout from this seed: part of what makes another view of a text.
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
        """The context for forward and backward passes of the tower: with TensorFloat-32, or without it."""
        return tf32(self.features.device, self._tf32)

    def _head(self, member: int, transformed: Tensor) -> Tensor:
        embeddings: Tensor = self.heads[member](transformed)
        return embeddings

    def encoder(self, averages: dict[str, Tensor] | None = None) -> Composed:
        """A copy of the transform and heads as they are now, or with averaged weights in place of theirs."""
        modules = copy.deepcopy(self.heads)
        if averages:
            modules.load_state_dict({**modules.state_dict(), **averages})
        heads = [head for head in modules if isinstance(head, Encoder)]
        joined = heads[0] if len(heads) == 1 else Concatenated(heads)
        return Composed(copy.deepcopy(self.transform), joined).cpu().eval()

    def tuned_parameters(self) -> dict[str, Tensor]:
        """The weights of the backbone that training changes, by name; none for a frozen one."""
        if self.pool.tuned is None:
            return {}
        return {
            name: value for name, value in self.pool.tuned.backbone.module.named_parameters() if value.requires_grad
        }

    def weights(self, member: int | None = None) -> dict[str, Tensor]:
        """All that training changes, by name: the heads (of one member, or of all), then the backbone's weights."""
        heads = self.heads if member is None else self.heads[member]
        place = "heads" if member is None else f"heads.{member}"
        return {
            **{f"{self.side}.{place}.{name}": value for name, value in heads.named_parameters()},
            **{f"{self.side}.backbone.{name}": value for name, value in self.tuned_parameters().items()},
        }


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The entries whose names start with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
