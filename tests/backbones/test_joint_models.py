"""Joint models: both halves of a CLIP of sentence-transformers, and timm's image tower with its projection."""

import io
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer

from setclip_cli.backbones import load_backbone
from setclip_cli.backbones.base import Backbone
from setclip_cli.backbones.joint import require_one_space
from setclip_cli.dataset.modality import Modality
from setclip_cli.errors import SetClipError
from tests import tiny

CLIP = "sentence-transformers:my-clip"
TEXTS = ["a red boat", "two planes", "x", "a text that is far longer than the 32 tokens that the model reads at most"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.clip_folder(tmp_path_factory.mktemp("clip"))


def half(modality: Modality, folder: Path, spec: str = CLIP, *, joint: bool = True) -> Backbone:
    return load_backbone(spec, modality=modality, weights=str(folder), joint=joint)


def test_both_halves_give_what_the_model_itself_gives(clip: Path) -> None:
    model = SentenceTransformer(str(clip), device="cpu", local_files_only=True)
    images = [tiny.jpeg(seed) for seed in range(3)]
    pictures = [Image.open(io.BytesIO(content)).convert("RGB") for content in images]
    for modality, items, expected in (
        ("image", images, model.encode(pictures)),
        ("caption", TEXTS, model.encode(TEXTS)),
    ):
        for joint in (True, False):
            backbone = half(modality, clip, joint=joint)  # type: ignore[arg-type]
            encoded = backbone.encode(items)  # type: ignore[arg-type]
            np.testing.assert_allclose(encoded.features.numpy(), expected, atol=1e-6)
            assert encoded.features.shape == (len(items), backbone.dim) == (len(items), 8)
            assert (backbone.space is not None) == joint


def test_a_half_holds_no_weights_of_the_other(clip: Path) -> None:
    image, caption = half("image", clip), half("caption", clip)
    assert not [name for name, _ in image.module.named_parameters() if "text_" in name]
    assert not [name for name, _ in caption.module.named_parameters() if "vis" in name]
    assert (image.layers, caption.layers) == (3, 2)
    assert image.identity != caption.identity


def test_the_identity_of_an_image_reader_changes_with_its_preprocessing(clip: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in clip.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    settings = copy / "processor_config.json"
    settings.write_text(settings.read_text().replace("0.48145466", "0.5"))
    assert half("image", copy).identity != half("image", clip).identity
    assert half("caption", copy).identity == half("caption", clip).identity


def test_an_image_that_cannot_be_decoded_fails_alone(clip: Path) -> None:
    encoded = half("image", clip).encode([tiny.jpeg(0), b"not an image", tiny.jpeg(1)])
    assert list(encoded.failed) == [1]
    assert bool((encoded.features[[0, 2]].abs().sum(1) > 0).all())


def test_a_caption_that_is_the_address_of_an_image_is_read_as_text(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a caption opened a connection")

    monkeypatch.setattr(socket, "create_connection", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)
    for joint in (True, False):
        features = half("caption", clip, joint=joint).encode(["http://localhost:1/cat.jpg", "a cat"]).features
        assert bool(features.isfinite().all())


def test_only_halves_of_one_model_share_a_space(clip: Path, tmp_path: Path) -> None:
    require_one_space(half("image", clip), half("caption", clip))
    require_one_space(half("image", clip, "sentence-transformers:a"), half("caption", clip, "sentence-transformers:b"))
    other, wide = tiny.clip_folder(tmp_path, seed=1), tiny.clip_folder(tmp_path, width=12, seed=2)
    with pytest.raises(SetClipError, match="with other weights are not known to share a space"):
        require_one_space(half("image", clip), half("caption", other))
    with pytest.raises(SetClipError, match=r"8 values\) and .* \(12 values\)"):
        require_one_space(half("image", clip), half("caption", wide, "sentence-transformers:wide"))


def test_models_that_read_one_modality_are_no_joint_models(tmp_path: Path) -> None:
    folder = tiny.sentence_folder(tmp_path)
    with pytest.raises(SetClipError, match=r"joint = true: .*my-clip reads texts alone"):
        half("caption", folder)
    with pytest.raises(SetClipError, match="this model reads texts, not images"):
        half("image", folder, joint=False)
    with pytest.raises(SetClipError, match=r"joint = true: timm:resnet10t.c3_in1k is not known"):
        load_backbone(f"timm:{tiny.TINY_TIMM}", modality="image", joint=True)


def test_a_text_model_of_a_known_space_goes_with_its_image_model(tmp_path: Path) -> None:
    spec = "sentence-transformers:sentence-transformers/clip-ViT-B-32-multilingual-v1"
    text = half("caption", tiny.sentence_folder(tmp_path, width=8), spec)
    image = half("image", tiny.clip_folder(tmp_path), "sentence-transformers:clip-ViT-B-32")
    require_one_space(image, text)
    with pytest.raises(SetClipError, match="not known to share a space"):
        require_one_space(half("image", tiny.clip_folder(tmp_path), "sentence-transformers:clip-ViT-B-16"), text)


def test_timm_keeps_the_projection_of_a_joint_model_and_its_whole_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    from setclip_cli.backbones import joint

    name = "vit_xsmall_patch16_clip_224.tinyclip_yfcc15m"  # the smallest CLIP of timm; 8 M weights
    spec = f"timm:{name}"
    monkeypatch.setitem(joint.SPACES, "tiny", (spec,))
    path = tiny.timm_weights(tmp_path, name)
    backbone = load_backbone(spec, modality="image", weights=str(path), joint=True)
    reference = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}).eval()
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(backbone.features(pixels), reference(pixels), atol=1e-5, rtol=0)
    assert backbone.dim == 512
    assert backbone.preprocessing["crop_pct"] == 1.0
    assert backbone.space == "tiny"
    plain = load_backbone(spec, modality="image", weights=str(path))
    assert (plain.dim, plain.space) == (256, None)
    assert plain.identity != backbone.identity
