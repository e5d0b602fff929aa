"""Claims about pools with more rows than landmarks: all rows take part, results stay, memory and errors are bounded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import paired_vectors
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from setclip_cli.backbones.vector import VectorBackbone
from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.encoders.transform import FeatureTransform
from setclip_cli.errors import SetClipError
from setclip_cli.features import frozen
from setclip_cli.features.frozen import features_in_blocks, frozen_features, open_features
from setclip_cli.methods import graph_teacher
from setclip_cli.methods.graph_teacher import guiding
from setclip_cli.recipe.recipe import Recipe
from setclip_cli.training import build, overlap
from setclip_cli.training.align import align
from setclip_cli.training.dry_run import plan_align
from setclip_cli.training.inputs import read_side
from setclip_cli.training.known_pairs import numbers_of
from setclip_cli.training.landmarks import NearLandmarks, draw_landmarks, is_large
from setclip_cli.trust.unmatched import UnmatchedRows, unmatched_rows

ROWS, LANDMARKS = 2_400, 1_000


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paired_vectors.write_pools(
        tmp_path_factory.mktemp("large") / "data", rows=ROWS, known=60, splits=("train", "val", "test")
    )


def recipe(landmarks: int = LANDMARKS, method: str = "set-clip-plus", **settings: Any) -> Recipe:
    train = {"steps": 20, "batch": 32, "landmarks": landmarks, "map_every": 0} | settings.pop("train", {})
    towers = {name: {"backbone": "vector"} for name in paired_vectors.NAMES}
    return Recipe.model_validate(
        {"method": method, "towers": towers, "pairs": 50, "projection": {"dim": 16, "pca": 8}, "train": train}
        | settings
    )


def test_landmarks_are_the_known_rows_and_as_many_drawn_ones() -> None:
    known = torch.tensor([7, 4999, 7])
    first = draw_landmarks(5000, known, landmarks=1000, seed=1, side="left")
    assert {7, 4999} <= set(first.tolist())
    assert 1000 <= len(first) <= 1002
    assert torch.equal(first, first.unique())
    assert torch.equal(first, draw_landmarks(5000, known, landmarks=1000, seed=1, side="left"))
    for seed, side in ((2, "left"), (1, "right")):
        assert not torch.equal(first, draw_landmarks(5000, known, landmarks=1000, seed=seed, side=side))
    assert not is_large(2000, 1000)
    assert is_large(2001, 1000)


def test_row_numbers_are_those_of_a_search_by_hand() -> None:
    names = [f"n{number}" for number in range(50)]
    column = pa.chunked_array([names[:20], names[20:21], names[21:]])
    wanted = ["n49", "n0", "absent", "n20", "n0"]
    assert numbers_of(column, wanted) == {"n0": 0, "n20": 20, "n49": 49}
    assert numbers_of(names, wanted) == numbers_of(column, wanted)
    assert numbers_of(column, []) == {}


@pytest.mark.parametrize("rows", [1, 7, 300, 5000])
def test_the_transform_of_blocks_is_that_of_the_whole_pool(rows: int) -> None:
    pool = torch.randn(1500, 12, generator=torch.Generator().manual_seed(0)) * torch.linspace(3, 0.5, 12) + 1
    pool[3] *= 1e-20
    whole, found = FeatureTransform.fit(pool, 5), FeatureTransform.fit_blocks(lambda: pool.split(rows), 5)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, atol=2e-6, rtol=1e-5)


def test_a_pool_of_blocks_that_is_empty_or_not_finite_is_refused() -> None:
    for blocks in ([], [torch.zeros(0, 3)], [torch.ones(2, 3), torch.full((1, 3), torch.nan)]):
        with pytest.raises(ValueError, match="finite"):
            FeatureTransform.fit_blocks(lambda blocks=blocks: blocks)  # type: ignore[misc]


def test_what_is_known_of_landmarks_is_told_of_their_neighbours() -> None:
    draw = torch.Generator().manual_seed(0)
    centres = torch.eye(3, 6) * 5
    kinds = torch.arange(60) % 3
    features = centres[kinds] + 0.1 * torch.randn(60, 6, generator=draw)
    coordinates = torch.eye(3)[kinds]
    near = NearLandmarks(features, coordinates, torch.tensor([1.0, 2.0, 4.0])[kinds])
    others = centres + 0.1 * torch.randn(3, 6, generator=draw)
    found = near.coordinates(others)
    torch.testing.assert_close(found, torch.eye(3))
    torch.testing.assert_close(near.weights(others), torch.tensor([1.0, 2.0, 4.0]))
    mixed = near.coordinates(torch.ones(1, 6))
    torch.testing.assert_close(mixed.norm(dim=1), torch.ones(1))


def test_a_side_holds_the_features_of_landmarks_and_reads_all_rows(data: Path) -> None:
    dataset, asked = open_dataset(data), recipe()
    backbone = VectorBackbone("audio", dataset.about("audio"))
    side = read_side(asked, dataset, backbone, announce=False)
    whole = frozen_features(backbone, dataset, "audio", "train")
    large = side.pool.large
    assert large is not None
    assert len(side.pool) == len(large.rows) == ROWS
    assert LANDMARKS <= len(side.ids) == len(side.features) <= LANDMARKS + 60
    assert side.ids == [whole.ids[row] for row in large.landmarks.tolist()]
    assert torch.equal(side.features, whole.features[large.landmarks])
    assert torch.equal(large.rows.take(torch.arange(ROWS)), whole.features)
    assert {f"a{row}" for row in range(60)} <= set(side.ids)  # the known rows


def test_the_steps_draw_from_all_rows_and_the_axes_are_theirs(data: Path) -> None:
    from setclip_cli.training.build import build_training
    from setclip_cli.training.known_pairs import known_pairs, pair_rows

    dataset, asked = open_dataset(data), recipe()
    sides = [
        read_side(asked, dataset, VectorBackbone(name, dataset.about(name)), announce=False)
        for name in paired_vectors.NAMES
    ]
    known = known_pairs(dataset, asked)
    rows = pair_rows(known.pairs, sides[0].ids, sides[1].ids, split="train")
    training = build_training(asked, sides[0].pool, sides[1].pool, rows)
    whole = frozen_features(sides[0].backbone, dataset, "audio", "train")
    expected = FeatureTransform.fit(whole.features, 8)
    torch.testing.assert_close(training.towers[0].transform.axes, expected.axes, atol=2e-6, rtol=1e-5)
    drawn: set[int] = set()
    for step in range(20):
        left, _ = training.batches.draw(step)
        assert len(left["unpaired"].rows.unique()) == 32
        drawn |= set(left["unpaired"].rows.tolist())
        prepared = left["paired"].chunks[0]
        places = [whole.ids.index(pair.left_id) for pair in known.pairs]
        torch.testing.assert_close(
            prepared.sort(0).values, expected(whole.features[places]).sort(0).values, atol=1e-4, rtol=1e-4
        )
    large = sides[0].pool.large
    assert large is not None
    assert drawn - set(large.landmarks.tolist())
    training.advance()


@pytest.mark.parametrize(
    "method", ["set-clip-plus", "set-clip", "clip", "s-clip", "transport", "cca", "asif-graph", "auto"]
)
def test_every_method_aligns_a_large_pool_twice_alike(data: Path, tmp_path: Path, method: str) -> None:
    for name in ("one", "two"):
        align(recipe(method=method), data, tmp_path / name)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def recall(run: Path, data: Path) -> float:
    from setclip_cli.run.model import load_model

    model, dataset = load_model(run), open_dataset(data)
    left, right = (
        model.encoders[name](frozen_features(VectorBackbone(name, dataset.about(name)), dataset, name, "test").features)
        for name in paired_vectors.NAMES
    )
    best = (left @ right.flip(0).T).topk(10, dim=1).indices  # row i of both sides is one item then
    return float((best == torch.arange(ROWS)[:, None]).any(1).float().mean())


@pytest.mark.parametrize("method", ["set-clip-plus", "transport"])
def test_landmarks_find_nearly_as_many_partners_as_all_rows(data: Path, tmp_path: Path, method: str) -> None:
    train = {"steps": 150}
    align(recipe(method=method, train=train), data, tmp_path / "landmarks")
    align(recipe(ROWS, method=method, train=train), data, tmp_path / "all")
    some, every = recall(tmp_path / "landmarks", data), recall(tmp_path / "all", data)
    assert some > 20 * 10 / ROWS  # chance is 10 of all rows
    # Transport learns from pools that hold each other's items. Of the landmarks of one side, 2 in 5 are in the other.
    assert some > (0.8 if method == "set-clip-plus" else 0.5) * every


@pytest.mark.parametrize("method", ["transport", "set-clip-plus"])
def test_rows_without_a_partner_are_not_looked_for_among_landmarks(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """A landmark's partner is rarely a landmark, so nearly all of them would seem to have none."""
    looked: list[int] = []

    def spied(left: torch.Tensor, *given: Any, **more: Any) -> tuple[UnmatchedRows, UnmatchedRows]:
        looked.append(len(left))
        return unmatched_rows(left, *given, **more)

    monkeypatch.setattr(overlap, "unmatched_rows", spied)
    align(recipe(method=method), data, tmp_path / "landmarks")
    assert not looked
    align(recipe(ROWS, method=method), data, tmp_path / "all")
    assert ROWS in looked


