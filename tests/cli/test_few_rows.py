"""The commands on the smallest data: one item of each kind, one known pair, one row to search, one seed."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from small_world import align, invoke, make_world, run_ok
from tiny import esm2_checkpoint

from setclip_cli.recipe.presets import PAIRS_NEEDED


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One protein and one caption, which are a pair."""
    world = make_world(tmp_path_factory.mktemp("few"))
    small = world / "small"
    small.mkdir()
    (small / "one.fasta").write_text((world / "proteins.fasta").read_text().split(">")[1].join([">", ""]))
    (small / "one.jsonl").write_text((world / "captions.jsonl").read_text().splitlines()[0] + "\n")
    (small / "pairs.csv").write_text("\n".join((world / "pairs.csv").read_text().splitlines()[:2]) + "\n")
    data = small / "data"
    run_ok("ingest", small / "one.fasta", "--modality", "protein", "--out", data)
    run_ok("ingest", small / "one.jsonl", "--modality", "caption", "--pairs", small / "pairs.csv", "--out", data)
    (small / "recipe.toml").write_text((world / "recipe.toml").read_text())
    return world


@pytest.mark.parametrize("method", sorted(PAIRS_NEEDED))
@pytest.mark.parametrize("pairs", ["1", "0.01", "all"])
def test_a_method_refuses_one_pair_before_anything_is_trained(
    few: Path, tmp_path: Path, method: str, pairs: str
) -> None:
    world = few / "small" if pairs == "all" else few  # one pair in the data, or one asked for
    code, _, stderr = align(world, tmp_path / "run", "--set", f"method={method}", "--set", f"pairs={pairs}")
    assert code == 2
    assert "needs 2 or more" in stderr
    assert "set-clip-plus" in stderr
    assert "fix:" in stderr
    assert not (tmp_path / "run").exists()


def test_one_row_a_side_goes_through_every_command(few: Path, tmp_path: Path) -> None:
    world = few / "small"
    code, _, stderr = align(world, tmp_path / "run", "--set", "train.steps=3")
    assert code == 0
    assert "protein has 1 row: nothing on that side can be told apart" in stderr
    code, _, stderr = invoke(
        *("evaluate", tmp_path / "run", world / "data", "--out", tmp_path / "report"),
        *("--split", "train", "--relevance", "pairs"),
    )
    assert code == 0
    for method in ("clip", "asif", "cca", "procrustes"):
        assert f"{method} could not be aligned: " in stderr
    assert "needs 2 or more of different items" in stderr
    assert "WARNING: run: the rows of split train were used for training too" in stderr
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert "cca could not be aligned" in report["baselines_left_out"]
    assert report["methods"][0]["metrics"]["protein_to_caption/recall_at_10"]["mean"] == 1.0  # beyond the gallery
    run_ok("embed", tmp_path / "run", world / "data", "--out", tmp_path / "embeddings")
    found = json.loads(
        run_ok("search", tmp_path / "embeddings", "a kinase", "--as", "caption", "--top", "50", "--json")
    )
    assert [hit["rank"] for hit in found["hits"]] == [1]


def test_a_study_of_one_seed_and_one_row_has_a_table(few: Path, tmp_path: Path) -> None:
    world = few / "small"
    (world / "study.toml").write_text(
        'schema_version = 1\ntitle = "one"\nrecipe = "recipe.toml"\nsplit = "train"\nrelevance = "pairs"\nseeds = 1\n'
        'metrics = ["protein_to_caption/map"]\n[axes]\n"train.steps" = [2, 3]\n'
    )
    run_ok("study", world / "study.toml", "--data", world / "data", "--out", tmp_path / "study")
    assert "| 1.000 |" in (tmp_path / "study" / "study.md").read_text()


def test_early_stopping_on_one_validation_row_and_pair_stops_or_goes_on(few: Path, tmp_path: Path) -> None:
    small = few / "small"
    data = tmp_path / "data"
    run_ok("ingest", few / "proteins.fasta", "--modality", "protein", "--out", data)
    run_ok("ingest", few / "captions.jsonl", "--modality", "caption", "--pairs", few / "pairs.csv", "--out", data)
    fasta = small / "held.fasta"
    fasta.write_text(">V1 some kinase\nGKKLVACDWWWYGKKLV\n")
    held = small / "held.jsonl"
    held.write_text('{"id": "v1", "text": "a held-out kinase", "label": "kinase"}\n')
    pairs = small / "held.csv"
    pairs.write_text("left_modality,left_id,right_modality,right_id\nprotein,V1,caption,v1\n")
    run_ok("ingest", fasta, "--modality", "protein", "--split", "val", "--out", data)
    run_ok("ingest", held, "--modality", "caption", "--split", "val", "--pairs", pairs, "--out", data)
    code, _, stderr = invoke(
        *("align", few / "recipe.toml", "--data", data, "--out", tmp_path / "run", "--set", "train.steps=6"),
        *("--set", "validation.every=2", "--set", "validation.patience=1"),
    )
    assert code == 0, stderr
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["validation/recall_at_1"] == 1.0


def test_rows_whose_embedding_is_zero_are_left_out_and_listed(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backbone that gives zeros for some rows: `embed` writes the others, and training says which rows they are."""
    faiss = pytest.importorskip("faiss")
    from setclip_cli.backbones.esm2 import Esm2Backbone

    encode = Esm2Backbone.encode

    def spoiled(self: Esm2Backbone, items: list[str]) -> object:
        encoded = encode(self, items)
        encoded.features[1] = 0
        encoded.features[3, 0] = float("nan")
        return encoded

    monkeypatch.setattr(Esm2Backbone, "encode", spoiled)
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / "cache"))
    backbone = ("--backbone", "esm:esm2_t6_8M_UR50D", "--weights", esm2_checkpoint(tmp_path))
    out = tmp_path / "embeddings"
    found = json.loads(
        run_ok("embed", *backbone, few / "data", "--out", out, "--max-bad-fraction", "0.5", "--json", "--faiss")
    )
    assert found["rows"] == 34
    assert set(found["bad"].values()) == {
        "its embedding is zero in float32",
        "its embedding is not finite in float32",
    }
    assert sum(pq.read_table(path).num_rows for path in (out / "protein").glob("*.parquet")) == 34
    assert faiss.read_index(str(out / "protein" / "train.faiss")).ntotal == 34
    code, _, stderr = align(few, tmp_path / "run", "--set", f"towers.protein.weights={backbone[3]}")
    assert code == 3
    assert "gives 2 of 36 rows a feature vector that is zero" in stderr
    assert not (tmp_path / "run" / "config.json").exists()
