"""Modalities with names of the user's own, through every command."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny
from PIL import Image
from small_world import invoke, run_ok

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.dataset.modality import why_not_a_name
from setclip_cli.run.config import load_config
from setclip_cli.run.model import load_model

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}


def png(number: int, colour: str) -> bytes:
    noise = np.random.default_rng(number).normal(0, 25, (32, 32, 3))
    file = io.BytesIO()
    Image.fromarray(np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of images, and notes about the optical ones."""
    folder = tmp_path_factory.mktemp("sources")
    notes = []
    for number in range(30):
        colour = [*COLOURS][number % 3]
        for place, start in (("optical", 0), ("radar", 100)):
            (folder / place).mkdir(exist_ok=True)
            (folder / place / f"{place}{number}.png").write_bytes(png(start + number, colour))
        note = {"id": f"n{number}", "text": f"a {colour} field, number {number}", "group": f"optical{number}.png"}
        notes.append(json.dumps(note | {"split": "train" if number < 20 else "test"}))
    (folder / "notes.jsonl").write_text("\n".join(notes))
    return folder


@pytest.fixture(scope="module")
def data(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "d"
    run_ok("ingest", sources / "notes.jsonl", "--modality", "note", "--kind", "text", "--out", out)
    images = ["--split", "as-captions", "--out", out]
    run_ok("ingest", sources / "optical", "--modality", "optical", "--kind", "image", "--pairs-from-group", *images)
    return out


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_sentence: Path, tiny_timm: Path) -> Path:
    """Its left tower is not the first in the order of files."""
    path = tmp_path_factory.mktemp("recipe") / "r.toml"
    path.write_text(
        f"""
schema_version = 2
method = "cca"
pairs = 12
[towers.optical]
backbone = "timm:{tiny.TINY_TIMM}"
weights = "{tiny_timm}"
[towers.note]
backbone = "sentence-transformers:tiny"
weights = "{tiny_sentence}"
[projection]
pca = 4
"""
    )
    return path