def test_validation_and_a_stop_work_and_a_resumed_run_is_the_same(data: Path, tmp_path: Path) -> None:
    asked = recipe(validation={"every": 10}, train={"steps": 30, "checkpoint_every": 10, "keep_checkpoints": 9})
    align(asked, data, tmp_path / "whole")
    align(asked, data, tmp_path / "cut")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "cut" / name).unlink()
    for step in ("20", "30"):
        for path in (tmp_path / "cut" / "checkpoints").glob(f"*{step}*"):
            path.unlink()
    result = align(asked, data, tmp_path / "cut", resume=True)
    assert result.resumed_from == 10
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_walks_start_from_as_many_pairs_as_memory_allows(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert guiding(100_000, 200) == 200
    assert guiding(100_000, 25_000) == 2_684  # 4 bytes x 100,000 x 2,684 are a GiB
    assert guiding(1 << 40, 5) == 1
    monkeypatch.setattr(graph_teacher, "_MOST_VALUES", 20 * ROWS)
    walked: list[torch.Tensor] = []

    def spied(left: torch.Tensor, right: torch.Tensor, pairs: torch.Tensor, **more: Any) -> Any:
        walked.append(pairs)
        return graph_teacher.teacher_coordinates(left, right, pairs, **more)

    monkeypatch.setattr(build, "teacher_coordinates", spied)
    dataset, asked = open_dataset(data), recipe(ROWS)
    align(asked, dataset, tmp_path / "run")
    assert len(walked[0]) == 20 == len(walked[0].unique(dim=0))
    assert "walk from about 20 of the 50 known pairs" in " ".join(plan_align(asked, dataset, tmp_path / "no").notes)


def test_the_plan_says_which_rows_do_what(data: Path, tmp_path: Path) -> None:
    dataset = open_dataset(data)
    notes = " ".join(plan_align(recipe(), dataset, tmp_path / "run").notes)
    assert "audio has 2,400 rows" in notes
    assert "look at 1,000 of them" in notes
    assert "method 'cca' looks at 1,000" in " ".join(plan_align(recipe(method="cca"), dataset, tmp_path / "run").notes)
    assert "landmarks" not in " ".join(plan_align(recipe(ROWS), dataset, tmp_path / "run").notes)


def test_a_file_that_is_cut_short_is_made_again(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset(data)
    backbone = VectorBackbone("audio", dataset.about("audio"))
    rows = open_features(backbone, dataset, "audio", "train", cache_dir=tmp_path)
    before = rows.take(torch.arange(ROWS))
    path = next(file.path for file in rows._files)
    path.write_bytes(path.read_bytes()[:-100])
    again = open_features(backbone, dataset, "audio", "train", cache_dir=tmp_path)
    assert torch.equal(again.take(torch.arange(ROWS)), before)


def test_a_cache_that_takes_nothing_is_told_before_training(data: Path, tmp_path: Path) -> None:
    dataset = open_dataset(data)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "features").write_text("a file, so no folder can be there")
    with pytest.raises(SetClipError, match="features"):
        open_features(
            VectorBackbone("audio", dataset.about("audio")), dataset, "audio", "train", cache_dir=tmp_path / "cache"
        )


def test_a_large_split_is_read_in_blocks_and_gives_the_same_features(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(data)
    backbone = VectorBackbone("audio", dataset.about("audio"))
    ids, blocks = features_in_blocks(backbone, dataset, "audio", "test")
    whole = torch.cat(list(blocks))
    monkeypatch.setattr(frozen, "LARGE_ROWS", 100)
    others, blocks = features_in_blocks(backbone, dataset, "audio", "test")
    assert others == ids
    assert torch.equal(torch.cat(list(blocks)), whole)


PEAK = """
import sys
from pathlib import Path
from setclip_cli.recipe.recipe import load_recipe
from setclip_cli.training import overlap
from setclip_cli.training.align import align
settings = ["method=clip", "pairs=50", "train.steps=20", "train.landmarks=1000", "projection.pca=8"]
align(load_recipe("vectors", settings), sys.argv[1], sys.argv[2])
# not ru_maxrss, which a child takes over from the process that started it
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell the peak of a process")
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    peaks = []
    for rows in (160_000, 640_000):  # the smaller ones fill a block of every pass too
        folder = tmp_path / str(rows)
        folder.mkdir()
        for seed, name in enumerate(("left", "right")):
            values = np.random.default_rng(seed).standard_normal((rows, 128)).astype(np.float32)
            np.save(folder / f"{name}.npy", values)
            (folder / f"{name}.ids").write_text("".join(f"{name}-{row}\n" for row in range(rows)))
        (folder / "pairs.csv").write_text("left,right\n" + "".join(f"left-{n},right-{n}\n" for n in range(50)))
        program = [sys.executable, "-m", "setclip_cli", "ingest"]
        for name in ("left", "right"):
            given = [f"{name}={folder / name}.npy", "--kind", "vector", "--ids", str(folder / f"{name}.ids")]
            subprocess.run([*program, *given, "--out", str(folder / "data")], check=True, capture_output=True)
        pairs = ["--pairs", str(folder / "pairs.csv"), "--out", str(folder / "data")]
        subprocess.run([*program, *pairs], check=True, capture_output=True)
        command = [sys.executable, "-c", PEAK, str(folder / "data"), str(folder / "run")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks.append(int(done.stdout.split()[-2]) / 1024)
    vectors = 2 * 480_000 * 128 * 4 / 2**20  # MiB that the larger pools have more: 469
    assert peaks[1] - peaks[0] < vectors / 2, json.dumps(peaks)
