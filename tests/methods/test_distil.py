"""One head that stands for an ensemble."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from setclip_cli.encoders import Composed, Concatenated, FeatureTransform, ProjectionHead
from setclip_cli.methods import distil
from setclip_cli.methods.extra_encoders import without_extra_encoders
from setclip_cli.recipe.recipe import Recipe, load_recipe
from setclip_cli.training.fit import fit


def pool(n: int, width: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(4, width, generator=draw)
    return centres[torch.randint(4, (n,), generator=draw)] + torch.randn(n, width, generator=draw)


def ensemble(rows: Tensor, seed: int) -> Composed:
    transform = FeatureTransform.fit(rows, 8)
    return Composed(transform, Concatenated([ProjectionHead(8, 24, seed=seed + member) for member in range(3)]))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distil, "STEPS", 150)
    monkeypatch.setattr(distil, "BATCH", 64)


def cosines(encoders: tuple[Composed, Composed], left: Tensor, right: Tensor) -> Tensor:
    with torch.no_grad():
        return encoders[0](left) @ encoders[1](right).T


def test_one_head_has_the_cosines_of_the_ensemble_also_on_rows_it_never_saw() -> None:
    left, right = pool(300, 12, 0), pool(260, 16, 1)
    ensembles = ensemble(left[:200], 0), ensemble(right[:200], 10)
    students, correlation = distil.distil(ensembles, left[:200], right[:200], seed=0)
    assert students[0].dim == students[1].dim == 24
    for rows in ((left[:200], right[:200]), (left[200:], right[200:])):
        found, expected = cosines(students, *rows), cosines(ensembles, *rows)
        member = cosines(tuple(Composed(e.transform, e.encoder.encoders[0]) for e in ensembles), *rows)  # type: ignore[arg-type, union-attr, index]
        error, of_member = ((other - expected).square().mean().sqrt() for other in (found, member))
        assert error < 0.5 * of_member, "no nearer to the ensemble than its first member"
        assert float(torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1]) > 0.9
    assert 0.95 < correlation <= 1


def test_the_same_seed_gives_the_same_head_and_leaves_the_members_as_they_were() -> None:
    left, right = pool(80, 12, 0), pool(70, 16, 1)
    ensembles = ensemble(left, 0), ensemble(right, 5)
    before = {name: value.clone() for name, value in ensembles[0].state_dict().items()}
    heads = [distil.distil(ensembles, left, right, seed=3)[0] for _ in range(2)]
    assert torch.equal(heads[0][0](left), heads[1][0](left))
    assert all(torch.equal(value, before[name]) for name, value in ensembles[0].state_dict().items())


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    path = tmp_path / "recipe.toml"
    path.write_text(
        """
        schema_version = 2
        ensemble = 3
        towers.image.backbone = "timm:tf_efficientnet_lite0"
        towers.caption.backbone = "sentence-transformers:all-MiniLM-L6-v2"
        projection = { dim = 24, pca = 8 }
        train = { steps = 20, batch = 64 }
        """
    )
    return load_recipe(path)


@pytest.mark.parametrize("method", ["clip", "set-clip-plus"])
def test_a_recipe_that_distils_gives_an_encoder_of_one_width(recipe: Recipe, method: str) -> None:
    left, right = pool(200, 12, 0), pool(180, 16, 1)
    pairs = torch.arange(8).repeat(2, 1).T.contiguous()
    recipe = recipe.with_settings(method=method)
    whole = fit(recipe, left, right, pairs)
    one = fit(recipe.with_settings(ensemble_distil=True), left, right, pairs)
    assert [without_extra_encoders(fitted.encoders[0]).dim for fitted in (one, whole)] == [24, 3 * 24]
    assert one.encoders[0].dim < whole.encoders[0].dim
    assert one.findings["distil/correlation"] > 0.95
    assert one.warnings == []
    expected = whole.encoders[0](left) @ whole.encoders[1](right).T
    found = one.encoders[0](left) @ one.encoders[1](right).T
    assert float((found - expected).detach().square().mean().sqrt()) < 0.1


def test_a_head_that_does_not_follow_its_ensemble_is_told(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("setclip_cli.training.fit.DISTIL_WARNING", 1.1)
    left, right = pool(60, 12, 0), pool(50, 16, 1)
    pairs = torch.arange(8).repeat(2, 1).T.contiguous()
    fitted = fit(recipe.with_settings(method="clip", ensemble_distil=True), left, right, pairs)
    assert "ensemble_distil = false" in fitted.warnings[0]
