"""Sources, DATASETs, RUNs, EMBEDDINGS and REPORTs elsewhere, through the commands and through Python."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from small_world import invoke, make_world, run_ok

import setclip_cli as setclip
from setclip_cli.files.atomic import sha256_file


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Proteins, captions, pairs, a DATASET and a recipe on this machine."""
    before = os.environ.get("SETCLIP_CACHE")
    folder = make_world(tmp_path_factory.mktemp("world"))
    if before is not None:
        os.environ["SETCLIP_CACHE"] = before
    return folder


def _sources(s3: Any, world: Path) -> None:
    for name in ("proteins.fasta", "captions.jsonl", "pairs.csv"):
        s3.put("lab", f"raw data/{name}", (world / name).read_bytes())


def test_the_whole_path_on_s3_gives_what_it_gives_on_this_machine(s3: Any, world: Path, tmp_path: Path) -> None:
    _sources(s3, world)
    data = "s3://lab/data/my"
    run_ok(
        "ingest", "protein=s3://lab/raw data/proteins.fasta", "caption=s3://lab/raw data/captions.jsonl",
        "--pairs", "s3://lab/raw data/pairs.csv", "--out", data,
    )  # fmt: skip
    for name in ("protein/train-00000.parquet", "caption/train-00000.parquet", "pairs.parquet"):
        assert s3.get("lab", f"data/my/{name}") == (world / "data" / name).read_bytes()
    index = json.loads(s3.get("lab", "data/my/dataset.json"))
    assert [entry["path"] for entry in index["sources"]] == [
        "s3://lab/raw data/proteins.fasta",
        "s3://lab/raw data/captions.jsonl",
    ]
    assert index["pairs"][0]["from"] == "s3://lab/raw data/pairs.csv"

    recipe = world / "recipe.toml"
    run_ok("align", recipe, "--data", data, "--out", "s3://lab/runs/my", "--set", "method=cca")
    run_ok("embed", "s3://lab/runs/my", data, "--out", "s3://lab/embeddings/my")
    made = json.loads(s3.get("lab", "embeddings/my/embeddings.json"))
    assert (made["run"], made["dataset"]) == ("s3://lab/runs/my", data)
    told = json.loads(
        run_ok(
            "evaluate", "s3://lab/embeddings/my", data, "--split", "train", "--relevance", "pairs",
            "--out", "s3://lab/reports/my", "--json",
        )
    )  # fmt: skip
    assert told["dataset"]["path"] == data
    assert "s3://lab/embeddings/my" in s3.get("lab", "reports/my/report.json").decode()
    found = run_ok("search", "s3://lab/embeddings/my", "a kinase, entry 3")
    assert "P0" in found
    assert "whole" in run_ok("verify", data)

    cache = str(tmp_path / "cache")
    for key in s3.keys("lab"):
        if not key.endswith((".parquet", ".safetensors")):
            assert cache not in s3.get("lab", key).decode(), key
    assert not [key for key in s3.keys("lab") if "/.setclip/" in key or "/.lock" in key or ".ingest" in key]

    (tmp_path / "cache2").mkdir()
    local = run_ok("embed", "s3://lab/runs/my", world / "data", "--out", tmp_path / "e")
    assert "36 rows" in local or "rows" in local
    name = "protein/train-00000.parquet"
    (tmp_path / "there.parquet").write_bytes(s3.get("lab", f"embeddings/my/{name}"))
    assert sha256_file(tmp_path / "there.parquet") == sha256_file(tmp_path / "e" / name)


def test_python_takes_places_in_memory(memory: Any, world: Path) -> None:
    for name in ("proteins.fasta", "captions.jsonl", "pairs.csv"):
        memory.pipe_file(f"/raw/{name}", (world / name).read_bytes())
    from setclip_cli.ingest.ingest import ingest
    from setclip_cli.ingest.options import IngestOptions

    ingest(
        ["protein=memory://raw/proteins.fasta", "caption=memory://raw/captions.jsonl"],
        "memory://data/my",
        IngestOptions(pairs="memory://raw/pairs.csv"),
    )
    data = setclip.open_dataset("memory://data/my")
    assert data.modalities() == ["protein", "caption"]
    recipe = setclip.load_recipe(world / "recipe.toml", ["method=cca"])
    setclip.align(recipe, "memory://data/my", "memory://runs/my")
    from setclip_cli.embedding.embed import embed

    embed("memory://runs/my", "memory://data/my", "memory://embeddings/my")
    report = setclip.evaluate(
        "memory://embeddings/my",
        "memory://data/my",
        "memory://report",
        setclip.EvaluateOptions(split="train", relevance="pairs"),
    )
    assert "protein_to_caption/recall_at_1" in report.metrics
    assert memory.exists("/report/report.html")
    assert setclip.load_model("memory://runs/my").encoders.keys() == {"protein", "caption"}


