"""Image towers that read any number of bands: the first layer as timm adapts it, the stated scale, errors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import tiny
import torch
from safetensors.torch import load_file, save_file
from timm.data.transforms_factory import create_transform

from setclip_cli.backbones import load_backbone
from setclip_cli.backbones.augment import augment_bands
from setclip_cli.backbones.timm_image import TimmBackbone
from setclip_cli.backbones.tuning import make_trainable
from setclip_cli.errors import SetClipError
from setclip_cli.pixels.bands import BandScale

rasterio = pytest.importorskip("rasterio", reason="the extra [geo] is not installed")

SPEC = f"timm:{tiny.TINY_TIMM}"
Samples = np.ndarray[Any, Any]


def scale(bands: int, mean: float = 1000, std: float = 250) -> BandScale:
    return BandScale(tuple(mean + band for band in range(bands)), tuple(std + band for band in range(bands)))


def load(weights: Path, bands: BandScale | None, spec: str = SPEC) -> TimmBackbone:
    backbone = load_backbone(spec, modality="image", weights=str(weights), bands=bands)
    assert isinstance(backbone, TimmBackbone)
    return backbone


def scene(bands: int, seed: int = 0, *, dtype: str = "uint16", side: int = 40, **options: Any) -> tuple[Samples, bytes]:
    samples = np.random.default_rng(seed).normal(1000, 250, (bands, side, side + 20)).clip(0, 4000).astype(dtype)
    profile = {"driver": "GTiff", "width": side + 20, "height": side, "count": bands, "dtype": dtype, **options}
    with rasterio.MemoryFile() as file:
        with file.open(**profile, transform=rasterio.Affine(10, 0, 0, 0, -10, 0)) as out:
            out.write(samples)
        return samples, file.read()


@pytest.mark.parametrize("name", [tiny.TINY_TIMM, "test_vit.r160_in1k"])
@pytest.mark.parametrize("bands", [1, 2, 3, 13])
def test_the_first_layer_is_adapted_as_timm_does_it(tmp_path: Path, name: str, bands: int) -> None:
    weights = tiny.timm_weights(tmp_path, name)
    of_timm = timm.create_model(
        name, pretrained=True, in_chans=bands, pretrained_cfg_overlay={"state_dict": load_file(weights)}
    )
    of_timm.reset_classifier(0)
    found = load(weights, scale(bands), f"timm:{name}").module.state_dict()
    expected = of_timm.state_dict()
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("with_classifier", [True, False])
def test_a_checkpoint_of_as_many_bands_is_taken_as_it_is(tmp_path: Path, with_classifier: bool) -> None:
    torch.manual_seed(1)
    own = timm.create_model(tiny.TINY_TIMM, pretrained=False, in_chans=13, num_classes=1000 if with_classifier else 0)
    save_file(own.state_dict(), tmp_path / "own.safetensors")
    found = load(tmp_path / "own.safetensors", scale(13)).module.state_dict()
    for key, tensor in found.items():
        torch.testing.assert_close(tensor, own.state_dict()[key], rtol=0, atol=0)


def test_a_checkpoint_of_another_number_of_bands_is_refused(tmp_path: Path) -> None:
    own = timm.create_model(tiny.TINY_TIMM, pretrained=False, in_chans=12)
    save_file(own.state_dict(), tmp_path / "own.safetensors")
    with pytest.raises(SetClipError, match="its tensors do not fit"):
        load(tmp_path / "own.safetensors", scale(13))


def test_the_numbers_are_scaled_as_stated_and_a_missing_one_is_the_mean_of_its_band(tiny_timm: Path) -> None:
    backbone = load(tiny_timm, scale(5))
    samples, content = scene(5, dtype="float32", nodata=-9999.0)
    holes = samples.copy()
    holes[2, 5:20, 5:20], holes[4, 0, 0] = np.nan, -9999
    with rasterio.MemoryFile(content) as file, file.open() as opened:
        profile = opened.profile
    with rasterio.MemoryFile() as file:
        with file.open(**profile) as out:
            out.write(holes)
        with_holes = file.read()
    filled = samples.copy()
    filled[2, 5:20, 5:20], filled[4, 0, 0] = 1002, 1004
    # scaled before it is resized, which is the same
    mean, std = (torch.tensor(each)[:, None, None] for each in scale(5))
    numbers = (torch.from_numpy(filled) - mean) / std
    config = {**backbone.data_config, "mean": (0.0,) * 5, "std": (1.0,) * 5}
    pixels = create_transform(**config, is_training=False)(numbers)
    prepared = backbone.prepare([with_holes])
    torch.testing.assert_close(prepared[0], pixels, atol=1e-4, rtol=1e-4)
    encoded = backbone.encode([with_holes])
    assert not encoded.failed
    with torch.inference_mode():
        torch.testing.assert_close(encoded.features, backbone.module(pixels[None]), atol=1e-4, rtol=1e-4)


def test_the_identity_and_the_preprocessing_say_how_many_bands_and_their_scale(tiny_timm: Path) -> None:
    pictures, first, again, other, fewer = (
        load(tiny_timm, each) for each in (None, scale(13), scale(13), scale(13, std=100), scale(12))
    )
    assert first.identity == again.identity
    assert len({each.identity for each in (pictures, first, other, fewer)}) == 4
    assert "in_chans" not in pictures.preprocessing
    assert BandScale.of_preprocessing(pictures.preprocessing) is None
    assert BandScale.of_preprocessing(first.preprocessing) == scale(13)
    assert first.preprocessing["input_size"][0] == 13


@pytest.mark.parametrize(
    ("tower", "content", "said"),
    [
        (None, scene(13)[1], "reads pictures of three colours, and this is an image of 13 bands"),
        (None, scene(2)[1], "and this is an image of 2 bands"),
        (None, scene(13, interleave="band")[1], "and this is an image of 13 bands"),
        (None, scene(3, interleave="band")[1], "and this is an image of 3 bands"),
        (scale(13), scene(6)[1], "was loaded for images of 13 bands, and this is an image of 6 bands"),
        (scale(13), tiny.jpeg(0), "was loaded for images of 13 bands, and this is a picture"),
        (scale(3), tiny.jpeg(0, kind="PNG"), "was loaded for images of 3 bands, and this is a picture"),
    ],
)
def test_images_of_another_number_of_bands_are_refused(
    tiny_timm: Path, tower: BandScale | None, content: bytes, said: str
) -> None:
    with pytest.raises(SetClipError, match=said):
        load(tiny_timm, tower).encode([content])
    with pytest.raises(SetClipError, match=said):
        load(tiny_timm, tower).prepare([content])


def test_a_damaged_scene_fails_alone(tiny_timm: Path) -> None:
    contents = [scene(4)[1], scene(4)[1][:3000], scene(4, seed=1)[1]]
    encoded = load(tiny_timm, scale(4)).encode(contents)
    assert list(encoded.failed) == [1]
    assert encoded.features[[0, 2]].any(1).all()


def test_a_strip_is_cut_to_its_middle(tiny_timm: Path) -> None:
    ground = rasterio.Affine(10, 0, 0, 0, -10, 0)
    strip = {"driver": "GTiff", "width": 60_000, "height": 1, "count": 4, "dtype": "uint16", "transform": ground}
    with rasterio.MemoryFile() as file:
        with file.open(**strip) as out:
            out.write(np.full((4, 1, 60_000), 1000, "uint16"))
        content = file.read()
    assert not load(tiny_timm, scale(4)).encode([content]).failed


def test_other_kinds_of_backbones_do_not_read_bands(tiny_sentence: Path) -> None:
    with pytest.raises(SetClipError, match="reads no images of bands, and the image rows have 13 of them"):
        load_backbone(
            "sentence-transformers:clip-ViT-B-32", modality="image", weights=str(tiny_sentence), bands=scale(13)
        )


def test_without_rasterio_the_error_names_the_extra(tiny_timm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, content = load(tiny_timm, scale(4)), scene(4)[1]
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(SetClipError, match=r"rasterio\n.*setclip\[geo\]"):
        backbone.encode([content])


def test_the_last_blocks_can_be_tuned(tiny_timm: Path) -> None:
    backbone = load(tiny_timm, scale(13))
    make_trainable(backbone, "last-1")
    backbone.features(backbone.prepare([scene(13)[1]], views=[1])).sum().backward()
    trained = [name for name, parameter in backbone.module.named_parameters() if parameter.grad is not None]
    assert trained
    assert not any(name.startswith("conv1") for name in trained)


def test_views_of_bands_keep_the_bands_and_depend_on_the_seed_alone() -> None:
    samples = np.stack([np.full((40, 60), 100.0 * band, "float32") for band in range(1, 6)])
    samples[:, 10:20, 10:20] *= 2
    views = [augment_bands(samples, (1.0,) * 5, seed) for seed in (0, 0, 1, 2, 3)]
    np.testing.assert_array_equal(views[0], views[1])
    assert len({view.tobytes() for view in views}) == 4
    assert {view.shape[0] for view in views} == {5}
    for view in views:
        assert (np.diff(view.mean((1, 2))) > 0).all()  # the bands stay in their order
        assert view[0].size >= 0.45 * 40 * 60
