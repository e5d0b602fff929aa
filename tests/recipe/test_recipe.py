"""Claims about recipes: what is read, what is refused and in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from setclip_cli.errors import SetClipError
from setclip_cli.recipe.presets import PRESETS, SECTION_PRESETS, TRAINED_METHODS, TRAINING_FREE_METHODS, Method
from setclip_cli.recipe.recipe import Recipe, RecipeError, load_recipe
from setclip_cli.recipe.sections import ExtraEncoders, Objective, Sdd, Teacher, Tower

BASE = """
schema_version = 2
method = "set-clip-plus"
[towers.image]
backbone = "timm:tf_efficientnet_lite0"
[towers.caption]
backbone = "sentence-transformers:all-MiniLM-L6-v2"
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(BASE)
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(SetClipError) as caught:
        load_recipe(path, list(overrides))
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parents[2].rglob("recipes/**/*.toml")), ids=lambda path: path.stem
)
def test_every_shipped_recipe_loads_and_states_its_commands(path: Path) -> None:
    load_recipe(path)
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any("setclip align" in line or "setclip quickstart" in line for line in head)


def test_the_resolved_recipe_reads_back_equal(base: Path, tmp_path: Path) -> None:
    recipe = load_recipe(base, ["pairs=0.25", "objective.sdd.bandwidth=0.1", "seed=7"])
    written = tmp_path / "resolved.toml"
    written.write_text(recipe.to_toml())
    assert load_recipe(written) == recipe


@pytest.mark.parametrize("method", [*TRAINED_METHODS, *TRAINING_FREE_METHODS, "auto"])
def test_every_method_loads_with_its_preset(base: Path, method: Method) -> None:
    recipe = load_recipe(base, [f"method={method}"])
    weights = {name: term.weight for name, term in recipe.objective.active().items()}
    assert weights == {name: settings["weight"] for name, settings in PRESETS.get(method, {}).items()}


def test_a_weight_of_the_user_stands_over_the_preset_and_its_schedule(base: Path) -> None:
    recipe = load_recipe(base, ["objective.teacher.weight=0.3"])
    assert recipe.objective.teacher.weight == 0.3
    assert load_recipe(base, ["objective.clip.weight=0.3"]).objective.clip.full_weight_at_pairs == 0
    assert recipe.objective.teacher.end_step is None
    assert recipe.objective.sdd.weight == PRESETS["set-clip-plus"]["sdd"]["weight"]


def test_another_method_needs_no_goal(base: Path) -> None:
    asked = load_recipe(base, ["method=auto", "goal=partner", "schema_version=2"])
    assert (asked.goal, asked.with_settings(method="cca").goal) == ("partner", "auto")
    assert asked.with_settings(seed=3).goal == "partner"


def test_changing_the_method_brings_its_preset_and_keeps_other_settings(base: Path) -> None:
    changed = load_recipe(base, ["objective.sdd.bandwidth=0.1"]).with_settings(method="clip", seed=3)
    assert list(changed.objective.active()) == ["clip"]
    assert (changed.objective.sdd.bandwidth, changed.seed) == (0.1, 3)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.lrr=1", "unknown key 'optim.lrr' (did you mean 'lr'?)"),
        ("towers.image.weigths=x", "unknown key 'towers.image.weigths' (did you mean 'weights'?)"),
        ("towers.captoin.backbone=x", "towers.captoin.backbone"),
        ("objective.sddd.weight=1", "unknown key 'objective.sddd' (did you mean 'sdd'?)"),
        ("optim.lr=-1", "optim.lr: must be a number above 0, found -1"),
        ("optim.lr=fast", "optim.lr: must be a number above 0, found 'fast'"),
        ("train.steps=1.5", "train.steps"),
        ("pairs=-3", "pairs: must be 'all', a count or a fraction between 0 and 1, found -3"),
        ("method=asfi", "or ridge, found 'asfi' (did you mean 'asif'?)"),
        ("towers.image.backbone=resnet50", "towers.image.backbone"),
        ("towers.image.backbone=esm:esm2_t6_8M_UR50D", "reads proteins, not images"),
        ("schema_version=3", "schema_version: must be 1 or 2, found 3"),
        ("seed", "is not of the form key=value"),
        ("seed.x=1", "seed is a value, not a table"),
    ],
)
def test_a_bad_override_is_named_in_the_users_words(base: Path, override: str, words: str) -> None:
    if override == "seed.x=1":
        base.write_text(f"seed = 1\n{BASE}")
    assert words in refusal(base, override)