@pytest.fixture(scope="module")
def run(data: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    run_ok("align", recipe, "--data", data, "--out", out)
    return out


def test_dataset_json_says_the_kind_of_a_name_that_does_not_say_it(data: Path) -> None:
    dataset = open_dataset(data)
    assert dataset.modalities() == ["note", "optical"]
    assert (dataset.kind("note"), dataset.kind("optical")) == ("text", "image")
    content = json.loads((data / "dataset.json").read_text())
    assert content["modalities"] == {"note": {"kind": "text"}, "optical": {"kind": "image"}}
    assert pq.read_schema(data / "note" / "train-00000.parquet").names[5:] == ["text", "group"]
    assert [pair.left_modality for pair in dataset.pairs()] == ["note"] * 30
    assert "whole" in run_ok("ingest", "--verify", data)


def test_the_names_of_before_leave_no_trace_in_dataset_json(tmp_path: Path, sources: Path) -> None:
    run_ok("ingest", sources / "notes.jsonl", "--modality", "caption", "--out", tmp_path / "d")
    content = json.loads((tmp_path / "d" / "dataset.json").read_text())
    assert "modalities" not in content
    assert not {"kind", "about"} & (content["sources"][0].keys() | content["sources"][0]["options"].keys())


def test_a_source_is_known_again_with_and_without_its_kind(data: Path, sources: Path) -> None:
    before = (data / "dataset.json").read_bytes()
    for kind in ([], ["--kind", "text"]):
        told = run_ok("ingest", sources / "notes.jsonl", "--modality", "note", *kind, "--out", data)
        assert "unchanged, not read again" in told
    assert (data / "dataset.json").read_bytes() == before


def test_more_images_come_in_under_the_same_name_and_others_under_another(sources: Path, tmp_path: Path) -> None:
    out = tmp_path / "d"
    run_ok("ingest", sources / "optical", "--modality", "optical", "--kind", "image", "--out", out)
    told = run_ok("ingest", sources / "radar", "--modality", "optical", "--out", out)
    assert "60 optical rows" in told
    run_ok("ingest", sources / "radar", "--modality", "radar", "--kind", "image", "--out", out)
    assert open_dataset(out).of_kind("image") == ["optical", "radar"]  # the same pictures, in their own right


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--modality", "note"], "--modality note: the kind of its rows is not known"),
        (["--modality", "captions"], "(did you mean 'caption'?)"),
        (["--modality", "image", "--kind", "vector"], "--kind vector: image rows are of the kind image"),
        (["--modality", "SAR", "--kind", "image"], "fix: --modality sar"),
        (["--modality", "../up", "--kind", "image"], "is not a small letter and then"),
        (["--modality", "a_to_b", "--kind", "text"], "'_to_'"),
        (["--modality", "geometry", "--kind", "text"], "means something else in reports"),
        (["--modality", "x" * 33, "--kind", "text"], "at most 31"),
        (["--modality", "note", "--kind", "sound"], "'sound' is not one of"),
        (["--modality", "note", "--kind", "text", "--sequence-column", "s"], "is for protein rows"),
    ],
)
def test_a_name_that_cannot_be_or_says_no_kind_is_a_usage_error(
    sources: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    code, stdout, stderr = invoke("ingest", sources / "notes.jsonl", *arguments, "--out", tmp_path / "d")
    assert (code, stdout) == (2, "")
    assert words in stderr
    assert not (tmp_path / "d").exists()


def test_a_name_keeps_its_kind(data: Path, sources: Path) -> None:
    before = (data / "dataset.json").read_bytes()
    code, _, stderr = invoke("ingest", sources / "radar", "--modality", "note", "--kind", "image", "--out", data)
    assert code == 2
    assert "has note rows of the kind text" in stderr
    assert (data / "dataset.json").read_bytes() == before


@pytest.mark.parametrize("name", ["a", "sentinel-2", "s1_vv", "proteins"])
def test_good_names(name: str) -> None:
    assert why_not_a_name(name) is None


def test_pairs_may_name_them_in_either_order(sources: Path, tmp_path: Path) -> None:
    out, pairs = tmp_path / "d", tmp_path / "pairs.csv"
    run_ok("ingest", sources / "optical", "--modality", "optical", "--kind", "image", "--out", out)
    lines = ["optical,optical0.png,radar,radar0.png", "radar,radar0.png,optical,optical0.png"]
    pairs.write_text("left_modality,left_id,right_modality,right_id\n" + "\n".join(lines))
    said = ["--modality", "radar", "--kind", "image", "--pairs", pairs]
    run_ok("ingest", sources / "radar", *said, "--out", out)
    assert [tuple(pair) for pair in open_dataset(out).pairs()] == [
        ("optical", "optical0.png", "radar", "radar0.png", "train")
    ]
    pairs.write_text("left_modality,left_id,right_modality,right_id\nradr,radar0.png,optical,optical0.png\n")
    code, _, stderr = invoke("ingest", "--pairs", pairs, "--out", out)
    assert code == 3
    assert "line 2: 'radr' is not a modality (did you mean 'radar'?)" in stderr


def test_the_recipe_says_which_side_is_left(run: Path) -> None:
    config = load_config(run)
    assert config.modalities() == ["optical", "note"]
    assert (config.left, [*load_model(run).encoders]) == ("optical", ["optical", "note"])
    assert (run / "README.md").read_text().partition("\n---\n")[2].startswith("\n# optical - note alignment")


def test_reports_and_gates_follow_the_names_and_the_order(data: Path, run: Path, tmp_path: Path) -> None:
    run_ok("embed", run, data, "--out", tmp_path / "e")
    gate = ["--fail-under", "optical_to_note/map=0.01"]
    told = run_ok("evaluate", run, tmp_path / "e", data, "--out", tmp_path / "r", "--baselines", "none", *gate)
    assert told.startswith("For an optical row")
    content = json.loads((tmp_path / "r" / "report.json").read_text())
    assert content["modalities"] == ["optical", "note"]
    of_run, of_embeddings = (one["metrics"]["optical_to_note/map"]["value"] for one in content["targets"])
    assert of_run == pytest.approx(of_embeddings, abs=1e-6)
    code, _, stderr = invoke("evaluate", run, data, "--out", tmp_path / "x", "--fail-under", "optical_to_nte/map=0.1")
    assert code == 2
    assert "did you mean 'optical_to_note/map'" in stderr


def test_a_query_goes_to_the_tower_that_reads_it(data: Path, run: Path, sources: Path, tmp_path: Path) -> None:
    run_ok("embed", run, data, "--out", tmp_path / "e")
    assert "optical rows nearest to the note row" in run_ok("search", tmp_path / "e", "a red field")
    picture = sources / "optical" / "optical0.png"
    assert "note rows nearest to the optical row" in run_ok("search", tmp_path / "e", picture)
    code, _, stderr = invoke("search", tmp_path / "e", "optical9999.png")
    assert code == 2
    assert "--as note" in stderr
    assert load_model(run).embed(note=["a red field"]).shape[0] == 1


def test_two_towers_of_images_say_which_query_it_is(sources: Path, tmp_path: Path, tiny_timm: Path) -> None:
    out, recipe = tmp_path / "d", tmp_path / "r.toml"
    for name in ("optical", "radar"):
        run_ok("ingest", sources / name, "--modality", name, "--kind", "image", "--out", out)
    pairs = tmp_path / "pairs.csv"
    rows = [f"optical,optical{number}.png,radar,radar{number}.png" for number in range(12)]
    pairs.write_text("left_modality,left_id,right_modality,right_id\n" + "\n".join(rows))
    run_ok("ingest", "--pairs", pairs, "--out", out)
    tower = f'backbone = "timm:{tiny.TINY_TIMM}"\nweights = "{tiny_timm}"\n'
    recipe.write_text(
        f'schema_version = 2\nmethod = "cca"\n[towers.radar]\n{tower}[towers.optical]\n{tower}[projection]\npca = 4\n'
    )
    run_ok("align", recipe, "--data", out, "--out", tmp_path / "run")
    run_ok("embed", tmp_path / "run", out, "--out", tmp_path / "e")
    picture = sources / "radar" / "radar3.png"
    code, _, stderr = invoke("search", tmp_path / "e", picture)
    assert code == 2
    assert "could be of optical or radar" in stderr
    assert "optical rows nearest to the radar row" in run_ok("search", tmp_path / "e", picture, "--as", "radar")
    code, _, stderr = invoke("embed", "--backbone", f"timm:{tiny.TINY_TIMM}", out, "--out", tmp_path / "f")
    assert code == 2
    assert "could read its rows of optical and of radar" in stderr
    raw = ["--weights", tiny_timm, "--modality", "radar", "--out", tmp_path / "f"]
    run_ok("embed", "--backbone", f"timm:{tiny.TINY_TIMM}", out, *raw)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("[towers.note]", "[towers.nte]"), "holds no nte rows, only note, optical (did you mean 'note'?)"),
        (("[towers.note]", "[towers.Note]"), "towers.Note: the name of a modality is not a small letter"),
        (("sentence-transformers:tiny", "esm:esm2_t6_8M_UR50D"), "reads proteins, not texts"),
        (("sentence-transformers:tiny", "vector"), "weights = "),
    ],
)
def test_a_recipe_whose_towers_do_not_fit_the_dataset(
    data: Path, recipe: Path, tmp_path: Path, change: tuple[str, str], words: str
) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(recipe.read_text().replace(*change))
    code, _, stderr = invoke("align", path, "--data", data, "--out", tmp_path / "run")
    assert code in (2, 3)
    assert words in stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "words"), [("../up", "is not a small letter"), ("sar", "does not say what kind")])
