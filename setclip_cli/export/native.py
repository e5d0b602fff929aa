"""Encoders as modules that sentence-transformers has itself, so that loading them runs no code of the model.

A module there reads one vector and writes one, and none adds two vectors. So the head unit(LayerNorm(W2 gelu(p) + p))
is written as two dense layers of twice the width: the first gives [gelu(p) | p], the second adds its halves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from setclip_cli.encoders import (
    Composed,
    Concatenated,
    Encoder,
    FeatureTransform,
    LinearMap,
    MeanShift,
    ProjectionHead,
    ResidualHead,
    UnitRows,
    WithStart,
)
from setclip_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


FULL_FORM = "leave --form plain out; loading the model then needs trust_remote_code=True"


def native_modules(encoder: Encoder) -> list[Any] | None:
    """Modules of sentence-transformers that compute what the encoder does; None if the library lacks some."""
    from sentence_transformers.base.modules import Normalize

    if isinstance(encoder, UnitRows):
        return [Normalize()]
    if isinstance(encoder, Composed):
        transform = encoder.transform.transform if isinstance(encoder.transform, WithStart) else encoder.transform
        affine = _affine_of(transform)
        if isinstance(encoder.transform, WithStart):
            if not isinstance(encoder.transform.start, UnitRows) or not isinstance(encoder.encoder, ResidualHead):
                return None
            return [Normalize(), *_residual(encoder.encoder, *affine), Normalize()]
        rest = _behind(encoder.encoder, *affine)
        return None if rest is None else [Normalize(), *rest, Normalize()]
    features = encoder.describe().get("features")
    rest = _behind(encoder, torch.eye(features), torch.zeros(features)) if isinstance(features, int) else None
    return None if rest is None else [*rest, Normalize()]


def plain_parts(encoders: Sequence[Encoder]) -> list[Encoder] | None:
    """The first part of both encoders of a RUN that the library has modules for; None if no part has them.

    Trained heads come first in what they are combined with, and CCA comes first in the maps of method transport. A part
    has its place in both encoders: only there its two halves belong together.
    """
    sides = [dict(_parts(encoder)) for encoder in encoders]
    return next(([side[place] for side in sides] for place in sides[0] if all(place in side for side in sides)), None)


def require_plain_parts(encoders: Iterable[Encoder]) -> list[Encoder]:
    """`plain_parts` of the encoders of a RUN.

    Raises:
        UsageError: there are none.
    """
    whole = list(encoders)
    parts = plain_parts(whole)
    if parts is None:
        kinds = " and ".join(sorted({encoder.kind for encoder in whole}))
        raise UsageError(
            f"--form plain: sentence-transformers has no modules for any part of these encoders ({kinds})",
            fix=f'{FULL_FORM}; of a RUN of method "set-clip-plus" or "set-clip" there is a plain form',
        )
    return parts


def _parts(encoder: Encoder, place: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], Encoder]]:
    """Every part of an encoder that the library has modules for, with its place."""
    if native_modules(encoder) is not None:
        yield place, encoder
    elif isinstance(encoder, MeanShift):
        yield from _parts(encoder.encoder, place)
    elif isinstance(encoder, Concatenated):
        for number, part in enumerate(encoder.encoders):
            assert isinstance(part, Encoder)
            yield from _parts(part, (*place, number))
    elif isinstance(encoder, Composed) and isinstance(encoder.encoder, Concatenated | MeanShift):
        inner = encoder.encoder
        parts = [inner.encoder] if isinstance(inner, MeanShift) else inner.encoders
        for number, part in enumerate(parts):
            assert isinstance(part, Encoder)
            yield from _parts(Composed(encoder.transform, part), (*place, number))


def _affine_of(transform: FeatureTransform) -> tuple[Tensor, Tensor]:
    """A and b of the transform A u + b of unit rows u, in double precision."""
    matrix = transform.axes.double().T * transform.scale.double()
    return matrix, -(matrix @ transform.mean.double())


def _behind(encoder: Encoder, matrix: Tensor, offset: Tensor) -> Sequence[Any] | None:
    """The encoder of rows A u + b, without its last scaling to length 1."""
    if isinstance(encoder, LinearMap):
        weight = encoder.weight.double().T
        return [_dense(weight @ matrix.double(), weight @ (offset.double() - encoder.offset.double()))]
    if not isinstance(encoder, ProjectionHead):
        return None
    first = encoder.input.weight.double()
    inner, bias = first @ matrix.double(), first @ offset.double() + encoder.input.bias.double()
    if encoder.hidden is None or encoder.norm is None:
        return [_dense(inner, bias)]
    from sentence_transformers.sentence_transformer.modules import LayerNorm

    norm = LayerNorm(encoder.dim)
    norm.norm.load_state_dict(encoder.norm.state_dict())
    norm.norm.eps = encoder.norm.eps
    last = encoder.hidden.weight.double()
    # The residual way of a dense layer has no bias of its own: b1 is added at the end.
    joined = _gelu_beside(inner, bias, beside=inner)
    added = torch.cat([last, torch.eye(encoder.dim, dtype=torch.float64)], dim=1)
    return [joined, _dense(_padded(added, joined), encoder.hidden.bias.double() + bias), norm]


def _residual(head: ResidualHead, matrix: Tensor, offset: Tensor) -> Sequence[Any]:
    """s + W2 gelu(W1 x + b1) + b2 with x = A u + b and s = u."""
    same = torch.eye(head.dim, dtype=torch.float64)
    last, bias = head.output.weight.double(), head.output.bias.double()
    if head.input is None:
        return [_dense(last @ matrix + same, last @ offset + bias)]
    first = head.input.weight.double()
    joined = _gelu_beside(first @ matrix, first @ offset + head.input.bias.double(), beside=same)
    return [joined, _dense(_padded(torch.cat([last, same], dim=1), joined), bias)]


def _gelu_beside(weight: Tensor, bias: Tensor, *, beside: Tensor) -> Any:
    """A dense layer that gives [gelu(W u + b) | R u]."""
    from sentence_transformers.base.modules import Dense

    features = weight.shape[1]
    width = len(weight) + len(beside)
    width += width == features  # else the layer would have no matrix R of its own
    layer = Dense(features, width, activation_function=nn.GELU(), use_residual=True)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.linear.weight[: len(weight)] = weight.float()
        layer.linear.bias[: len(weight)] = bias.float()
        layer.residual.weight[len(weight) : len(weight) + len(beside)] = beside.float()
    return layer


def _padded(weight: Tensor, before: Any) -> Tensor:
    """The weight with columns of zeros for outputs of the layer before that nothing reads."""
    return nn.functional.pad(weight, (0, before.out_features - weight.shape[1]))


def _dense(weight: Tensor, bias: Tensor) -> Any:
    from sentence_transformers.base.modules import Dense

    layer = Dense(weight.shape[1], weight.shape[0], activation_function=None)
    with torch.no_grad():
        layer.linear.weight.copy_(weight)
        layer.linear.bias.copy_(bias)
    return layer
