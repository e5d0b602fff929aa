"""Claims about old names: they are read as before, and a user hears of the new ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from setclip_cli.recipe.recipe import Recipe, load_recipe
from setclip_cli.recipe.sections import ExtraEncoders
from setclip_cli.run.folder import is_finished

BEFORE = Path(__file__).parents[1] / "fixtures" / "before_rooms"
BASE = """
schema_version = 1
[towers.image]
backbone = "timm:tf_efficientnet_lite0"
[towers.caption]
backbone = "sentence-transformers:all-MiniLM-L6-v2"
"""
OLD = """
[companions]
shifted = 0.25
[train]
precision = "bf16"
[objective.clip]
full_at = 50
[objective.sdd]
bandwidth = 0.3
bandwidths = [0.1, 0.4]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(BASE + text)
    return path


def test_old_names_mean_what_they_meant_and_each_has_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load_recipe(written(tmp_path, OLD))
    assert (recipe.extra_encoders.shifted, recipe.extra_encoders.diffused) == (0.25, 0.7)
    assert recipe.train.precision == "bfloat16"
    assert recipe.objective.clip.full_weight_at_pairs == 50
    assert recipe.objective.sdd.bandwidth == [0.1, 0.4]  # the list won
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == 4
    assert all(note.startswith(str(tmp_path / "recipe.toml")) for note in notes)
    assert notes[0].endswith("companions is now called extra_encoders")
    assert notes[-1].endswith("train.precision = 'bf16' is now written 'bfloat16'")


def test_new_names_have_no_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_recipe(written(tmp_path, ""), ["extra_encoders.shifted=0", "train.precision=float16"])
    assert capsys.readouterr().err == ""


def test_an_empty_list_of_bandwidths_left_the_choice_to_the_one(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, "[objective.sdd]\nbandwidth = 0.3\nbandwidths = []\n"))
    assert recipe.objective.sdd.bandwidth == 0.3


def test_the_old_name_wins_key_by_key_where_a_file_has_both(tmp_path: Path) -> None:
    both = "[extra_encoders]\nshifted = 0.1\nlinear = 0.1\n[companions]\nshifted = 0.25\n"
    extra = load_recipe(written(tmp_path, both)).extra_encoders
    assert (extra.shifted, extra.linear) == (0.25, 0.1)


def test_an_override_in_old_names_comes_after_a_file_in_new_ones(tmp_path: Path) -> None:
    path = written(tmp_path, "[extra_encoders]\nshifted = 0.25\nlinear = 0.1\n")
    assert load_recipe(path, ["companions.shifted=0"]).extra_encoders.shifted == 0
    assert load_recipe(path, ["companions.shifted=0"]).extra_encoders.linear == 0.1
    # As any override of a table, it takes the place of the whole table; the preset fills in the rest.
    assert load_recipe(path, ["companions={ shifted = 0.125 }"]).extra_encoders.linear == 0.3
    sdd = load_recipe(path, ["objective.sdd={ bandwidths = [0.1, 0.4] }"]).objective.sdd
    assert sdd.bandwidth == [0.1, 0.4]
    assert load_recipe(path, ["train.precision=fp16"]).train.precision == "float16"


def test_an_override_in_new_names_comes_after_a_file_in_old_ones(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, OLD), ["objective.sdd.bandwidth=0.2", "extra_encoders.shifted=0.5"])
    assert (recipe.objective.sdd.bandwidth, recipe.extra_encoders.shifted) == (0.2, 0.5)


@pytest.mark.parametrize("run", ["run", "run-proteins"])
def test_a_run_of_an_earlier_version_is_finished_with_its_recipe_in_new_names(run: str, tmp_path: Path) -> None:
    recipe = load_recipe(BEFORE / run / "recipe.toml")
    text = recipe.to_toml()
    assert not any(old in text for old in ("companions", "full_at ", "bf16"))
    assert "[companions]" in (BEFORE / run / "recipe.toml").read_text()
    (tmp_path / "new.toml").write_text(text)
    assert load_recipe(tmp_path / "new.toml") == recipe
    assert is_finished(BEFORE / run, recipe)
    lacks_a_key = tmp_path / "run"  # written before the key was there: it had its default then, not today's preset
    shutil.copytree(BEFORE / run, lacks_a_key)
    kept = lacks_a_key / "recipe.toml"
    kept.write_text("\n".join(line for line in kept.read_text().splitlines() if not line.startswith("balance")))
    assert is_finished(lacks_a_key, recipe) == (not recipe.train.balance)
    other = recipe.model_dump(mode="json", exclude_none=True)
    other["objective"]["sdd"]["bandwidth"] = 0.05
    assert not is_finished(BEFORE / run, Recipe.model_validate(other))


def test_a_recipe_of_version_1_counts_rows_and_stays_one() -> None:
    towers = {"image": {"backbone": "timm:x"}, "caption": {"backbone": "sentence-transformers:x"}}
    new, old = Recipe(towers=towers), Recipe(schema_version=1, towers=towers)
    assert (new.schema_version, new.pairs_unit, new.method) == (2, "auto", "auto")
    assert (old.schema_version, old.pairs_unit, old.method) == (1, "row", "set-clip-plus")
    for recipe in (new, old):
        there = recipe.with_settings(method="cca", seed=3)
        assert (there.schema_version, there.pairs_unit) == (recipe.schema_version, recipe.pairs_unit)
        assert there.with_settings(method=recipe.method, seed=0) == recipe
        assert Recipe.read_back(recipe.model_dump()) == recipe
    assert Recipe(schema_version=1, pairs_unit="group", towers=towers).pairs_unit == "group"
    kept = old.model_dump(exclude={"pairs_unit", "goal"})  # as a version wrote it that did not know the keys
    assert Recipe.read_back(kept) == old
    assert Recipe.model_validate(kept) == old


def test_an_override_of_the_version_brings_its_meaning(tmp_path: Path) -> None:
    old = written(tmp_path, "")
    assert load_recipe(old).pairs_unit == "row"
    assert load_recipe(old, ["schema_version=2"]).pairs_unit == "auto"


def test_tuned_towers_have_extra_encoders_from_version_2_on() -> None:
    towers = {"image": {"backbone": "timm:x", "trainable": "full"}, "caption": {"backbone": "sentence-transformers:x"}}
    new, old = Recipe(towers=towers), Recipe(schema_version=1, towers=towers)
    assert (new.extra_encoders.linear, old.extra_encoders) == (0.3, ExtraEncoders())
    assert Recipe(schema_version=1, towers=towers, extra_encoders={"linear": 0.2}).extra_encoders.linear == 0.2
    assert Recipe.read_back(old.model_dump()) == old