def test_a_run_whose_tower_has_a_name_that_cannot_be_is_not_opened(
    data: Path, run: Path, tmp_path: Path, name: str, words: str
) -> None:
    shutil.copytree(run, tmp_path / "run")
    tiny.edit_document(tmp_path / "run" / "config.json", lambda config: _rename_tower(config, name))
    code, _, stderr = invoke("embed", tmp_path / "run", data, "--out", tmp_path / "e")
    assert code == 3
    assert words in stderr


def _rename_tower(config: dict[str, Any], name: str) -> None:
    config["towers"][name] = config["towers"].pop("optical")
    del config["towers"][name]["kind"]


def test_version_1_keeps_the_order_of_before(data: Path, recipe: Path) -> None:
    from setclip_cli.recipe.recipe import Recipe

    towers: dict[str, Any] = {
        "caption": {"backbone": "sentence-transformers:a"},
        "image": {"backbone": "timm:b"},
    }
    assert Recipe.model_validate({"schema_version": 1, "towers": towers}).modalities() == ("image", "caption")
    assert Recipe.model_validate({"schema_version": 2, "towers": towers}).modalities() == ("caption", "image")


def test_a_manifest_may_name_them(sources: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "m.toml"
    manifest.write_text(
        """
schema_version = 1
title = "Notes"
homepage = "here"
paper = "none"
licence = "ours"
obtain = "take them"
[[files]]
name = "notes.jsonl"
unknown = "it is ours"
[[parts]]
file = "notes.jsonl"
modality = "note"
kind = "text"
"""
    )
    run_ok("ingest", manifest, "--from", sources, "--out", tmp_path / "d")
    assert open_dataset(tmp_path / "d").kind("note") == "text"
