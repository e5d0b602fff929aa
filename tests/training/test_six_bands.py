"""A scene of six bands from ingest to an aligned RUN, and what a RUN of six bands refuses."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image
from small_world import invoke, run_ok

from setclip_cli.dataset.band_scale import band_scale
from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.embedding.embeddings import open_embeddings
from setclip_cli.errors import SetClipError
from setclip_cli.run.config import load_config
from setclip_cli.run.model import load_model

rasterio = pytest.importorskip("rasterio", reason="the extra [geo] is not installed")

SENTINEL = Path(__file__).parents[1] / "fixtures" / "sentinel2_six_bands.tif"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_timm: Path, tiny_sentence: Path) -> Path:
    """A DATASET of tiles and captions, a recipe for it, and a finished RUN."""
    folder = tmp_path_factory.mktemp("bands")
    data = folder / "data"
    captions = [
        json.dumps({"text": f"tile in row {top} and column {left}", "group": f"{SENTINEL.name}#{left}_{top}"})
        for top in range(0, 128, 32)
        for left in range(0, 192, 32)
    ]
    (folder / "captions.jsonl").write_text("\n".join(captions) + "\n")
    split = ("--split", "train=0.7,test=0.3")
    run_ok("ingest", SENTINEL, "--modality", "image", "--bands", "all", "--tile", 32, *split, "--out", data)
    captions_too = ("--modality", "caption", "--pairs-from-group", *split, "--out", data)
    run_ok("ingest", folder / "captions.jsonl", *captions_too)
    (folder / "recipe.toml").write_text(
        f"""
        schema_version = 2
        method = "set-clip"
        projection = {{ dim = 8, pca = 6 }}
        train = {{ steps = 3, batch = 8, pairs_per_batch = 4 }}
        [towers.image]
        backbone = "timm:{tiny.TINY_TIMM}"
        weights = {str(tiny_timm)!r}
        in_chans = 6
        [towers.caption]
        backbone = "sentence-transformers:all-MiniLM-L6-v2"
        weights = {str(tiny_sentence)!r}
        """
    )
    run_ok("align", folder / "recipe.toml", "--data", data, "--out", folder / "run")
    return folder


def test_a_scene_goes_from_ingest_to_a_report_with_pictures(world: Path, tmp_path: Path) -> None:
    data, run = open_dataset(world / "data"), world / "run"
    tower = load_config(run).towers["image"]
    assert tower.bands is not None
    assert f"The image tower reads images of {tower.bands.in_words()}." in (run / "README.md").read_text()
    assert tower.bands == band_scale(data, "image", "train") != band_scale(data, "image", None)
    run_ok("embed", run, data.root, "--out", tmp_path / "emb")
    rows = data.table("image", None, ["id", "image"]).to_pylist()
    embedded = open_embeddings(tmp_path / "emb").load("image")
    contents = {row["id"]: row["image"] for row in rows}
    (tmp_path / "tile.tif").write_bytes(contents[embedded.ids[1]])
    images = [contents[embedded.ids[0]], tmp_path / "tile.tif"]
    found = load_model(run).embed(images=images)
    np.testing.assert_allclose(found, embedded.embeddings[:2], atol=1e-5)
    with_sheet = ("--in", "image", "--sheet", tmp_path / "found.png", "--json")
    hits = json.loads(run_ok("search", tmp_path / "emb", tmp_path / "tile.tif", *with_sheet))["hits"]
    assert hits[0]["id"] == embedded.ids[1]
    assert hits[0]["score"] == pytest.approx(1, abs=1e-5)
    assert (tmp_path / "found.png").is_file()
    run_ok("evaluate", run, data.root, "--split", "test", "--relevance", "group", "--out", tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    first = re.search(r"data:image/jpeg;base64,([^\"]+)", page)
    assert first
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(first[1]))), dtype=float)
    assert 50 < shown.mean() < 200
    assert np.abs(shown[:, :, 0] - shown[:, :, 2]).mean() > 5  # colours, not one band in grey


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ((), ""),
        (("towers.image.in_chans=13",), "in_chans = 13: the image rows of .* are images of 6 bands"),
        (("towers.image.in_chans=3",), "in_chans = 3: the image rows of .* are images of 6 bands"),
        (("towers.image.in_chans=auto", "towers.image.band_scale=10000"), ""),
        (("towers.caption.in_chans=6",), "towers.caption.in_chans: 'sentence-transformers:.*' does not read"),
        (("towers.image.in_chans=0",), "in_chans"),
    ],
)
def test_the_bands_of_the_recipe_and_of_the_rows_are_compared_before_training(
    world: Path, tmp_path: Path, change: tuple[str, ...], said: str
) -> None:
    settings = [part for one in change for part in ("--set", one)]
    recipe = ("align", world / "recipe.toml", "--data", world / "data", "--out", tmp_path / "run", *settings)
    code, _, errors = invoke(*recipe, "--dry-run")
    assert (code == 0) == (not said), errors
    assert re.search(said, errors.replace("\n", " "))


def test_rows_of_bands_without_in_chans_and_pictures_with_it_are_refused_with_the_way_out(
    world: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text((world / "recipe.toml").read_text().replace("in_chans = 6", ""))
    command = ("align", recipe, "--data", world / "data", "--out", tmp_path / "run", "--dry-run")
    code, _, errors = invoke(*command)
    assert code != 0
    assert "images of 6 bands" in errors
    assert "--set towers.image.in_chans=6" in errors
    assert invoke(*command, "--set", "towers.image.in_chans=auto")[0] == 0
    pictures = tmp_path / "pictures"
    run_ok("ingest", SENTINEL, "--modality", "image", "--bands", "3,2,1", "--tile", 32, "--out", pictures)
    run_ok("ingest", world / "captions.jsonl", "--modality", "caption", "--out", pictures)
    code, _, errors = invoke("align", world / "recipe.toml", "--data", pictures, "--out", tmp_path / "run", "--dry-run")
    assert code != 0
    assert "are pictures of three colours, not images of bands" in errors


@pytest.mark.parametrize("bands", ["1,2", "3,2,1"])
def test_a_run_refuses_rows_and_queries_of_another_number_of_bands(world: Path, tmp_path: Path, bands: str) -> None:
    other = tmp_path / "other"
    split = ("--split", "train=0.7,test=0.3")
    run_ok("ingest", SENTINEL, "--modality", "image", "--bands", bands, "--tile", 32, *split, "--out", other)
    captions = ("--modality", "caption", "--pairs-from-group", *split, "--out", other)
    run_ok("ingest", world / "captions.jsonl", *captions)
    found = "images of 2 bands" if bands == "1,2" else "pictures of three colours"
    for command in (("embed", world / "run", other), ("evaluate", world / "run", other, "--split", "test")):
        code, _, errors = invoke(*command, "--out", tmp_path / "out")
        assert code != 0
        said = f"its image rows are {found}, and the image tower reads images of 6 bands"
        assert said in errors.replace("\n", " ")
    with pytest.raises(SetClipError, match="images of 6 bands, and this is a picture"):
        load_model(world / "run").embed(images=[tiny.jpeg(0)])


def test_features_without_a_run_take_the_bands_and_the_scale_of_the_rows(
    world: Path, tmp_path: Path, tiny_timm: Path
) -> None:
    command = ("embed", "--backbone", f"timm:{tiny.TINY_TIMM}", "--weights", tiny_timm, world / "data")
    run_ok(*command, "--out", tmp_path / "emb")
    rows = open_dataset(world / "data").table("image", None, ["id", "image"]).to_pylist()
    (tmp_path / "tile.tif").write_bytes(rows[3]["image"])
    hits = json.loads(run_ok("search", tmp_path / "emb", tmp_path / "tile.tif", "--json"))["hits"]
    assert (hits[0]["id"], hits[0]["score"]) == (rows[3]["id"], pytest.approx(1, abs=1e-5))


@pytest.mark.slow
def test_a_tuned_tower_reads_bands_and_a_later_run_starts_from_it_with_its_scale(world: Path, tmp_path: Path) -> None:
    settings = ("--set", "towers.image.trainable=last-1", "--set", "train.steps=2")
    recipe = ("align", world / "recipe.toml", "--data", world / "data")
    run_ok(*recipe, "--out", tmp_path / "tuned", *settings)
    more = ("--bands", "all", "--tile", 64, "--split", "train")
    run_ok("ingest", SENTINEL, "--modality", "image", *more, "--keep-duplicates", "--out", tmp_path / "other")
    run_ok("ingest", world / "captions.jsonl", "--modality", "caption", "--out", tmp_path / "other")
    start = ("--set", f"init_from={tmp_path / 'tuned'}", "--set", "pairs=0")
    run_ok(*recipe[:2], "--data", tmp_path / "other", "--out", tmp_path / "later", *settings, *start)
    tuned, later = (load_config(tmp_path / name).towers["image"] for name in ("tuned", "later"))
    assert tuned.bands == later.bands != band_scale(open_dataset(tmp_path / "other"), "image", "train")
    assert load_model(tmp_path / "later").embed(images=[SENTINEL]).shape == (1, 8)


@pytest.mark.slow
def test_the_best_layer_adapters_and_views_work_with_bands(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    weights = tiny.timm_weights(tmp_path_factory.mktemp("vit"), "test_vit.r160_in1k")
    data = tmp_path / "data"
    lines = ["left_modality,left_id,right_modality,right_id"]
    for modality, bands in (("optical", "1,2,3,4"), ("infrared", "5,6")):
        kind = ("--modality", modality, "--kind", "image", "--bands", bands)
        run_ok("ingest", SENTINEL, *kind, "--tile", 16, "--out", data)
    ids = open_dataset(data).table("optical", None, ["id"])["id"].to_pylist()
    (tmp_path / "pairs.csv").write_text("\n".join([*lines, *(f"optical,{each},infrared,{each}" for each in ids)]))
    run_ok("ingest", "--pairs", tmp_path / "pairs.csv", "--out", data)
    towers = "".join(
        f"""
        [towers.{modality}]
        backbone = "timm:test_vit.r160_in1k"
        weights = {str(weights)!r}
        in_chans = "auto"
        {more}
        """
        for modality, more in (
            ("optical", 'layer = "best"'),
            ("infrared", 'trainable = "lora"\n        pooling = "avg"'),
        )
    )
    (tmp_path / "recipe.toml").write_text(
        f"""
        schema_version = 2
        method = "set-clip"
        train = {{ steps = 2, batch = 8, pairs_per_batch = 4 }}
        objective = {{ self_supervised = {{ views = 1 }} }}
        {towers}
        """
    )
    run_ok("align", tmp_path / "recipe.toml", "--data", data, "--out", tmp_path / "run")
    config = load_config(tmp_path / "run")
    assert config.layer_choice is not None
    model = load_model(tmp_path / "run")
    rows = open_dataset(data).table("infrared", None, ["image"])["image"].to_pylist()[:2]
    found = model.embed(infrared=rows)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
