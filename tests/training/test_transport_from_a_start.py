"""Method transport with towers that are aligned already: the start begins the matching, and no pair is needed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_world import TUNED, invoke, make_world
from test_joint_start import NO_PAIRS, TOWERS, recall_at_5, shifted
from torch import Tensor

from setclip_cli.methods.auto import choose
from setclip_cli.methods.partners import fit_partner_maps
from setclip_cli.methods.transport import START_WEIGHT
from setclip_cli.recipe.recipe import Recipe, load_recipe
from setclip_cli.run.model import load_model
from setclip_cli.training.fit import Fitted, fit
from tests import tiny


def transported(left: Tensor, right: Tensor, pairs: Tensor = NO_PAIRS) -> Fitted:
    recipe = Recipe.model_validate({"towers": TOWERS, "pairs": len(pairs), "method": "transport"})
    return fit(recipe, left, right, pairs)


@pytest.mark.parametrize("seed", [0, 1])
def test_without_pairs_a_shifted_start_is_adapted_to_rows_that_were_not_seen(seed: int) -> None:
    left, right = shifted(seed)
    found = transported(left[:300], right[300:600])  # no item is on both sides
    before, after = (recall_at_5(encoders, left[600:], right[600:]) for encoders in (found.initial, found.encoders))
    assert after > before + 0.1, (before, after)


def test_a_start_that_is_right_stays_right() -> None:
    left, _ = shifted(0)
    right = left + 0.1 * torch.randn(left.shape, generator=torch.Generator().manual_seed(5))
    found = transported(left[:300], right[300:600])
    before, after = (recall_at_5(encoders, left[600:], right[600:]) for encoders in (found.initial, found.encoders))
    assert before > 0.9
    assert after > before - 0.05, (before, after)


def test_few_pairs_and_a_start_know_more_than_the_pairs() -> None:
    left, right = shifted(0)
    pairs = torch.arange(3).repeat(2, 1).T.contiguous()
    found = transported(left[:300], right[:300], pairs)
    strangers = {modality: {"backbone": tower["backbone"]} for modality, tower in TOWERS.items()}
    alone = fit(Recipe.model_validate({"towers": strangers, "method": "transport"}), left[:300], right[:300], pairs)
    scores = [recall_at_5(one.encoders, left[600:], right[600:]) for one in (found, alone)]
    assert scores[0] > scores[1] + 0.1, scores
    assert found.findings.keys() == {
        f"transport/{name}" for name in ("unpaired_share", "linear_weight", "kernel_weight", "likeness_weight")
    }


@pytest.mark.parametrize("pairs", [NO_PAIRS, torch.tensor([[0, 0]])])
def test_one_pair_adds_nothing_to_a_start(pairs: Tensor) -> None:
    left, right = shifted(0, 200)
    found, without = transported(left, right, pairs), transported(left, right)
    assert torch.equal(found.encoders[0](left), without.encoders[0](left))
    weights = {"unpaired_share": 1.0, "linear_weight": 1.0, "kernel_weight": 0.0, "likeness_weight": 0.0}
    assert found.findings == {f"transport/{name}": value for name, value in weights.items()}


@pytest.mark.parametrize("method", ["transport", "auto"])
def test_a_run_is_adapted_to_other_data_and_stays_beside_the_maps(tmp_path: Path, method: str) -> None:
    world = make_world(tmp_path)
    assert invoke("align", world / "recipe.toml", "--data", world / "data", "--out", world / "first")[0] == 0
    proteins, captions = tiny.proteins(20, seed=3), [f"entry {number} of another set" for number in range(20)]
    tiny.write_dataset(world / "other", {"protein": proteins, "caption": captions})
    settings = ["pairs=0", f"method={method}", f"init_from={world / 'first'}"]
    settings += ["towers.protein.joint=true", "towers.caption.joint=true"]
    words = [word for setting in settings for word in ("--set", setting)]
    code, _, stderr = invoke("align", world / "recipe.toml", "--data", world / "other", "--out", world / "next", *words)
    assert code == 0, stderr
    first, following = load_model(world / "first"), load_model(world / "next")
    features = {
        modality: first.load_backbone(modality).encode(items).features  # type: ignore[arg-type]
        for modality, items in (("protein", proteins), ("caption", captions))
    }
    start = first.encoders["protein"], first.encoders["caption"]
    recipe = load_recipe(world / "next" / "recipe.toml")
    maps = fit_partner_maps(*features.values(), NO_PAIRS, axes=recipe.projection.pca, seed=recipe.seed, start=start)
    for (modality, rows), encoder, begun in zip(features.items(), maps.encoders, start, strict=True):
        embedded = following.encoders[modality](rows)  # type: ignore[index]
        torch.testing.assert_close(embedded @ embedded.T, encoder(rows) @ encoder(rows).T, atol=1e-4, rtol=0)
        torch.testing.assert_close(following.initial[modality](rows), begun(rows))  # type: ignore[index]
        part = embedded[:, -begun.dim :].detach()
        assert part.square().sum(1).mean() == pytest.approx(START_WEIGHT / (1 + START_WEIGHT), abs=1e-3)


def test_a_start_that_tuned_a_backbone_is_refused_for_transport(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    assert invoke("align", world / "recipe.toml", "--data", world / "data", "--out", world / "first", *TUNED)[0] == 0
    settings = ["pairs=0", "method=transport", f"init_from={world / 'first'}"]
    settings += ["towers.protein.joint=true", "towers.caption.joint=true"]
    words = [word for setting in settings for word in ("--set", setting)]
    code, _, stderr = invoke("align", world / "recipe.toml", "--data", world / "data", "--out", world / "next", *words)
    assert code == 2
    assert "init_from: that RUN tuned a backbone" in stderr


def test_strangers_still_need_pairs_and_pools_enough_rows(tmp_path: Path) -> None:
    strangers = {modality: {"backbone": tower["backbone"]} for modality, tower in TOWERS.items()}
    with pytest.raises(Exception, match="learns from pairs alone and needs 2"):
        Recipe.model_validate({"towers": strangers, "pairs": 0, "method": "transport"})
    left, right = shifted(0, 15)
    with pytest.raises(Exception, match="too small to match without pairs"):
        transported(left, right)


def test_auto_goes_on_from_an_aligned_start_without_pairs_and_sets_nothing_of_training() -> None:
    recipe = Recipe.model_validate({"towers": TOWERS, "pairs": 0, "goal": "partner"})
    taken = choose(recipe, [], []).recipe
    assert (taken.method, taken.pairs, taken.projection.pca) == ("transport", 0, 128)
    assert taken == Recipe.model_validate({"towers": TOWERS, "pairs": 0, "method": "transport"})
    assert taken.changed_keys() == []
