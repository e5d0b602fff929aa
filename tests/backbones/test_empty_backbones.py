"""Backbones without weights: they have what the real ones have, and nothing of the weights is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import TINY_TIMM, esm2_checkpoint, sentence_folder, timm_weights

from setclip_cli.backbones import empty_backbone, load_backbone
from setclip_cli.backbones.tuning import make_trainable
from setclip_cli.dataset.modality import Modality
from setclip_cli.errors import SetClipError

ESM, TIMM, TEXT = "esm:esm2_t6_8M_UR50D", f"timm:{TINY_TIMM}", "sentence-transformers:all-MiniLM-L6-v2"
TRAINABLE = {"last-1", "full", "lora"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[Modality, str]:
    root = tmp_path_factory.mktemp("weights")
    return {
        "protein": str(esm2_checkpoint(root, layers=3)),
        "image": str(timm_weights(root)),
        "caption": str(sentence_folder(root / "text", layers=3)),
    }


@pytest.mark.parametrize("pooling", ["default", "attention"])
@pytest.mark.parametrize("layer", [-1, 2])
@pytest.mark.parametrize(("modality", "spec"), [("protein", ESM), ("image", TIMM), ("caption", TEXT)])
def test_an_empty_backbone_has_the_shapes_and_the_trained_weights_of_the_real_one(
    weights: dict[Modality, str], modality: Modality, spec: str, layer: int, pooling: str
) -> None:
    for trainable in sorted(TRAINABLE if modality != "image" else TRAINABLE - {"lora"}):
        empty, real = (
            get(spec, modality=modality, weights=weights[modality], pooling=pooling, layer=layer)
            for get in (empty_backbone, load_backbone)
        )
        assert empty is not None
        assert (empty.layers, empty.dim, empty.pooling, empty.identity) == (real.layers, real.dim, real.pooling, "")
        for backbone in (empty, real):
            make_trainable(backbone, trainable, lora_rank=2)
        shapes = [
            {name: (value.shape, value.requires_grad) for name, value in backbone.module.named_parameters()}
            for backbone in (empty, real)
        ]
        assert shapes[0] == shapes[1]


def test_no_weights_are_read(weights: dict[Modality, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for modality, spec in (("protein", ESM), ("image", TIMM), ("caption", TEXT)):
        empty = empty_backbone(spec, modality=modality, weights=weights[modality])  # type: ignore[arg-type]
        assert empty is not None
        inside = [value for name, value in empty.module.state_dict().items() if "attention_pooling" not in name]
        assert all(value.is_meta for value in inside)
    monkeypatch.setattr("safetensors.torch.load_file", lambda *_: pytest.fail("was read"))
    assert empty_backbone(TIMM, modality="image", weights=weights["image"]) is not None


@pytest.mark.parametrize(("name", "layers"), [("esm2_t6_8M_UR50D", 6), ("esm2_t33_650M_UR50D", 33)])
def test_layers_are_known_by_name_before_a_download(
    name: str, layers: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    backbone = empty_backbone(f"esm:{name}", modality="protein")
    assert backbone is not None
    assert backbone.layers == layers
    with pytest.raises(SetClipError, match=f"has layers 1 to {layers}"):
        empty_backbone(f"esm:{name}", modality="protein", layer=layers + 1)


def test_a_timm_model_is_known_by_its_name_and_a_text_model_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("setclip_cli.backbones.weights._hub_cached", lambda *_: None)
    with pytest.raises(SetClipError, match="has layers 1 to 12"):
        empty_backbone("timm:vit_small_patch14_dinov2.lvd142m", modality="image", layer=13)
    with pytest.raises(SetClipError, match="no class token"):
        empty_backbone("timm:resnet18.a1_in1k", modality="image", pooling="cls")
    assert empty_backbone("sentence-transformers:some/model", modality="caption", layer=99) is None


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "other.pt")
    with pytest.raises(SetClipError, match="is not an ESM-2 checkpoint"):
        empty_backbone(ESM, modality="protein", weights=str(tmp_path / "other.pt"))