@pytest.mark.parametrize(
    "words",
    [
        ("ingest", "caption=s3://lab/no", "--out", "OUT"),
        ("ingest", "RECIPE", "--modality", "caption", "--labels", "s3://lab/no", "--out", "OUT"),
        ("ingest", "--verify", "s3://lab/no"),
        ("align", "RECIPE", "--data", "s3://lab/no", "--out", "OUT"),
        ("embed", "--backbone", "esm:esm2_t6_8M_UR50D", "s3://lab/no", "--out", "OUT"),
        ("embed", "s3://lab/no", "DATA", "--out", "OUT"),
        ("evaluate", "s3://lab/no", "DATA", "--out", "OUT"),
        ("search", "s3://lab/no", "words"),
        ("serve", "s3://lab/no", "s3://lab/no"),
        ("export", "s3://lab/no", "--to", "safetensors", "--out", "OUT"),
        ("match", "s3://lab/no", "DATA", "--out", "OUT"),
        ("inspect", "s3://lab/no"),
        ("inspect", "DATA", "--run", "s3://lab/no"),
        ("check-pairs", "s3://lab/no", "--out", "OUT"),
        ("suggest", "s3://lab/no", "--out", "OUT"),
        ("label", "s3://lab/no", "--out", "OUT"),
        ("study", "pairs", "--data", "s3://lab/no", "--out", "OUT"),
        ("verify", "s3://lab/no"),
    ],
    ids=lambda words: "-".join(words[:1]),
)
def test_a_place_that_is_not_there_is_a_plain_error(
    s3: Any, world: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    paths = {"OUT": tmp_path / "out", "DATA": world / "data", "RECIPE": world / "recipe.toml"}
    code, stdout, stderr = invoke(*(paths.get(word, word) for word in words))
    assert (code, stdout) == (3, "")
    assert "s3://lab/no: no such file or folder" in stderr
    assert not (tmp_path / "out").exists()


def test_embed_sends_each_shard_when_it_is_finished_and_another_machine_goes_on(
    s3: Any, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run_ok("align", world / "recipe.toml", "--data", world / "data", "--out", run, "--set", "method=cca")
    out = "s3://lab/e"
    s3.fault = lambda method, path: "AccessDenied" if method == "PUT" and "e/caption/" in path else None
    code, _, stderr = invoke("embed", run, world / "data", "--out", out)
    assert code == 3
    assert "s3://lab/e/caption/train-00000.parquet: cannot be written" in stderr
    assert "e/protein/train-00000.parquet" in s3.keys("lab")
    assert "e/embeddings.json" not in s3.keys("lab")
    code, _, stderr = invoke("search", out, "a kinase")
    assert code == 3
    assert "s3://lab/e: its embedding has not finished" in stderr
    s3.fault = lambda _method, _path: None
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / "another"))
    told = json.loads(run_ok("embed", run, world / "data", "--out", out, "--json"))
    assert (told["made"], told["kept"], told["out"]) == (1, 1, out)
    assert sorted(s3.keys("lab")) == [
        "e/caption/train-00000.parquet",
        "e/embeddings.json",
        "e/protein/train-00000.parquet",
    ]
    run_ok("embed", run, world / "data", "--out", tmp_path / "here")
    for name in ("caption", "protein"):
        here = (tmp_path / "here" / name / "train-00000.parquet").read_bytes()
        assert s3.get("lab", f"e/{name}/train-00000.parquet") == here


def test_embed_copies_only_the_shards_that_it_embeds(s3: Any, world: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_ok("align", world / "recipe.toml", "--data", world / "data", "--out", run, "--set", "method=cca")
    s3.upload("lab", world / "data", "d")
    s3.asked.clear()
    run_ok("embed", run, "s3://lab/d", "--modality", "caption", "--out", tmp_path / "e")
    assert s3.gets("d/protein/") == []
    assert len(s3.gets("d/caption/")) == 1
    run_ok("embed", run, "s3://lab/d", "--out", tmp_path / "e")  # the rest of the same copy
    assert (len(s3.gets("d/protein/")), len(s3.gets("d/caption/"))) == (1, 1)


def test_a_dry_run_looks_at_a_place_and_writes_nothing(s3: Any, world: Path) -> None:
    told = run_ok("align", world / "recipe.toml", "--data", world / "data", "--out", "s3://lab/runs/x", "--dry-run")
    assert "s3://lab/runs/x" in told or "rows" in told
    assert s3.keys("lab") == []


def test_what_takes_no_place_says_so(world: Path) -> None:
    code, _, stderr = invoke("label", world / "data", "--out", "s3://lab/labels")
    assert code == 2
    assert "--out s3://lab/labels: must be on this machine" in stderr
    with pytest.raises(setclip.SetClipError, match="must be on this machine"):
        setclip.load_recipe("s3://lab/recipe.toml")
