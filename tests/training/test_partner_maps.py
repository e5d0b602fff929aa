"""Claims about `extra_encoders.partner`: the maps of method transport beside trained heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_world import TUNED, align, make_world
from torch import Tensor

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.features.frozen import frozen_features
from setclip_cli.features.layer_choice import load_tower_backbone
from setclip_cli.methods.extra_encoders import without_extra_encoders
from setclip_cli.recipe.recipe import Recipe, load_recipe
from setclip_cli.run.model import load_model
from setclip_cli.training import fit as fitting
from setclip_cli.training.fit import Fitted, fit

TOWERS = {"image": {"backbone": "timm:a"}, "caption": {"backbone": "sentence-transformers:b"}}


def world() -> tuple[Tensor, Tensor]:
    """Row i of both sides is one item: two linear views of 8 factors."""
    draw = torch.Generator().manual_seed(0)
    factors = torch.randn(150, 8, generator=draw)
    left, right = (factors @ torch.randn(8, width, generator=draw) for width in (20, 16))
    return left + 0.1 * torch.randn(left.shape, generator=draw), right + 0.1 * torch.randn(right.shape, generator=draw)


def fitted(pairs: int, **settings: Any) -> Fitted:
    recipe = Recipe.model_validate({"towers": TOWERS, "train": {"steps": 3}} | settings)
    return fit(recipe, *world(), torch.arange(pairs).repeat(2, 1).T.contiguous())


@pytest.mark.parametrize("method", ["set-clip-plus", "clip"])
def test_the_cosine_is_the_mean_of_both_and_transport_has_the_weight(method: str) -> None:
    together = fitted(40, method=method, extra_encoders={"partner": 2.0})
    without, transport = fitted(40, method=method), fitted(40, method="transport")
    left, right = world()
    with torch.no_grad():
        cosines = [found.encoders[0](left) @ found.encoders[1](right).T for found in (together, without, transport)]
    torch.testing.assert_close(cosines[0], (cosines[1] + 2 * cosines[2]) / 3, atol=1e-5, rtol=0)
    assert transport.findings.items() <= together.findings.items()
    for found, plain in zip(together.encoders, without.encoders, strict=True):
        trained, alone = (without_extra_encoders(encoder).state_dict() for encoder in (found, plain))
        assert trained.keys() == alone.keys()
        assert all(torch.equal(trained[name], alone[name]) for name in alone)


@pytest.mark.parametrize("pairs", [0, 1])
def test_maps_that_are_asked_for_without_two_pairs_are_left_out_and_it_is_said(pairs: int) -> None:
    steps = {"objective": {"sdd": {"weight": 1.0}, "clip": {"weight": 1.0}}, "method": "set-clip"}
    found = fitted(pairs, **steps, extra_encoders={"partner": 2.0})
    assert ["extra_encoders.partner = 2.0: left out" in warning for warning in found.warnings] == [True]
    assert found.encoders[0].describe() == fitted(pairs, **steps).encoders[0].describe()


def test_tuned_towers_choose_the_shares_on_the_features_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After training on all pairs, a pair that is held out for the choice is found in any case."""
    asked: list[dict[str, Any]] = []
    own = fitting.fit_partner_maps

    def recorded(*given: Any, **named: Any) -> Any:
        asked.append(named | {"given": given})
        return own(*given, **named)

    monkeypatch.setattr(fitting, "fit_partner_maps", recorded)
    made = make_world(tmp_path)
    code, _, stderr = align(made, tmp_path / "run", *TUNED, "--set", "extra_encoders.partner=1")
    assert code == 0, stderr
    recipe, dataset = load_recipe(tmp_path / "run" / "recipe.toml"), open_dataset(made / "data")
    assert len(asked[0]["items"]) == len(asked[0]["given"][2])
    for side, modality in enumerate(recipe.modalities()):
        before = frozen_features(
            load_tower_backbone(recipe, modality, dataset.about(modality), torch.device("cpu")),
            dataset,
            modality,
            "train",
        )
        torch.testing.assert_close(asked[0]["chosen_on"][side], before.features, atol=1e-6, rtol=0)
        assert not torch.allclose(asked[0]["given"][side], before.features, atol=1e-6)
    assert "transport/kernel_weight" in (tmp_path / "run" / "README.md").read_text()
    assert load_model(tmp_path / "run").encoders
