"""Claims about exported encoders: each kind gives the same rows in our module file, or in the library's own modules."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from export_world import encoder, pool

from setclip_cli.encoders import base
from setclip_cli.export import modules
from setclip_cli.export.modules.setclip_encoder import KINDS, network
from setclip_cli.export.native import native_modules, plain_parts

NATIVE = [
    "projection",
    "projection-linear",
    "projection-half-as-wide-as-the-features",
    "bare",
    "residual",
    "residual-linear",
    "unit",
    "linear",
]
OTHERS = ["kernel", "relative", "pool", "graph", "ensemble", "all"]
WIDTH = 20


def test_the_file_has_every_kind_of_encoder() -> None:
    assert set(KINDS) == set(base._KINDS)


@pytest.mark.parametrize("kind", NATIVE + OTHERS)
def test_our_file_gives_the_same_rows(kind: str) -> None:
    own = encoder(kind, WIDTH)
    theirs = network(own.describe())
    theirs.load_state_dict(own.state_dict())
    rows = pool(WIDTH, 50, seed=9)
    with torch.inference_mode():
        torch.testing.assert_close(theirs(rows), own(rows), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", NATIVE)
def test_the_librarys_own_modules_give_the_same_rows(kind: str) -> None:
    own = encoder(kind, WIDTH)
    made = native_modules(own)
    assert made is not None
    rows = pool(WIDTH, 50, seed=9)
    with torch.inference_mode():
        features = {"sentence_embedding": rows}
        for module in made:
            features = module(features)
        torch.testing.assert_close(features["sentence_embedding"], own(rows), atol=2e-6, rtol=0)


@pytest.mark.parametrize("kind", OTHERS)
def test_what_the_library_lacks_is_not_claimed(kind: str) -> None:
    assert native_modules(encoder(kind, WIDTH)) is None


def test_the_plain_part_is_the_trained_head_in_its_place_on_both_sides() -> None:
    sides = [encoder("all", WIDTH, seed=seed) for seed in (0, 1)]
    found = plain_parts(sides)
    assert found is not None
    for side, part in zip(sides, found, strict=True):
        assert part is side.encoder.encoders[0]  # type: ignore[union-attr, index]
    ensemble = plain_parts([encoder("ensemble", WIDTH)] * 2)
    assert ensemble is not None
    assert ensemble[0].describe()["encoder"]["kind"] == "projection"
    assert plain_parts([encoder("relative", WIDTH), encoder("linear", WIDTH)]) is None


def test_module_files_import_nothing_of_ours() -> None:
    files = list(Path(modules.__file__).parent.glob("setclip_*.py"))
    assert files
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or "."] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.startswith(("setclip", "."))], path
