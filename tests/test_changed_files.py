"""No command uses a file of ours that has changed since it was written: it names it, or makes it again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_world import align, invoke, make_world, run_ok

RECIPE_SETTINGS = ("--set", "train.steps=4", "--set", "train.checkpoint_every=2")
STUDY = """
schema_version = 1
title = "Methods"
recipe = "recipe.toml"
seeds = 1
split = "train"
relevance = "pairs"
metrics = ["protein_to_caption/map"]

[axes]
method = ["cca"]
pairs = [6]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DATASET, a RUN, EMBEDDINGS and a study, with their caches."""
    world = make_world(tmp_path_factory.mktemp("made"))
    code, _, stderr = align(world, world / "run", *RECIPE_SETTINGS)
    assert code == 0, stderr
    run_ok("embed", world / "run", world / "data", "--out", world / "embeddings")
    run_ok("search", world / "embeddings", "kinase", "--as", "caption")
    (world / "study.toml").write_text(STUDY)
    run_ok("study", world / "study.toml", "--data", world / "data", "--out", world / "study")
    return world


@pytest.fixture
def world(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to spoil; its cache too. embeddings.json still names the RUN and DATASET of the original."""
    copy = shutil.copytree(made, tmp_path / "copy")
    monkeypatch.setenv("SETCLIP_CACHE", str(copy / "cache"))
    return copy


