"""Videos by an image backbone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import TINY_TIMM, jpeg, timm_weights

from setclip_cli.backbones import check_backbone, empty_backbone, load_backbone
from setclip_cli.backbones.base import Backbone
from setclip_cli.backbones.video import attend_to_frames
from setclip_cli.dataset.schemas import ModalityInfo
from setclip_cli.errors import SetClipError

SPEC = f"timm:{TINY_TIMM}"
FILM = ModalityInfo(kind="video")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return timm_weights(tmp_path_factory.mktemp("weights"))


def load(weights: Path, pooling: str = "default", **more: object) -> Backbone:
    return load_backbone(SPEC, modality="film", info=FILM, weights=str(weights), pooling=pooling, **more)  # type: ignore[arg-type]


def images(weights: Path) -> Backbone:
    return load_backbone(SPEC, modality="image", weights=str(weights))


def test_the_mean_of_the_features_of_the_frames_whatever_is_beside_a_video(weights: Path) -> None:
    frames = [jpeg(seed) for seed in range(5)]
    of_frames = images(weights).encode(frames).features
    backbone = load(weights)
    found = backbone.encode([frames[:3], frames[3:], [frames[4]]]).features
    wanted = torch.stack([of_frames[:3].mean(0), of_frames[3:].mean(0), of_frames[4]])
    assert torch.allclose(found, wanted, atol=1e-5)
    assert torch.allclose(backbone.encode([frames[:3]]).features[0], found[0], atol=1e-5)
    prepared = backbone.prepare([frames[:3], frames[3:]])
    assert torch.allclose(backbone.features(prepared), found[:2], atol=1e-5)
    assert (backbone.kind, backbone.column, backbone.pooling) == ("video", "frames", "mean")


def test_attention_is_the_stated_formula_and_an_odd_frame_counts_less() -> None:
    torch.manual_seed(0)
    like = torch.randn(1, 8) + 0.1 * torch.randn(5, 8)
    frames = torch.cat([like, -like[:1]])
    mean = frames.mean(0)
    cosines = [float(f @ mean / (f.norm() * mean.norm())) for f in frames]
    weights = torch.tensor(cosines).div(0.1).exp()
    assert torch.allclose(attend_to_frames(frames), (weights / weights.sum()) @ frames, atol=1e-5)
    assert (attend_to_frames(frames) - like.mean(0)).norm() < 0.2 * (mean - like.mean(0)).norm()
    assert torch.allclose(attend_to_frames(like[:1].repeat(3, 1)), like[0], atol=1e-6)


def test_pooling_is_part_of_the_identity_and_of_what_may_be_asked(weights: Path) -> None:
    assert len({load(weights).identity, load(weights, "attention").identity, images(weights).identity}) == 3
    assert load(weights, "mean").identity == load(weights).identity
    with pytest.raises(SetClipError, match=r"pooling 'cls'.*for the frames of videos"):
        check_backbone(SPEC, modality="film", kind="video", pooling="cls")
    with pytest.raises(SetClipError, match="reads proteins, not videos"):
        check_backbone("esm:esm2_t6_8M_UR50D", modality="film", kind="video")


def test_a_frame_that_cannot_be_read_fails_its_video_alone(weights: Path) -> None:
    encoded = load(weights).encode([[jpeg(1), b"broken"], [jpeg(2)], []])
    assert encoded.failed == {0: "its frame 2 cannot be decoded (no known image format)", 2: "has no frames"}
    assert encoded.features[1].norm() > 0
    assert encoded.features[0].norm() == 0


def test_inner_layers_and_empty_backbones(weights: Path) -> None:
    inner = load(weights, layer=1)
    empty = empty_backbone(SPEC, modality="film", info=FILM, layer=1)
    assert empty is not None
    assert (inner.dim, inner.layers) == (empty.dim, 1)
    assert inner.identity != load(weights).identity
    assert inner.encode([[jpeg(1)]]).features.shape == (1, inner.dim)


def test_the_frames_of_a_view_are_changed_alike(weights: Path) -> None:
    backbone = load(weights)
    one = backbone.prepare([[jpeg(1), jpeg(1)]], views=[7]).pixels
    assert torch.equal(one[0], one[1])
    assert not torch.equal(one, backbone.prepare([[jpeg(1), jpeg(1)]]).pixels)
