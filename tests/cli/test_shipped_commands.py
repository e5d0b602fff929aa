"""Claims about `setclip recipes`, `manifests`, `studies` and `tasks`, and about names in the other commands."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from small_world import invoke

from setclip_cli.files.shipped import Kind, find, names
from setclip_cli.recipe.recipe import load_recipe

KINDS: tuple[Kind, ...] = get_args(Kind)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_listed_shown_and_copied(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, listed, _ = invoke(kind)
    assert code == 0
    assert [line.split()[0] for line in listed.splitlines()[: len(names(kind))]] == names(kind)
    found = json.loads(invoke(kind, "--json")[1])[kind]
    assert [each["name"] for each in found] == names(kind)
    name = names(kind)[0]
    text = find(kind, name).read_text(encoding="utf-8")
    assert invoke(kind, "show", name)[1] == text
    assert json.loads(invoke(kind, "show", name, "--json")[1]) == {"name": name, "text": text}
    assert json.loads(invoke(kind, "copy", name, "mine.toml", "--json")[1]) == {"name": name, "file": "mine.toml"}
    assert (tmp_path / "mine.toml").read_text(encoding="utf-8") == text
    assert invoke(kind, "copy", name)[0] == 0
    assert (tmp_path / f"{name}.toml").read_text(encoding="utf-8") == text


def test_a_copy_overwrites_nothing(tmp_path: Path) -> None:
    target = tmp_path / "mine.toml"
    target.write_text("mine")
    code, _, stderr = invoke("recipes", "copy", "quickstart", target)
    assert (code, target.read_text()) == (2, "mine")
    assert f"{target}: exists, and is not overwritten" in stderr
    code, _, stderr = invoke("recipes", "copy", "quickstart", tmp_path / "absent" / "mine.toml")
    assert (code, "cannot be written" in stderr) == (3, True)


def test_a_copy_of_each_recipe_and_study_works_where_it_lies(tmp_path: Path) -> None:
    from setclip_cli.study.planned_runs import plan_runs
    from setclip_cli.study.study_file import load_study

    for name in names("recipes"):
        assert invoke("recipes", "copy", name, tmp_path / f"{name}.toml")[0] == 0
        assert load_recipe(tmp_path / f"{name}.toml") == load_recipe(name)
    for name in names("studies"):
        target = tmp_path / "studies" / f"{name}.toml"
        target.parent.mkdir(exist_ok=True)
        assert invoke("studies", "copy", name, target)[0] == 0
        assert plan_runs(load_study(target), target)


def test_a_name_is_taken_by_the_commands_that_take_such_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each gets as far as the thing that is missing after the name."""
    monkeypatch.chdir(tmp_path)
    _, _, stderr = invoke("align", "remote_sensing_caption-small", "--data", "absent", "--out", "run")
    assert "absent: no such" in stderr
    _, _, stderr = invoke("ingest", "rsicd", "--out", "data", "--from", "absent")
    assert "dataset_rsicd.json" in stderr
    for command in (
        ("align", "quickstrat", "--data", "absent", "--out", "run"),
        ("ingest", "eurosta", "--out", "data"),
    ):
        code, _, stderr = invoke(*command)
        assert (code, "did you mean" in stderr) == (2, True)
    assert not (tmp_path / "run").exists()


def test_keys_are_explained_from_the_fields() -> None:
    code, told, _ = invoke("recipes", "keys", "objective.sdd.bandwidth")
    assert code == 0
    assert told.startswith(
        "objective.sdd.bandwidth: a number above 0 or a list of numbers above 0; default 0.2\n    s of"
    )
    keys = {key["name"]: key for key in json.loads(invoke("recipes", "keys", "--json")[1])["keys"]}
    assert keys["method"]["default"] == '"auto"'
    assert keys["extra_encoders.shifted"]["methods"] == {"auto": "0.5", "set-clip-plus": "0.5"}
    assert keys["schema_version"]["required"]
    assert keys["towers.MODALITY.backbone"]["required"]
    code, _, stderr = invoke("recipes", "keys", "objectve")
    assert (code, "did you mean 'objective'" in stderr) == (2, True)


def test_a_prefix_of_keys_ends_at_a_dot() -> None:
    found = [key["name"] for key in json.loads(invoke("recipes", "keys", "train", "--json")[1])["keys"]]
    assert found
    assert all(name.startswith("train.") for name in found)
    alone = json.loads(invoke("recipes", "keys", "ensemble", "--json")[1])["keys"]
    assert [key["name"] for key in alone] == ["ensemble"]  # not ensemble_distil
    assert tomllib.loads("\n".join(f"{name} = 1" for name in found))
