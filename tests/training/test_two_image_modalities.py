"""Two modalities of images with names of their own, optical and radar: from ingest to a report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from small_world import run_ok

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.embedding.embeddings import open_embeddings
from setclip_cli.run.config import load_config
from setclip_cli.run.model import load_model

rasterio = pytest.importorskip("rasterio", reason="the extra [geo] is not installed")

SENTINEL = Path(__file__).parents[1] / "fixtures" / "sentinel2_six_bands.tif"


def write_radar(path: Path) -> None:
    """Two bands of float32 in decibels, with nodata, as radar backscatter is: made from the short-wave infrared of the
    scene, since there is no radar scene here."""
    with rasterio.open(SENTINEL) as scene:
        samples = (10 * np.log10(scene.read([5, 6]) / 1e5)).astype("float32")
        profile = {**scene.profile, "count": 2, "dtype": "float32", "nodata": -99.0, "predictor": 1}
    samples[:, :5, :5] = -99
    with rasterio.open(path, "w", **profile) as out:
        out.write(samples)
        out.descriptions = ("VV", "VH")


@pytest.mark.slow
def test_optical_and_radar_tiles_are_aligned_and_find_each_other(tmp_path: Path, tiny_timm: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    (tmp_path / "radar").mkdir()
    (tmp_path / "optical").mkdir()
    write_radar(tmp_path / "radar" / "scene.tif")
    (tmp_path / "optical" / "scene.tif").write_bytes(SENTINEL.read_bytes())
    common = ("--kind", "image", "--bands", "all", "--tile", 32, "--split", "train=0.7,test=0.3", "--out", data)
    run_ok("ingest", tmp_path / "optical", "--modality", "optical", *common)
    run_ok("ingest", tmp_path / "radar", "--modality", "sar", *common)
    ids = [f"scene.tif#{left}_{top}" for top in range(0, 128, 32) for left in range(0, 192, 32)]
    lines = ["left_modality,left_id,right_modality,right_id", *(f"optical,{each},sar,{each}" for each in ids)]
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    run_ok("ingest", "--pairs", tmp_path / "pairs.csv", "--out", data)
    (tmp_path / "recipe.toml").write_text(
        f"""
        schema_version = 2
        method = "cca"
        [towers.optical]
        backbone = "timm:{tiny.TINY_TIMM}"
        weights = {str(tiny_timm)!r}
        in_chans = "auto"
        [towers.sar]
        backbone = "timm:{tiny.TINY_TIMM}"
        weights = {str(tiny_timm)!r}
        in_chans = 2
        """
    )
    run_ok("align", tmp_path / "recipe.toml", "--data", data, "--out", run)
    towers = load_config(run).towers
    assert list(towers) == ["optical", "sar"]
    assert [len(tower.bands.mean) for tower in towers.values() if tower.bands] == [6, 2]
    assert towers["sar"].bands is not None
    assert all(-25 < mean < -15 for mean in towers["sar"].bands.mean)
    run_ok("embed", run, data, "--out", tmp_path / "emb")
    tile = open_dataset(data).table("sar", None, ["id", "image"]).to_pylist()[0]
    (tmp_path / "tile.tif").write_bytes(tile["image"])
    query = ("search", tmp_path / "emb", tmp_path / "tile.tif", "--as", "sar", "--json")
    found = json.loads(run_ok(*query))
    assert (found["query_modality"], found["modality"]) == ("sar", "optical")
    itself = json.loads(run_ok(*query, "--in", "sar", "--sheet", tmp_path / "sheet.png"))["hits"][0]
    assert (itself["id"], itself["score"]) == (tile["id"], pytest.approx(1, abs=1e-5))
    embedded = open_embeddings(tmp_path / "emb").load("sar")
    row = embedded.ids.index(tile["id"])
    np.testing.assert_allclose(load_model(run).embed(sar=[tile["image"]])[0], embedded.embeddings[row], atol=1e-5)
    evaluated = json.loads(run_ok("evaluate", run, data, "--split", "test", "--out", tmp_path / "report", "--json"))
    assert "optical_to_sar/map" in json.dumps(evaluated)
    assert (tmp_path / "report" / "report.html").read_text().count("data:image/jpeg") >= 2