def test_all_mistakes_are_told_at_once_contradictions_included(base: Path) -> None:
    message = refusal(
        base,
        "optim.lrr=1",
        "train.batch=many",
        "pairs=-1",
        "objective.clip={ weight = 1.0, start_step = 5, end_step = 3 }",
    )
    assert "4 problems in the recipe" in message
    for words in ("optim.lrr", "train.batch", "pairs", "end_step (3) must be after start_step (5)"):
        assert words in message


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["method=cca", "objective.sdd.weight=1"], "does not train, so no term can have a weight"),
        (["method=clip", "objective.clip.weight=0"], "has nothing to train"),
        (["method=clip", "pairs=0"], "learns from pairs alone"),
        (["towers.image.trainable=full", "ensemble=2"], "heads can share frozen towers only"),
        (["towers.image.trainable=full", "method=cca"], "does not train, so all towers have to be frozen"),
        (["towers.image.layer=0"], "towers.image.layer = 0: layers count from 1"),
        (["towers.image.layer=best", "pairs=0"], "towers.image.layer = 'best': this is measured on known pairs"),
        (["towers.image.pooling=attention"], "its query has to be trained, and the tower is frozen"),
        (["method=auto", "objective.sdd.weight=1"], "method 'auto' brings the weights of the method that it chooses"),
        (["validation.every=5", "ensemble=2"], "validation.every stops one training"),
        (["ensemble_distil=true"], "ensemble_distil: this needs an ensemble of 2 or more"),
        (["objective.sdd.form=published", "objective.sdd.bandwidth=0.1"], "objective.sdd.bandwidth = 0.1: form = "),
        (["method=set-clip-published", "objective.clip.temperature=0.1"], "objective.clip.temperature = 0.1: form"),
        (["towers.protein.backbone=esm:esm2_t6_8M_UR50D"], "two modalities are aligned, found 3"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(base: Path, overrides: list[str], words: str) -> None:
    assert words in refusal(base, *overrides)


def test_no_such_file_bad_toml_and_other_encodings_are_refused(tmp_path: Path) -> None:
    assert "no such recipe file" in refusal(tmp_path / "absent.toml")
    assert "no such recipe file" in refusal(tmp_path)
    broken = tmp_path / "broken.toml"
    broken.write_text("seed = = 1")
    assert "not valid TOML" in refusal(broken)
    broken.write_bytes("seed = 1 # é".encode("latin-1"))
    assert "not valid TOML" in refusal(broken)


def test_a_part_switched_off_under_auto_stays_off_in_the_method_it_takes(base: Path) -> None:
    """0 is the section's default, and not what set-clip-plus would have there."""
    auto = load_recipe(base, ["method=auto", "extra_encoders.shifted=0", "train.balance=false"])
    taken = auto.with_settings(method="set-clip-plus")
    assert (taken.extra_encoders.shifted, taken.train.balance) == (0, False)
    assert taken.extra_encoders.linear == SECTION_PRESETS["set-clip-plus"]["extra_encoders"]["linear"]
    untouched = load_recipe(base, ["method=auto"])
    assert untouched.with_settings(method="set-clip-plus") == load_recipe(base, ["method=set-clip-plus"])
    for method in ("cca", "clip", "set-clip"):
        assert untouched.with_settings(method=method) == load_recipe(base, [f"method={method}"])


TOWERS = {
    "image": Tower(backbone="timm:tf_efficientnet_lite0"),
    "caption": Tower(backbone="sentence-transformers:all-MiniLM-L6-v2"),
}


@pytest.mark.parametrize("method", [*TRAINED_METHODS, *TRAINING_FREE_METHODS, "auto"])
def test_a_recipe_made_in_python_is_the_one_read_from_a_file(base: Path, method: Method) -> None:
    assert Recipe(towers=TOWERS, method=method) == load_recipe(base, [f"method={method}"])


def test_sections_made_in_python_lie_over_the_preset_as_tables_of_a_file_do(base: Path) -> None:
    made = Recipe(
        towers=TOWERS,
        method="set-clip-plus",
        objective=Objective(sdd=Sdd(bandwidth=0.1), teacher=Teacher(weight=0.5)),
        extra_encoders=ExtraEncoders(shifted=0),
        init_from=Path("runs/before"),
    )
    overrides = ["objective.sdd.bandwidth=0.1", "objective.teacher.weight=0.5", "extra_encoders.shifted=0"]
    assert made == load_recipe(base, [*overrides, "init_from=runs/before"])
    assert (made.objective.sdd.weight, made.objective.teacher.end_step, made.extra_encoders.diffused) == (
        0.3,
        None,
        0.7,
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"trian": {}, "seed": -1},
            ["Recipe: 2 problems", "unknown key 'trian' (did you mean 'train'?)", "seed: must"],
        ),
        ({"method": "asif", "pairs": 0}, ["Recipe: 1 problem", "pairs = 0: method 'asif' learns from pairs alone"]),
        ({"objective": {"sdd": {"bandwith": 1}}}, ["unknown key 'objective.sdd.bandwith' (did you mean 'bandwidth'?)"]),
    ],
)
def test_a_mistake_in_python_is_told_as_one_in_a_file(settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe(towers=TOWERS, **settings)
    assert all(word in str(caught.value) for word in words)


def test_a_file_has_to_state_its_version(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(BASE.replace("schema_version = 2", ""))
    assert "missing key 'schema_version'" in refusal(path)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("method=asfi", "method: must be auto, "),
        ("towers.image=3", "towers.image: must be a table, found 3"),
        (
            "objective.sdd.bandwidth=[]",
            "objective.sdd.bandwidth: must be a number above 0 or a list of numbers above 0",
        ),
        ("towers.image.layer=x", "towers.image.layer: must be a whole number or best, found 'x'"),
        ("projection.nested=64", "projection.nested: must be a list of whole numbers above 0, found 64"),
        ("train.loggers=['tensorbord']", "train.loggers: must be a list of tensorboard, wandb or mlflow"),
        (
            "objective.teacher.neighbours=0",
            "objective.teacher.neighbours: must be auto or a whole number above 0, found",
        ),
    ],
)
def test_one_mistake_is_one_line(base: Path, override: str, line: str) -> None:
    message = refusal(base, override).splitlines()
    assert message[0].endswith(": 1 problem in the recipe")
    assert message[1].startswith(f"  - {line}")


