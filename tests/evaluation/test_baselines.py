"""Which baselines are aligned, and with what; the alignment itself is a stand-in."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from setclip_cli.evaluation import baselines
from setclip_cli.evaluation.model_folders import ModelFolder
from setclip_cli.recipe.recipe import load_recipe

DATASET = SimpleNamespace(identity=lambda: "this dataset")


class Aligned:
    """The recipes that were aligned, by folder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, pairs: int = 12, dataset: str = "this dataset") -> None:
        self.recipes: dict[Path, object] = {}
        monkeypatch.setattr(
            baselines, "load_config", lambda _: SimpleNamespace(pairs=pairs, dataset_sha256=dataset)
        )  # fmt: skip
        monkeypatch.setattr(baselines, "align_own", self.align)
        monkeypatch.setattr(baselines, "open_model_folders", lambda paths: [run(paths[0], "baseline", 0)])

    def align(self, recipe, dataset, out):
        assert dataset == DATASET
        self.recipes[out] = recipe


def run(path: Path, method: str, seed: int, recipe: dict | None = None) -> ModelFolder:
    return ModelFolder(path.name, path, "run", method, seed, recipe or {}, ("image", "caption"))


@pytest.fixture
def runs(tmp_path: Path) -> list[ModelFolder]:
    """Two seeds of one recipe, and another method."""
    found = []
    for method, seed in (("set-clip-plus", 3), ("set-clip-plus", 4), ("clip", 3)):
        recipe = load_recipe("quickstart").with_settings(method=method, seed=seed, pairs=12)
        folder = tmp_path / f"{method}-{seed}"
        folder.mkdir()
        (folder / "recipe.toml").write_text(recipe.to_toml())
        found.append(run(folder, method, seed, recipe.model_dump()))
    return found


def test_a_baseline_has_the_pairs_and_the_seeds_of_the_first_method(runs, tmp_path, monkeypatch):
    aligned = Aligned(monkeypatch)
    found, reason = baselines.align_baselines(runs, DATASET, tmp_path / "out", ("clip", "cca"))
    assert (len(found), reason) == (2, "")
    assert all(model.baseline for model in found)
    expected = [load_recipe(one.path / "recipe.toml").with_settings(method="cca") for one in runs[:2]]
    assert list(aligned.recipes.values()) == expected
    assert [(recipe.method, recipe.seed, recipe.pairs) for recipe in expected] == [("cca", 3, 12), ("cca", 4, 12)]


@pytest.mark.parametrize(
    ("config", "told"),
    [({"pairs": 0}, "was aligned without pairs"), ({"dataset": "another"}, "was aligned on another dataset")],
)
def test_without_known_pairs_of_this_dataset_nothing_is_aligned(runs, tmp_path, monkeypatch, config, told):
    aligned = Aligned(monkeypatch, **config)
    found, reason = baselines.align_baselines(runs, DATASET, tmp_path / "out", ("cca",))
    assert found == []
    assert told in reason
    assert not aligned.recipes
