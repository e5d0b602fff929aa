"""Claims about inner layers and poolings: equal to what the libraries themselves give there, under their own names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import esm
import pytest
import timm
import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor

from setclip_cli.backbones import load_backbone
from setclip_cli.backbones.base import Backbone
from setclip_cli.backbones.pooling import AttentionPooling
from setclip_cli.backbones.timm_image import TimmBackbone
from setclip_cli.backbones.tuning import make_trainable
from setclip_cli.errors import SetClipError

ESM = "esm:esm2_t6_8M_UR50D"
TEXTS = ["a harbour", "forest and two lakes", "s"]
SEQUENCES = ["MKTAYIAKQR", "ACDEFGHIKLMNPQRSTVWY" * 2, "M"]


def protein(path: Path, **settings: Any) -> Backbone:
    return load_backbone(ESM, modality="protein", weights=str(path), **settings)


def caption(path: Path, **settings: Any) -> Backbone:
    return load_backbone("sentence-transformers:tiny", modality="caption", weights=str(path), **settings)


def vision(name: str, **settings: Any) -> TimmBackbone:
    torch.manual_seed(0)
    module = timm.create_model(name, pretrained=False, num_classes=0)
    return TimmBackbone(f"timm:{name}", module, data_config=resolve_model_data_config(module), **settings)


def test_an_inner_layer_of_esm2_is_fair_esms_own(tiny_esm2: Path) -> None:
    checkpoint = torch.load(tiny_esm2, weights_only=False)
    settings = checkpoint["cfg"]["model"]
    oracle = esm.ESM2(settings.encoder_layers, settings.encoder_embed_dim, settings.encoder_attention_heads)
    plain = {key.split("encoder.")[-1].replace("sentence_", ""): value for key, value in checkpoint["model"].items()}
    oracle.load_state_dict(plain, strict=False)
    convert = oracle.alphabet.get_batch_converter()
    with torch.no_grad():
        expected = [
            oracle.eval()(convert([("", text)])[2], repr_layers=[1])["representations"][1][0, 1:-1].mean(0)
            for text in SEQUENCES
        ]
    torch.testing.assert_close(
        protein(tiny_esm2, layer=1).encode(SEQUENCES).features, torch.stack(expected), atol=1e-5, rtol=1e-5
    )


def test_an_inner_layer_of_a_text_model_is_its_hidden_state(tiny_sentence: Path) -> None:
    whole = caption(tiny_sentence)
    tokens = whole.prepare(TEXTS)
    transformer: Any = whole.module[0].model  # type: ignore[index]
    with torch.no_grad():
        hidden = transformer(**tokens, output_hidden_states=True).hidden_states[1]
    mask = tokens["attention_mask"][..., None].float()
    expected = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
    features = caption(tiny_sentence, layer=1).encode(TEXTS).features
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "layer", "cls"),
    [("vit_tiny_patch16_224", 3, True), ("resnet10t", 2, False), ("swin_tiny_patch4_window7_224", 1, False)],
)
def test_an_inner_layer_of_an_image_model_is_timms_intermediate(name: str, layer: int, cls: bool) -> None:
    backbone = vision(name)
    pixels = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        given: Any = backbone.module.forward_intermediates(
            pixels, indices=[layer - 1], intermediates_only=True, **({"return_prefix_tokens": True} if cls else {})
        )[0]
        expected = given[1][:, 0] if cls else given.mean((2, 3))
        backbone.cut(layer)
        found = backbone.forward(pixels)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert found.shape[1] == backbone.dim
    assert backbone.layers == layer


@pytest.mark.parametrize("load", [protein, caption])
def test_a_layer_counts_from_either_end_and_is_part_of_the_identity(
    load: Any, tiny_esm2: Path, tiny_sentence: Path
) -> None:
    path = tiny_esm2 if load is protein else tiny_sentence
    whole, last, first = load(path), load(path, layer=2), load(path, layer=1)
    assert whole.layers == last.layers == 2
    assert whole.identity == last.identity
    assert load(path, layer=-2).identity == first.identity != whole.identity
    for layer in (0, 3, -3):
        with pytest.raises(SetClipError, match=rf"layer = {layer}: \S+ has layers 1 to 2"):
            load(path, layer=layer)


def test_the_text_poolings_take_the_tokens_they_name(tiny_sentence: Path) -> None:
    default = caption(tiny_sentence).encode(TEXTS).features  # this model's own is the mean
    torch.testing.assert_close(caption(tiny_sentence, pooling="mean").encode(TEXTS).features, default)
    whole = caption(tiny_sentence)
    with torch.no_grad():
        first = whole.module[0](whole.prepare(TEXTS))["token_embeddings"][:, 0]  # type: ignore[index]
    of_cls = caption(tiny_sentence, pooling="cls")
    torch.testing.assert_close(of_cls.encode(TEXTS).features, torch.nn.functional.normalize(first, dim=1))
    assert len({whole.identity, of_cls.identity, caption(tiny_sentence, pooling="mean").identity}) == 3


def test_untrained_attention_pooling_is_the_mean(tiny_esm2: Path, tiny_sentence: Path) -> None:
    long_protein = "ACDEFGHIKLMNPQRSTVWY" * 60  # in windows
    for load, path, items in ((protein, tiny_esm2, [*SEQUENCES, long_protein]), (caption, tiny_sentence, TEXTS)):
        attention, mean = load(path, pooling="attention"), load(path, pooling="mean")
        assert attention.identity != mean.identity
        torch.testing.assert_close(attention.encode(items).features, mean.encode(items).features, atol=1e-5, rtol=1e-5)
    pixels = torch.randn(2, 3, 224, 224)
    for name, layer in (("vit_tiny_patch16_224", 2), ("resnet10t", 3)):
        attention, average = vision(name, pooling="attention"), vision(name, pooling="avg")
        for _ in range(2):
            with torch.no_grad():
                torch.testing.assert_close(attention.forward(pixels), average.forward(pixels), atol=1e-5, rtol=1e-4)
            attention.cut(layer)
            average.cut(layer)


def test_attention_pooling_follows_its_formula_and_never_counts_padding() -> None:
    torch.manual_seed(0)
    pooling = AttentionPooling(4)
    with torch.no_grad():
        pooling.query.normal_()
    hidden, weights = torch.randn(1, 3, 4), torch.tensor([[0.5, 0.25, 0.0]])
    found = pooling(hidden, weights)[0]
    query = pooling.query.detach()
    size = [w * float(torch.exp(h @ query / 2)) for w, h in zip([0.5, 0.25, 0.0], hidden[0], strict=True)]
    assert found.tolist() == pytest.approx([0.75 * value / sum(size) for value in size])


@pytest.mark.parametrize("trainable", ["last-1", "full"])
@pytest.mark.parametrize("kind", ["protein", "caption", "image"])
def test_the_query_of_attention_pooling_is_always_trained(
    kind: str, trainable: str, tiny_esm2: Path, tiny_sentence: Path
) -> None:
    if kind == "image":
        backbone: Backbone = vision("resnet10t", pooling="attention")
        prepared: Any = torch.randn(2, 3, 64, 64)
    elif kind == "protein":
        backbone = protein(tiny_esm2, pooling="attention")
        prepared = backbone.prepare(SEQUENCES)
    else:
        backbone = caption(tiny_sentence, pooling="attention")
        prepared = backbone.prepare(TEXTS)
    make_trainable(backbone, trainable)
    target: Tensor = torch.randn(backbone.dim, generator=torch.Generator().manual_seed(0))
    (backbone.features(prepared) @ target).sum().backward()
    queries = {name: value for name, value in backbone.module.named_parameters() if "attention_pooling" in name}
    assert len(queries) == 1
    for query in queries.values():
        assert query.grad is not None
        assert query.grad.abs().max() > 0


def test_a_cut_backbone_counts_its_own_blocks(tiny_esm2: Path) -> None:
    backbone = protein(tiny_esm2, layer=1)
    make_trainable(backbone, "last-1")
    trained = {name for name, value in backbone.module.named_parameters() if value.requires_grad}
    assert trained
    assert all(name.startswith("layers.0.") for name in trained)
    with pytest.raises(SetClipError, match="has 1 block\n"):
        make_trainable(backbone, "last-2")
    vit = vision("vit_tiny_patch16_224")
    vit.cut(5)
    make_trainable(vit, "last-2")
    trained = {name for name, value in vit.module.named_parameters() if value.requires_grad}
    assert {name.split(".")[1] for name in trained} == {"3", "4"}
