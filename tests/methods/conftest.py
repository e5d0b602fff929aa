"""Fixtures of the tests of the methods."""

from __future__ import annotations

from pathlib import Path

import pytest

from setclip_cli.recipe.recipe import Recipe, load_recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    path = tmp_path / "recipe.toml"
    path.write_text(
        """
        schema_version = 2
        method = "auto"
        towers.image.backbone = "timm:tf_efficientnet_lite0"
        towers.caption.backbone = "sentence-transformers:all-MiniLM-L6-v2"
        """
    )
    return load_recipe(path)
