"""Claims about RUNs from before ESM-2 was fair-esm's own: they open, and embed as they did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from setclip_cli.backbones import load_backbone
from setclip_cli.backbones.former_names import with_former_names, with_present_names
from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.embedding.embeddings import open_embeddings
from setclip_cli.run.model import load_model

FIXTURE = Path(__file__).parents[1] / "fixtures" / "before_rooms"
ESM = "esm:esm2_t6_8M_UR50D"


def test_an_old_run_with_a_tuned_esm2_embeds_to_the_values_that_were_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FIXTURE)
    model = load_model(Path("run-proteins"))  # load_backbone compares the identity that the RUN keeps
    backbone = model.load_backbone("protein")
    kept = open_embeddings(Path("embeddings-proteins")).load("protein")
    rows = {row["id"]: row["sequence"] for row in open_dataset(Path("dataset")).table("protein", "train").to_pylist()}
    with torch.no_grad():
        found = model.encoders["protein"](backbone.encode([rows[name] for name in kept.ids]).features)
    np.testing.assert_allclose(found.numpy(), kept.embeddings, atol=1e-5)
    untuned = model.load_backbone("protein", initial=True).encode(list(rows.values())).features
    assert not torch.allclose(untuned, backbone.encode(list(rows.values())).features, atol=1e-3)


def test_the_identities_of_an_old_run_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """What feature caches are kept under, with and without the tuned weights; both values are of setclip 0.1."""
    monkeypatch.chdir(FIXTURE)
    model = load_model(Path("run-proteins"))
    assert model.load_backbone("protein", initial=True).identity == model.config.towers["protein"].identity
    assert model.load_backbone("protein").identity == "f985a985036af2b6daf0b133787bc80bb7c4d9b2f0b6602573d4df76fee16852"
    attention = load_backbone(ESM, modality="protein", weights="esm2.pt", pooling="attention", layer=1)
    assert attention.identity == "63a2106617aa9b91719a9729bc2018eb54e9386a0d237d3059584e31fdea6c2e"


def test_every_tensor_keeps_its_place_and_value_under_its_former_name(tiny_esm2: Path) -> None:
    """The order matters too: checkpoints number the states of the optimizer in it."""
    module = load_backbone(ESM, modality="protein", weights=str(tiny_esm2)).module
    parts = ["attention_norm", "attention.qkv", "attention.out", "feed_forward_norm", "widen", "narrow"]
    named = [f"layers.{layer}.{part}" for layer in (0, 1) for part in parts] + ["final_norm"]
    expected = ["embed_tokens.weight", *(f"{name}.{leaf}" for name in named for leaf in ("weight", "bias"))]
    present = dict(module.named_parameters())
    assert list(with_former_names(module.state_dict()))[: len(expected)] == expected
    assert list(with_present_names(ESM, dict.fromkeys(expected))) == list(present)
    stored = torch.load(tiny_esm2, weights_only=False)["model"]
    prefix = "encoder.sentence_encoder.layers.1"
    former = with_former_names(module.state_dict())
    for name, theirs in (("widen", "fc1"), ("attention.out", "self_attn.out_proj")):
        assert torch.equal(former[f"layers.1.{name}.weight"], stored[f"{prefix}.{theirs}.weight"])
    joined = torch.cat([stored[f"{prefix}.self_attn.{part}_proj.weight"] for part in "qkv"])
    assert torch.equal(former["layers.1.attention.qkv.weight"], joined)


def test_adapters_and_other_backbones_names() -> None:
    adapter = "lora_A.default.weight"
    former = {f"layers.10.attention.out.{adapter}": 0, f"layers.0.narrow.{adapter}": 1, "attention_pooling.query": 2}
    assert with_present_names(ESM, former) == {
        f"layers.10.self_attn.out_proj.{adapter}": 0,
        f"layers.0.fc2.{adapter}": 1,
        "attention_pooling.query": 2,
    }
    assert with_present_names("timm:some", former) == former
    present = load_file(FIXTURE / "run-proteins" / "tuned-protein.safetensors")
    twice = with_present_names(ESM, with_present_names(ESM, present))
    assert twice.keys() == with_present_names(ESM, present).keys()
