"""Videos through all commands: ingest, inspect, align, embed, evaluate, search with a sheet, suggest, label page."""

from __future__ import annotations

import base64
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rendered_videos import BLUE, GREEN, RED, dated_tiles, even, render
from small_world import invoke, run_ok
from tiny import TINY_TIMM, sentence_folder, timm_weights

import setclip_cli as setclip
from setclip_cli.embedding.embeddings import open_embeddings
from setclip_cli.embedding.vectors import unit_vectors
from setclip_cli.web.rows import Rows

pytest.importorskip("av")
pytestmark = pytest.mark.slow

COLOURS = {"red": RED, "green": GREEN, "blue": BLUE}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    os.environ["SETCLIP_CACHE"] = str(folder / "cache")
    captions, pairs = [], ["video,caption"]
    for number in range(36):
        name = [*COLOURS][number % 3]
        split = "test" if number >= 27 else "train"
        if number % 2:
            identifier = f"{split}/{name}/{number}.mp4"
            render(folder / "clips" / identifier, times=even(6 + number), colour=COLOURS[name])
        else:
            identifier = f"{split}/{name}/{number}"
            dated_tiles(folder / "clips" / identifier, [10, 50 + number, 100 + number, 250], colour=COLOURS[name])
        captions.append(json.dumps({"id": f"c{number}", "text": f"a {name} film, {number}", "split": split}))
        if not 18 <= number < 27:  # nine items whose partners nobody has named
            pairs.append(f"{identifier},c{number}")
    (folder / "captions.jsonl").write_text("\n".join(captions) + "\n")
    (folder / "pairs.csv").write_text("\n".join(pairs) + "\n")
    data = folder / "data"
    run_ok("ingest", folder / "clips", "--modality", "video", "--frames", "4", "--out", data)
    run_ok("ingest", folder / "captions.jsonl", "--modality", "caption", "--pairs", folder / "pairs.csv", "--out", data)
    (folder / "recipe.toml").write_text(
        f"""
        schema_version = 2
        method = "set-clip-plus"
        projection = {{ dim = 16, pca = 8 }}
        train = {{ steps = 30, batch = 12, checkpoint_every = 10 }}
        [towers.video]
        backbone = "timm:{TINY_TIMM}"
        weights = {str(timm_weights(folder / "timm"))!r}
        pooling = "attention"
        [towers.caption]
        backbone = "sentence-transformers:all-MiniLM-L6-v2"
        weights = {str(sentence_folder(folder / "text"))!r}
        """
    )
    run_ok("align", folder / "recipe.toml", "--data", data, "--out", folder / "run")
    run_ok("embed", folder / "run", data, "--out", folder / "embeddings")
    return folder


def test_the_run_reads_videos_and_says_how(world: Path) -> None:
    model = setclip.load_model(world / "run")
    tower = model.config.towers["video"]
    assert (tower.kind, tower.pooling) == ("video", "attention")
    assert "clip.mp4" in (world / "run" / "README.md").read_text()
    clip = world / "clips" / "test" / "green" / "28"
    embedded = model.embed(video=[world / "clips" / "test" / "blue" / "29.mp4", str(clip)])
    stored = open_embeddings(world / "embeddings")
    ids = [name for shard in stored.shards("video") for name in stored.read(shard, ["id"])["id"].to_pylist()]
    row = np.asarray(unit_vectors(stored, "video", None))[ids.index("test/green/28")]
    assert np.allclose(embedded[1], row, atol=1e-4)  # four tiles, of which ingest took all
    row = np.asarray(unit_vectors(stored, "video", None))[ids.index("test/blue/29.mp4")]
    assert np.allclose(embedded[0], row, atol=1e-4)  # four frames, as ingest took


def test_evaluate_shows_frames(world: Path) -> None:
    run_ok("evaluate", world / "run", world / "data", "--out", world / "report", "--split", "test")
    report = json.loads((world / "report" / "report.json").read_text())
    assert "video_to_caption/recall_at_1" in json.dumps(report)
    assert (world / "report" / "report.html").read_text().count("data:image/jpeg;base64,") > 3


def test_search_by_words_and_by_a_video(world: Path) -> None:
    sheet = world / "sheet.png"
    run_ok("search", world / "embeddings", "a red film", "--in", "video", "--top", "5", "--sheet", sheet)
    assert len(np.unique(np.asarray(Image.open(sheet)))) > 20
    found = run_ok("search", world / "embeddings", world / "clips" / "test" / "blue" / "29.mp4", "--json")
    assert json.loads(found)["query_modality"] == "video"
    found = run_ok("search", world / "embeddings", world / "clips" / "test" / "green" / "28", "--json")
    assert json.loads(found)["query_modality"] == "video"


