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


def test_an_ingest_while_align_runs_is_not_what_the_run_claims(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from setclip_cli.dataset.dataset import open_dataset
    from setclip_cli.run.model import load_config
    from setclip_cli.training import align as training

    monkeypatch.chdir(world)
    before, real = open_dataset("data").identity(), training.known_pairs

    def ingest_meanwhile(*arguments: object) -> object:
        (world / "more.txt").write_text("another caption\n")
        run_ok("ingest", "more.txt", "--modality", "caption", "--out", "data")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "known_pairs", ingest_meanwhile)
    code, _, stderr = invoke(*ALIGN)
    assert code == 0, stderr
    assert load_config(world / "new").dataset_sha256 == before != open_dataset("data").identity()
