"""Recipes, data manifests and studies that come with the package, installed or in a checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Folder = Literal["recipes", "data_manifests", "studies"]


def shipped(folder: Folder, name: str) -> Path:
    """Path of a file that comes with the package, installed or in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "shipped" / folder / name
    return installed if installed.exists() else package.parent / folder / name