def test_raw_features_of_frames(world: Path) -> None:
    arguments = ("--backbone", f"timm:{TINY_TIMM}", "--weights", world / "timm" / f"{TINY_TIMM}.safetensors")
    run_ok("embed", *arguments, world / "data", "--out", world / "raw", "--pooling", "attention")
    assert unit_vectors(open_embeddings(world / "raw"), "video", None).shape == (36, 512)


@pytest.mark.parametrize("of_run", [True, False])
def test_a_query_has_as_many_frames_as_the_rows(world: Path, of_run: bool, tmp_path: Path) -> None:
    """Of a folder of 40 tiles and of a clip that ingest took with --frames 4: the row itself is the nearest, at 1."""
    folder = tmp_path / "tiles" / "many"
    dated_tiles(folder, [*range(0, 60, 2), *range(200, 250, 5)])  # dark tiles, and fewer bright ones
    run_ok("ingest", tmp_path / "tiles", "--modality", "video", "--frames", "3", "--out", tmp_path / "data")
    clip = world / "clips" / "test" / "blue" / "29.mp4"
    run_ok("ingest", clip, "--modality", "video", "--frames", "3", "--out", tmp_path / "data")
    arguments = ("--backbone", f"timm:{TINY_TIMM}", "--weights", world / "timm" / f"{TINY_TIMM}.safetensors")
    made_by = (world / "run",) if of_run else arguments  # which was trained with 4
    run_ok("embed", *made_by, tmp_path / "data", "--out", tmp_path / "embeddings")
    for query, row in [(clip, "29.mp4"), (folder, "many")]:
        found = json.loads(run_ok("search", tmp_path / "embeddings", query, "--as", "video", "--in", "video", "--json"))
        assert (found["hits"][0]["id"], round(found["hits"][0]["score"], 5)) == (row, 1.0)


def test_pages_show_frames(world: Path) -> None:
    run_ok("inspect", world / "data", "--recipe", world / "recipe.toml", "--out", world / "inspected")
    run_ok("suggest", world / "data", "--run", world / "run", "--side", "video", "--out", world / "suggested")
    page = (world / "suggested" / "suggest.html").read_text()
    encoded = page.partition("data:image/jpeg;base64,")[2].partition('"')[0]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")).astype(int).max(axis=2)
    height, width = picture.shape
    first, last = picture[height // 4, width // 4], picture[3 * height // 4, 3 * width // 4]
    assert last > first + 100  # frames in the order of time, which get brighter


def test_the_label_page_shows_frames_and_how_long_they_last(world: Path) -> None:
    rows = Rows(setclip.open_dataset(world / "data"), "video", "test")
    row = rows.row_of["test/green/28"]
    assert rows.shown(row)["size"] == "40 × 32, 240 days"
    assert rows.shown(rows.row_of["test/blue/29.mp4"])["size"] == "64 × 48, 2.6 s"
    assert Image.open(io.BytesIO(rows.picture(row, "small"))).size == (80, 64)


def test_export_writes_a_graph_that_reads_frames(world: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    run_ok("export", world / "run", "--to", "onnx", "--data", world / "data", "--out", world / "onnx")
    described = json.loads((world / "onnx" / "preprocessing.json").read_text())["towers"]["video"]
    assert described["inputs"]["pixel_values"]["shape"][:3] == ["videos", "frames", 3]
    assert (described["kind"], described["frames"], described["pooling"]) == ("video", 4, "attention")
    model = setclip.load_model(world / "run")
    videos = setclip.open_dataset(world / "data").table("video")["frames"].to_pylist()
    session = onnxruntime.InferenceSession(str(world / "onnx" / "video.onnx"))
    for count in (1, 3, 4):  # frames; the command checked with others
        given = [frames[-count:] for frames in videos[:5]]
        pixels = model.load_backbone("video").prepare(given).pixels.unflatten(0, (5, count)).numpy()
        found = session.run(None, {"pixel_values": pixels})[0]
        np.testing.assert_allclose(found, model.embed(video=given), atol=1e-4)


def test_what_cannot_read_videos_is_not_written_and_the_heads_are(world: Path) -> None:
    code, _, stderr = invoke("export", world / "run", "--out", world / "sentence")
    assert (code, "its video tower reads videos" in stderr, "--to onnx" in stderr) == (2, True, True)
    run_ok("export", world / "run", "--to", "safetensors", "--out", world / "heads")


def test_a_tuned_tower_trains_on_frames(world: Path) -> None:
    run_ok(
        *("align", world / "recipe.toml", "--data", world / "data", "--out", world / "tuned"),
        *("--set", "towers.video.trainable=last-1", "--set", "train.steps=2", "--set", "train.batch=6"),
    )
    assert setclip.load_model(world / "tuned").config.towers["video"].tuned_sha256
