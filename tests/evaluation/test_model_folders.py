"""The names under which models are averaged and compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from setclip_cli.evaluation.model_folders import ModelFolder, averaged_names


def model(name: str, recipe: dict[str, Any] | None = None, method: str = "cca") -> ModelFolder:
    kind = "run" if recipe is not None else "embeddings"
    return ModelFolder(name, Path(name), kind, method, 0, recipe or {}, ("audio", "text"))  # type: ignore[arg-type]


RECIPE = {"seed": 0, "pairs": 40, "train": {"steps": 10, "batch": 5}}


@pytest.mark.parametrize(
    ("models", "names"),
    [
        ([model("a", RECIPE), model("b", RECIPE | {"seed": 1})], ["cca", "cca"]),
        ([model("a", RECIPE), model("b", RECIPE | {"pairs": 6})], ["cca (pairs=40)", "cca (pairs=6)"]),
        ([model("a", RECIPE), model("e")], ["cca (a)", "cca (embeddings=e)"]),
        ([model("e"), model("a", RECIPE), model("f")], ["cca (embeddings=e)", "cca (a)", "cca (embeddings=f)"]),
        (
            [model("a", RECIPE), model("b", RECIPE | {"pairs": 6}), model("e")],
            ["cca (pairs=40)", "cca (pairs=6)", "cca (embeddings=e)"],
        ),
        ([model("a", RECIPE), model("e", method="clip")], ["cca", "clip"]),
    ],
)
def test_a_name_holds_the_settings_that_differ_and_no_others(models: list[ModelFolder], names: list[str]) -> None:
    assert [*averaged_names(models).values()] == names