def flip(path: Path, at: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[min(int(at * len(content)), len(content) - 1)] ^= 4
    path.write_bytes(content)


ALIGN_AGAIN = ("align", "recipe.toml", "--data", "data", "--out", "run", *RECIPE_SETTINGS)
RESUME = (*ALIGN_AGAIN, "--set", "train.steps=6", "--resume")
ALIGN = ("align", "recipe.toml", "--data", "data", "--out", "new", *RECIPE_SETTINGS)
EMBED = ("embed", "run", "data", "--out", "new")
EVALUATE = (
    "evaluate",
    "run",
    "data",
    "--out",
    "new",
    "--split",
    "train",
    "--relevance",
    "pairs",
    "--baselines",
    "none",
)
EVALUATE_EMBEDDINGS = (EVALUATE[0], "embeddings", *EVALUATE[2:])
SEARCH = ("search", "embeddings", "kinase", "--as", "caption", "--run", "run", "--data", "data")
STUDY_NEW = ("study", "study.toml", "--data", "data", "--out", "new")

CHANGED = [
    ("data/protein/train-00000.parquet", ALIGN),
    ("data/protein/train-00000.parquet", EMBED),
    ("data/protein/train-00000.parquet", EVALUATE),
    ("data/protein/train-00000.parquet", EVALUATE_EMBEDDINGS),
    ("data/protein/train-00000.parquet", SEARCH),
    ("data/protein/train-00000.parquet", STUDY_NEW),
    ("data/caption/train-00000.parquet", EVALUATE_EMBEDDINGS),
    ("data/pairs.parquet", ALIGN),
    ("data/pairs.parquet", EVALUATE),
    ("data/dataset.json", ALIGN),
    ("data/dataset.json", EMBED),
    ("data/dataset.json", EVALUATE_EMBEDDINGS),
    ("data/dataset.json", SEARCH),
    ("run/config.json", EMBED),
    ("run/config.json", EVALUATE),
    ("run/config.json", SEARCH),
    ("run/config.json", ALIGN_AGAIN),
    ("run/model.safetensors", EMBED),
    ("run/model.safetensors", EVALUATE),
    ("run/model.safetensors", SEARCH),
    ("run/model.safetensors", ALIGN_AGAIN),
    ("run/model.safetensors", RESUME),
    ("run/model.safetensors", (*ALIGN, "--set", "init_from='run'")),
    ("run/initial.safetensors", EVALUATE),
    ("run/recipe.toml", EVALUATE),
    ("run/metrics.jsonl", RESUME),
    ("run/checkpoints/step-00000004.safetensors", RESUME),
    ("embeddings/embeddings.json", EVALUATE_EMBEDDINGS),
    ("embeddings/embeddings.json", SEARCH),
    ("embeddings/protein/train-00000.parquet", EVALUATE_EMBEDDINGS),
    ("embeddings/protein/train-00000.parquet", SEARCH),
    ("embeddings/caption/train-00000.parquet", EVALUATE_EMBEDDINGS),
    ("study/runs/*/model.safetensors", ("study", "study.toml", "--data", "data", "--out", "study")),
]


@pytest.mark.parametrize(("name", "command"), CHANGED, ids=lambda value: value if isinstance(value, str) else value[0])
def test_a_changed_byte_ends_a_command_that_uses_the_file(
    world: Path, monkeypatch: pytest.MonkeyPatch, name: str, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(world)
    (path,) = world.glob(name)
    if name.startswith("study/"):
        (scores,) = (world / "study" / "scores").iterdir()
        scores.unlink()  # else the RUN is not used
    flip(path, 0.6 if path.suffix == ".json" else 0.95)
    code, stdout, stderr = invoke(*command)
    assert code in (1, 3) if "study" in command else code == 3, (stdout, stderr)
    assert path.name in stderr
    assert "fix: " in stderr
    assert not (world / "new" / "report.json").exists()


@pytest.mark.parametrize("kind", ["features", "vectors"])
@pytest.mark.parametrize("at", [0.0, 0.9])
def test_a_changed_cache_is_thrown_away_and_made_again(
    world: Path, monkeypatch: pytest.MonkeyPatch, kind: str, at: float
) -> None:
    monkeypatch.chdir(world)
    command = (*SEARCH, "--json") if kind == "vectors" else (*EVALUATE, "--json")
    before = json.loads(run_ok(*command))
    shutil.rmtree(world / "new", ignore_errors=True)
    for path in (world / "cache" / kind).iterdir():
        flip(path, at)
    code, stdout, stderr = invoke(*command)
    assert code == 0
    assert "is thrown away and made again" in stderr
    now = json.loads(stdout)
    assert now["hits"] == before["hits"] if kind == "vectors" else now["methods"] == before["methods"]
    shutil.rmtree(world / "new", ignore_errors=True)
    assert "thrown away" not in invoke(*command)[2]


def test_changed_scores_of_a_study_are_made_again(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    (path,) = (world / "study" / "scores").iterdir()
    whole = path.read_bytes()
    path.write_text(path.read_text().replace('map": 0', 'map": 1'))
    assert path.read_bytes() != whole
    code, _, stderr = invoke("study", "study.toml", "--data", "data", "--out", "study")
    assert code == 0, stderr
    assert "this run is scored again" in stderr
    assert path.read_bytes() == whole


def test_a_training_that_goes_on_after_its_end_is_not_finished_until_it_is(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    with monkeypatch.context() as patch:
        patch.setattr("setclip_cli.training.align.run_steps", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        assert invoke(*RESUME)[0] == 130
    code, stdout, _ = invoke(*RESUME, "--json")
    assert (code, json.loads(stdout)["reused"], json.loads(stdout)["steps"]) == (0, False, 6)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("model.safetensors", "flipped"),
        pytest.param("initial.safetensors", "removed", marks=pytest.mark.slow),
        pytest.param("recipe.toml", "flipped", marks=pytest.mark.slow),
        pytest.param("recipe.toml", "emptied", marks=pytest.mark.slow),
        pytest.param("config.json", "flipped", marks=pytest.mark.slow),
        pytest.param("config.json", "removed", marks=pytest.mark.slow),
    ],
)
def test_a_baseline_whose_files_have_changed_is_made_again(
    world: Path, monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    monkeypatch.chdir(world)
    command = (*EVALUATE[:-2], "--baselines", "cca,ridge", "--json")
    before = json.loads(run_ok(*command))
    (path,) = (world / "new/baselines").glob(f"*/cca-0/{name}")
    whole = path.read_bytes()
    (other,) = (world / "new/baselines").glob("*/ridge-0/model.safetensors")
    stamp = other.stat().st_mtime_ns
    if how == "removed":
        path.unlink()
    else:
        path.write_bytes(b"" if how == "emptied" else whole[:-9] + bytes([whole[-9] ^ 4]) + whole[-8:])
    code, stdout, stderr = invoke(*command)
    assert code == 0, stderr
    assert json.loads(stdout)["methods"] == before["methods"]
    assert path.read_bytes() == whole
    assert other.stat().st_mtime_ns == stamp  # whole, so used again
    if (name, how) != ("config.json", "removed"):  # a RUN without it is one that has not finished
        assert "this RUN is made again" in stderr
        assert name in stderr


@pytest.mark.slow
def test_an_unfinished_baseline_with_a_damaged_checkpoint_is_made_again(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    command = (*EVALUATE[:-2], "--baselines", "clip", "--json")
    before = json.loads(run_ok(*command))
    (run,) = (world / "new/baselines").glob("*/clip-0")
    for name in ("step-00000004.safetensors", "../metrics.jsonl"):
        (run / "config.json").unlink()
        flip(run / "checkpoints" / name)
        code, stdout, stderr = invoke(*command)
        assert code == 0, stderr
        assert "this RUN is made again" in stderr
        assert json.loads(stdout)["methods"] == before["methods"]


@pytest.mark.parametrize("how", ["flipped", "cut", "emptied", "removed", "exchanged"])
def test_a_resume_refuses_metrics_that_have_changed(world: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.chdir(world)
    (world / "run/config.json").unlink()  # as if the command was killed before it wrote this file
    path = world / "run/metrics.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    contents = {
        "flipped": whole.replace(b"0", b"1", 1),
        "cut": whole[: -len(lines[-1])],
        "emptied": b"",
        "exchanged": b"".join([*lines[:-2], lines[-1], lines[-2]]),
    }
    path.unlink() if how == "removed" else path.write_bytes(contents[how])
    code, _, stderr = invoke(*ALIGN_AGAIN, "--resume")
    assert code == 3
    assert "metrics.jsonl: " in stderr
    assert "restore the file from a copy, or remove run and align again" in stderr
    path.write_bytes(whole + b'{"step": 5, of a step after the check')  # what a kill leaves is dropped
    assert invoke(*ALIGN_AGAIN, "--resume")[0] == 0
    assert path.read_bytes() == whole


@pytest.mark.parametrize("how", ["an added source", "a changed source"])
@pytest.mark.parametrize("moment", ["known_pairs", "read_side", "run_steps"])
def test_an_ingest_while_align_runs_is_not_what_the_run_claims(
    world: Path, monkeypatch: pytest.MonkeyPatch, how: str, moment: str
) -> None:
    """Either the RUN is that of the DATASET as it was opened, byte for byte, or the command stops and says why."""
    from setclip_cli.dataset.dataset import open_dataset
    from setclip_cli.run.config import load_config
    from setclip_cli.training import align as training

    monkeypatch.chdir(world)
    before, real = open_dataset("data").identity(), getattr(training, moment)
    ingested: list[str] = []

    def ingest_meanwhile(*arguments: object, **named: object) -> object:
        if not ingested:
            source = world / ("more.txt" if how == "an added source" else "captions.jsonl")
            text = source.read_text() if source.exists() else ""
            source.write_text(text.replace("a kinase", "the kinase") + ("" if text else "another caption\n"))
            run_ok("ingest", source, "--modality", "caption", "--out", "data")
            ingested.append(source.name)
        return real(*arguments, **named)

    shutil.rmtree(world / "cache")
    monkeypatch.setattr(training, moment, ingest_meanwhile)
    code, _, stderr = invoke(*ALIGN)
    assert ingested
    assert open_dataset("data").identity() != before
    if code == 0:
        assert load_config(world / "new").dataset_sha256 == before
        assert (world / "new/model.safetensors").read_bytes() == (world / "run/model.safetensors").read_bytes()
    else:
        assert (code, how) == (3, "a changed source"), stderr
        assert "data/caption/train-00000.parquet" in stderr
        assert not (world / "new/config.json").exists()


@pytest.mark.parametrize("how", ["flipped", "emptied", "removed"])
def test_a_changed_shard_ends_an_ingest_that_adds_pairs(world: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.chdir(world)
    path = next(world.glob("data/protein/*.parquet"))
    if how == "flipped":
        flip(path, 0.95)
    else:
        path.write_bytes(b"")
    if how == "removed":
        path.unlink()
    (world / "again.csv").write_text((world / "pairs.csv").read_text() + "\n")
    code, _, stderr = invoke("ingest", "--pairs", "again.csv", "--out", "data")
    assert (code, path.name in stderr, "fix: " in stderr) == (3, True, True), stderr
