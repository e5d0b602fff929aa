"""Every method on few pairs, few rows, narrow or equal features: a usable result or a message, no other error."""

from __future__ import annotations

import itertools
import warnings
from typing import get_args

import pytest
import torch
from torch import Tensor

from setclip_cli.errors import SetClipError
from setclip_cli.recipe.presets import PAIRS_NEEDED, Method
from setclip_cli.recipe.recipe import Recipe
from setclip_cli.recipe.sections import Tower
from setclip_cli.training.fit import fit
from setclip_cli.vectors import unusable_rows

TOWERS = {"image": Tower(backbone="timm:array"), "caption": Tower(backbone="sentence-transformers:array")}
METHODS: tuple[Method, ...] = get_args(Method)
KINDS = ("random", "equal", "one-zero", "two-kinds", "one-constant-side")


def pool(kind: str, rows: int, width: int, seed: int) -> Tensor:
    drawn = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    if kind == "equal" or (kind == "one-constant-side" and seed == 2):
        drawn[:] = drawn[0].clone()
    if kind == "one-zero":
        drawn[0] = 0
    if kind == "two-kinds":
        drawn[::2], drawn[1::2] = drawn[0].clone(), -drawn[0].clone()
    return drawn


def outcome(method: Method, left: Tensor, right: Tensor, pairs: int) -> SetClipError | None:
    """None for a fit whose embeddings are usable, else the message; anything else fails the test."""
    try:
        recipe = Recipe(
            towers=TOWERS, method=method, pairs=pairs, train={"steps": 2, "batch": 4}, projection={"dim": 4}
        )
        fitted = fit(recipe, left, right, torch.arange(pairs).repeat(2, 1).T.contiguous())
    except SetClipError as error:
        return error
    for encoder, features in zip(fitted.encoders, (left, right), strict=True):
        with torch.no_grad():
            assert not unusable_rows(encoder(features).numpy())
    return None


def quick(kind: str, method: Method) -> bool:
    return kind == "random" and not method.startswith(("auto", "set-clip"))


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        pytest.param(kind, method, marks=() if quick(kind, method) else pytest.mark.slow)
        for kind, method in itertools.product(KINDS, METHODS)
    ],
)
def test_a_method_gives_usable_embeddings_or_says_why_not(kind: str, method: Method) -> None:
    sizes = [(0, 20), *itertools.product((0, 1, 2, 3), (1, 2, 3, 5))]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # a division by zero that is hidden by a later step
        for (pairs, rows), width in itertools.product(sizes, (1, 2, 8)):
            if pairs <= rows:
                found = outcome(method, pool(kind, rows, width, 1), pool(kind, rows + (rows > 1), width, 2), pairs)
                if pairs < PAIRS_NEEDED.get(method, 0):
                    assert found is not None
                    assert "2 or more" in str(found)
                    assert found.exit_code == 2


@pytest.mark.parametrize("method", METHODS)
def test_two_pairs_among_a_few_rows_are_enough_for_every_method(method: Method) -> None:
    assert outcome(method, pool("random", 5, 8, 1), pool("random", 6, 8, 2), 2) is None


@pytest.mark.parametrize("method", ["set-clip-plus", "set-clip", "auto"])
def test_one_pair_is_enough_for_methods_that_also_learn_from_rows_alone(method: Method) -> None:
    assert outcome(method, pool("random", 5, 8, 1), pool("random", 6, 8, 2), 1) is None


def test_rows_that_are_all_equal_are_refused_before_anything_is_fitted() -> None:
    error = outcome("set-clip", pool("equal", 5, 8, 1), pool("random", 5, 8, 2), 2)
    assert error is not None
    assert error.problem.startswith("left features: all 5 rows have the same features")
