"""Encoders: unit rows, and the same after saving and loading."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from setclip_cli.encoders import (
    Composed,
    Concatenated,
    Encoder,
    FeatureTransform,
    GraphMap,
    LinearMap,
    MeanShift,
    PoolMap,
    ProjectionHead,
    RelativeMap,
    encoder_from_description,
)
from setclip_cli.errors import SetClipError
from setclip_cli.losses.kernels import log_kernel_sum


def rows(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def unit_rows(n: int, d: int, seed: int = 0) -> Tensor:
    return F.normalize(rows(n, d, seed), dim=1)


ENCODERS: dict[str, Callable[[], Encoder]] = {
    "mlp": lambda: ProjectionHead(6, 5, seed=1),
    "linear head": lambda: ProjectionHead(6, 5, head="linear", seed=1),
    "linear map": lambda: LinearMap(rows(6, 5), rows(1, 6)[0]),
    "relative": lambda: RelativeMap(rows(4, 6), power=3.0).centre(rows(30, 6)),
    "graph": lambda: GraphMap(rows(30, 6), rows(30, 3).abs(), neighbours=5),
    "pool": lambda: PoolMap(rows(30, 6), rows(30, 3), neighbours=5),
    "composed": lambda: Composed(FeatureTransform.fit(rows(30, 6), 4), ProjectionHead(4, 5)),
    "mean shift": lambda: MeanShift(LinearMap(rows(6, 5)), unit_rows(8, 5), unit_rows(7, 5, seed=1), share=0.5),
    "concatenated": lambda: Concatenated([LinearMap(rows(6, 2)), ProjectionHead(6, 3)], [1.0, 0.25]),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_gives_unit_rows_and_the_same_ones_after_saving_and_loading(name: str, tmp_path: Path) -> None:
    encoder = ENCODERS[name]().eval()
    features = rows(9, 6, seed=5)
    embeddings = encoder(features)
    assert embeddings.shape == (9, encoder.dim)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(9))

    save_file(encoder.state_dict(), tmp_path / "encoder.safetensors")
    loaded = encoder_from_description(json.loads(json.dumps(encoder.describe())))
    loaded.load_state_dict(load_file(tmp_path / "encoder.safetensors"))
    assert loaded.describe() == encoder.describe()
    assert torch.equal(loaded(features), embeddings)


@pytest.mark.parametrize("name", ENCODERS)
def test_an_empty_batch_gives_an_empty_table(name: str) -> None:
    encoder = ENCODERS[name]()
    assert encoder(torch.empty(0, 6)).shape == (0, encoder.dim)


@pytest.mark.parametrize(
    ("description", "words"),
    [
        ({"kind": "pickle"}, "unknown kind 'pickle'"),
        ({}, "unknown kind None"),
        ({"kind": "linear", "features": 3}, "cannot be used"),
        ({"kind": "projection", "features": 3, "dim": 2, "head": "exec"}, "cannot be used"),
    ],
)
def test_a_description_that_is_none_of_ours_is_refused(description: dict[str, object], words: str) -> None:
    with pytest.raises(SetClipError, match=words):
        encoder_from_description(description)


def test_the_transform_centres_and_scales_its_pool_and_keeps_the_main_axes() -> None:
    pool = rows(50, 3) @ torch.diag(torch.tensor([5.0, 2.0, 0.1])) + 4
    out = FeatureTransform.fit(pool, 2)(pool)
    assert out.shape == (50, 2)
    torch.testing.assert_close(out.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    assert float(out.norm(dim=1).mean()) == pytest.approx(1, rel=1e-5)
    assert out[:, 0].var() > out[:, 1].var()


def test_the_transform_without_a_cut_keeps_all_distances_but_for_scale() -> None:
    pool = rows(20, 4)
    out = FeatureTransform.fit(pool, 0)(pool)
    ratio = torch.pdist(out) / torch.pdist(F.normalize(pool, dim=1))
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio))


def test_the_transform_does_not_depend_on_row_order() -> None:
    pool = rows(40, 5)
    ours, shuffled = FeatureTransform.fit(pool, 3), FeatureTransform.fit(pool[torch.randperm(40)], 3)
    torch.testing.assert_close(ours(pool), shuffled(pool), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pool", [torch.empty(0, 3), torch.full((2, 3), torch.nan)])
def test_a_pool_that_is_empty_or_not_finite_is_refused(pool: Tensor) -> None:
    with pytest.raises(ValueError, match="finite"):
        FeatureTransform.fit(pool)


def test_the_largest_entry_of_every_axis_is_positive() -> None:
    axes = FeatureTransform.fit(rows(50, 12), 0).axes
    assert bool((axes.gather(0, axes.abs().argmax(0, keepdim=True)) > 0).all())


def test_a_head_depends_on_its_seed_alone() -> None:
    torch.manual_seed(1)
    first = ProjectionHead(4, 3, seed=7)
    torch.rand(5)
    assert torch.equal(ProjectionHead(4, 3, seed=7)(rows(2, 4)), first(rows(2, 4)))
    assert not torch.equal(ProjectionHead(4, 3, seed=8)(rows(2, 4)), first(rows(2, 4)))


def test_heads_and_linear_maps_are_their_formulas() -> None:
    features = rows(5, 4, 3)
    head = ProjectionHead(4, 3, seed=7)
    assert head.hidden is not None
    assert head.norm is not None
    projected = features @ head.input.weight.T + head.input.bias
    hidden = F.gelu(projected) @ head.hidden.weight.T + head.hidden.bias
    torch.testing.assert_close(head(features), F.normalize(head.norm(hidden + projected), dim=1))
    weight, offset = rows(4, 2, 5), rows(1, 4, 6)[0]
    torch.testing.assert_close(
        LinearMap(weight, offset)(features), F.normalize(features @ weight - offset @ weight, dim=1)
    )


def test_the_cosine_of_concatenated_encoders_is_the_weighted_mean_of_theirs() -> None:
    parts = [LinearMap(rows(6, 3, 1)), LinearMap(rows(6, 4, 2))]
    joined = Concatenated(parts, [3.0, 1.0])
    features = rows(5, 6, 3)
    expected = sum(share * part(features) @ part(features).T for share, part in zip((0.75, 0.25), parts, strict=True))
    torch.testing.assert_close(joined(features) @ joined(features).T, expected)
    with pytest.raises(ValueError, match="positive weight"):
        Concatenated(parts, [1.0, 0.0])


def test_relative_coordinates_are_powers_of_cosines() -> None:
    anchors = torch.eye(3)
    features = torch.tensor([[3.0, 4.0, -1.0]])
    encoder = RelativeMap(anchors, power=2.0)
    expected = F.normalize(torch.tensor([[9.0, 16.0, 0.0]]), dim=1)
    torch.testing.assert_close(encoder(features), expected, atol=1e-4, rtol=0)
    centred = encoder.centre(anchors)(features)  # the mean coordinate of the anchors themselves is 1/3
    torch.testing.assert_close(centred, F.normalize(expected - 1 / 3, dim=1), atol=1e-4, rtol=0)


def test_the_mean_shift_is_that_of_two_kernel_densities_step_by_step() -> None:
    encoder, left, right = LinearMap(rows(6, 5)), unit_rows(8, 5), unit_rows(7, 5, seed=1)
    found = MeanShift(encoder, left, right, share=0.7, bandwidth=0.4, steps=2)(rows(3, 6, seed=5))
    for row, own in zip(found, encoder(rows(3, 6, seed=5)), strict=True):
        at = own
        for _ in range(2):
            total = torch.zeros(5)
            for known in (left, right):
                kernel = torch.tensor([math.exp(-float((at - point).square().sum()) / 0.4) for point in known])
                for weight, point in zip(kernel / kernel.sum(), known, strict=True):
                    total += weight * point / 2
            at = total / total.norm()
        wanted = own + 0.7 * at
        torch.testing.assert_close(row, wanted / wanted.norm(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bandwidth", [0.02, 0.1, 1.0, 10.0])
def test_every_step_of_the_mean_shift_raises_the_product_of_the_densities(bandwidth: float) -> None:
    """It is the gradient, scaled to unit length, of a convex function: it cannot fall (Journée et al. 2010)."""
    left, right = unit_rows(40, 5), unit_rows(25, 5, seed=1)
    identity = LinearMap(torch.eye(5))
    earlier = torch.full((60,), -torch.inf)
    for steps in range(1, 12):
        shifted = MeanShift(identity, left, right, share=1e6, bandwidth=bandwidth, steps=steps)(rows(60, 5, seed=3))
        density = sum(log_kernel_sum(shifted, known, [bandwidth])[:, 0] for known in (left, right))
        assert isinstance(density, Tensor)
        assert bool((density >= earlier - 1e-4).all())
        earlier = density


def test_the_mean_shift_of_a_row_that_all_others_equal_is_that_row() -> None:
    point = unit_rows(1, 5)
    shifted = MeanShift(LinearMap(torch.eye(5)), point.repeat(6, 1), point.repeat(3, 1), share=0.5)
    torch.testing.assert_close(shifted(point), point)


@pytest.mark.parametrize("setting", [{"share": 0}, {"bandwidth": -0.1}, {"steps": 0}, {"steps": 10**9}, {"share": "1"}])
def test_a_mean_shift_that_makes_no_sense_is_refused_when_read(setting: dict[str, object]) -> None:
    description = ENCODERS["mean shift"]().describe() | setting
    with pytest.raises(SetClipError, match="kind 'mean-shift': cannot be used"):
        encoder_from_description(description)