def test_a_setting_that_only_the_stable_form_reads_is_refused_for_each_term(base: Path) -> None:
    for name, term in Objective.model_fields.items():
        for key in getattr(term.annotation, "fixed_when_published", ()):
            changed = {float: 0.123, bool: True, int: 3}.get(term.annotation.model_fields[key].annotation, 0.123)  # type: ignore[union-attr, arg-type]
            value = "[0.123]" if key == "bandwidths" else str(changed).lower()
            message = refusal(base, "method=set-clip-published", f"objective.{name}.{key}={value}")
            assert f"set objective.{name}.form = 'stable'" in message
            load_recipe(base, ["method=set-clip", f"objective.{name}.{key}={value}"])
    load_recipe(base, ["method=set-clip-published", "objective.sdd.bandwidth=0.2"])  # as a RUN keeps it


def test_settings_of_the_user_outlive_a_change_of_method_but_the_old_preset_does_not(base: Path) -> None:
    changes = ["objective.sdd.weight=0.9", "train.batch=32", "train.steps=7", "optim.lr=0.01", "projection.dim=8"]
    plus = load_recipe(base, changes)
    published = plus.with_settings(method="set-clip-published")
    assert published.with_settings(method="set-clip").objective.sdd.form == "stable"
    assert published.with_settings(method="set-clip-plus").objective.teacher.end_step == 100
    assert (published.train.batch, published.train.pairs_per_batch, published.train.steps) == (32, 22, 7)
    assert (published.extra_encoders, published.train.balance) == (ExtraEncoders(), False)
    assert published.objective.sdd.weight == 0.7  # a weight belongs to the method
    assert published.with_settings(method="set-clip-plus") == load_recipe(base, changes[1:])
    assert plus.with_settings(method="set-clip-plus", seed=3).objective.sdd.weight == 0.9  # no other method
    assert plus.with_settings(method="clip", objective={"sdd": {"weight": 0.2}}).objective.sdd.weight == 0.2


def test_an_override_of_a_key_leaves_the_rest_of_its_table(base: Path) -> None:
    base.write_text(
        f"{BASE}weights = 'hub'\n[objective.sdd]\nqueue = 5\nbandwidth = 0.3\n[objective.clip]\ntemperature = 0.5\n"
    )
    recipe = load_recipe(base, ["objective.sdd.bandwidth=0.1", "towers.caption.weights=here"])
    assert (recipe.objective.sdd.bandwidth, recipe.objective.sdd.queue) == (0.1, 5)
    assert recipe.objective.clip.temperature == 0.5
    assert recipe.towers["caption"].weights == "here"


def test_a_file_beside_the_user_is_taken_before_a_recipe_of_that_name(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_recipe("quickstart").objective.self_supervised.temperature == 0.3
    base.rename(tmp_path / "quickstart")
    assert load_recipe("quickstart").objective.self_supervised.temperature == 0.1
    assert "(did you mean 'protein_caption'?)" in refusal(Path("recipes/protein_captoin.toml"))
    assert "`setclip recipes` lists" in refusal(Path("nothing"))


@pytest.mark.parametrize(
    "setting",
    ["weight=0.9", "full_weight_at_pairs=50", "form='published'", "start_step=3", "end_step=70", "warmup_steps=5"],
)
def test_what_belongs_to_a_method_does_not_go_with_the_user_to_another(base: Path, setting: str) -> None:
    changed = load_recipe(base, [f"objective.clip.{setting}"])
    assert changed != load_recipe(base)
    assert changed.with_settings(method="set-clip") == load_recipe(base, ["method=set-clip"])
