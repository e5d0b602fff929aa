"""Claims about image towers: packaged weights see what a photograph shows; every kind of file decodes or says why."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import sklearn
import timm
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data.config import resolve_model_data_config
from timm.data.imagenet_info import ImageNetInfo
from timm.data.transforms_factory import create_transform

from setclip_cli.backbones import load_backbone
from setclip_cli.backbones.tensors import read_checkpoint
from setclip_cli.backbones.timm_image import TimmBackbone, _in_timm_names
from setclip_cli.backbones.weights import locate_weights
from setclip_cli.errors import SetClipError
from setclip_cli.pixels.rgb import open_rgb

SPEC = f"timm:{tiny.TINY_TIMM}"


def load(weights: Path, **settings: str) -> TimmBackbone:
    loaded = load_backbone(SPEC, modality="image", weights=str(weights), **settings)
    assert isinstance(loaded, TimmBackbone)
    return loaded


@pytest.mark.parametrize(("photograph", "wanted"), [("china.jpg", "palace"), ("flower.jpg", "daisy")])
def test_the_packaged_efficientnet_names_what_the_photograph_shows(photograph: str, wanted: str) -> None:
    location = locate_weights("timm:tf_efficientnet_lite0")
    assert location.path is not None
    renamed = _in_timm_names("tf_efficientnet_lite0", read_checkpoint(location.path), location.path)
    classifier = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    classifier.load_state_dict(renamed)
    transform = create_transform(**resolve_model_data_config(classifier), is_training=False)
    folder = Path(sklearn.__file__).parent / "datasets" / "images"
    with torch.no_grad():
        logits = classifier(transform(open_rgb((folder / photograph).read_bytes()))[None])[0]
    assert ImageNetInfo().index_to_description(int(logits.argmax())).startswith(wanted)


def test_packaged_features_feed_the_classifier_the_same_logits() -> None:
    backbone = load_backbone("timm:tf_efficientnet_lite0", modality="image")
    assert isinstance(backbone, TimmBackbone)
    location = locate_weights("timm:tf_efficientnet_lite0")
    assert location.path is not None
    classifier = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    classifier.load_state_dict(_in_timm_names("tf_efficientnet_lite0", read_checkpoint(location.path), location.path))
    images = [tiny.jpeg(seed) for seed in range(2)]
    with torch.no_grad():
        logits = classifier(torch.stack([backbone.transform(open_rgb(image)) for image in images]))
        from_features = classifier.classifier(backbone.encode(images).features)
    torch.testing.assert_close(from_features, logits, atol=1e-4, rtol=1e-4)


def test_equals_timms_own_pipeline_and_does_not_depend_on_the_batch(tiny_timm: Path) -> None:
    backbone = load(tiny_timm)
    model = timm.create_model(tiny.TINY_TIMM, pretrained=False, num_classes=0).eval()
    model.load_state_dict({name: value for name, value in load_file(tiny_timm).items() if not name.startswith("fc.")})
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    images = [tiny.jpeg(seed, size=(60 + seed, 50)) for seed in range(5)]
    with torch.no_grad():
        expected = torch.cat([model(transform(Image.open(io.BytesIO(image)).convert("RGB"))[None]) for image in images])
    backbone.budget.rows = 3
    torch.testing.assert_close(backbone.encode(images).features, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (2, 30_000)])
def test_a_strip_is_read_from_its_middle_and_takes_no_more_memory_than_a_picture(
    tiny_timm: Path, size: tuple[int, int]
) -> None:
    strip, middle = Image.new("RGB", size, "red"), Image.new("RGB", (200, 200), "red")
    contents = []
    for image in (strip, middle):
        file = io.BytesIO()
        image.save(file, "PNG")
        contents.append(file.getvalue())
    backbone = load(tiny_timm)
    seen: list[tuple[int, int]] = []
    transform = backbone.transform
    backbone.transform = lambda image: seen.append(image.size) or transform(image)  # type: ignore[func-returns-value]
    features = backbone.encode(contents).features
    torch.testing.assert_close(features[0], features[1])
    assert max(map(max, seen)) <= 200


def test_an_undecodable_file_fails_alone(tiny_timm: Path) -> None:
    whole = tiny.jpeg(0)
    encoded = load(tiny_timm).encode([whole, b"", whole[: len(whole) // 2], b"not an image", whole])
    assert sorted(encoded.failed) == [1, 2, 3]
    assert "no known image format" in encoded.failed[3]
    torch.testing.assert_close(encoded.features[0], encoded.features[4], atol=1e-5, rtol=1e-5)
    assert not encoded.features[1:4].any()


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "P"), ("PNG", "LA"), ("JPEG", "CMYK"), ("PNG", "1"), ("WEBP", "RGBA")]
)
def test_palette_grey_cmyk_and_alpha_files_decode_to_rgb(kind: str, mode: str) -> None:
    image = open_rgb(tiny.jpeg(0, kind=kind, mode=mode))
    assert (image.mode, image.size) == ("RGB", (64, 48))


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    file = io.BytesIO()
    Image.fromarray(np.array([[0, 257 * 10, 257 * 128, 65535]], dtype=np.uint16)).save(file, "PNG")
    assert np.asarray(open_rgb(file.getvalue()))[0, :, 0].tolist() == [0, 10, 128, 255]


def test_a_photograph_is_turned_upright_as_its_exif_says() -> None:
    image = Image.new("RGB", (20, 10))
    exif = image.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    file = io.BytesIO()
    image.save(file, "JPEG", exif=exif)
    assert open_rgb(file.getvalue()).size == (10, 20)


def test_an_image_over_the_pixel_cap_fails(tiny_timm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert "exceeds limit" in load(tiny_timm).encode([tiny.jpeg(0)]).failed[0]


def test_pooling_over_the_map_equals_the_default_of_a_convolutional_model(tiny_timm: Path) -> None:
    images = [tiny.jpeg(0)]
    default, average = load(tiny_timm), load(tiny_timm, pooling="avg")
    torch.testing.assert_close(default.encode(images).features, average.encode(images).features, atol=1e-5, rtol=1e-5)
    assert default.identity != average.identity
    with pytest.raises(SetClipError, match="the model has no class token"):
        load(tiny_timm, pooling="cls")


def test_weights_of_another_model_are_refused(tiny_timm: Path, tmp_path: Path) -> None:
    tensors = load_file(tiny_timm)
    tensors["layer1.0.conv1.weight"] = tensors["layer1.0.conv1.weight"][:, :3].clone()
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(SetClipError, match=r"other\.safetensors: its tensors do not fit timm:resnet10t"):
        load(tmp_path / "other.safetensors")
    save_file({"unrelated": torch.zeros(1)}, tmp_path / "unrelated.safetensors")
    with pytest.raises(SetClipError, match="do not fit"):
        load(tmp_path / "unrelated.safetensors")


def test_vision_transformer_poolings_take_the_right_tokens() -> None:
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0)
    config = resolve_model_data_config(model)
    poolings = {
        name: TimmBackbone("timm:vit", model, pooling=name, data_config=config) for name in ("default", "cls", "avg")
    }
    pixels = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        tokens = model.forward_features(pixels)
        torch.testing.assert_close(poolings["cls"].forward(pixels), tokens[:, 0])
        torch.testing.assert_close(poolings["avg"].forward(pixels), tokens[:, 1:].mean(1))
        torch.testing.assert_close(poolings["default"].forward(pixels), model(pixels))
