"""A server with the two files of the protein quickstart, and a quickstart of few methods and steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from loopback import Server
from swiss_prot_file import PROTEINS, WEIGHTS, entries, packed, settings

from setclip_cli.quickstart import quickstart as module
from setclip_cli.recipe.recipe import load_recipe


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The two files, by their names."""
    weights = tiny.esm2_checkpoint(tmp_path_factory.mktemp("esm2"))
    return {WEIGHTS: weights.read_bytes(), PROTEINS: packed(entries(300))}


@pytest.fixture
def online(server: Server, published: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server has both files, and this process reaches it."""
    server.files = {f"/{name}": content for name, content in published.items()}
    for name, value in settings(server, tmp_path).items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture
def small(tmp_path: Path, tiny_sentence: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few methods, few steps, and a text model of random weights."""
    path = tmp_path / "recipe.toml"
    path.write_text(
        f"""
        schema_version = 2
        method = "transport"
        projection = {{ dim = 16, pca = 8 }}
        train = {{ steps = 6, batch = 8, checkpoint_every = 3 }}
        [towers.protein]
        backbone = "esm:esm2_t6_8M_UR50D"
        [towers.caption]
        backbone = "sentence-transformers:all-MiniLM-L6-v2"
        weights = {str(tiny_sentence)!r}
        """
    )
    recipe = load_recipe(path)
    monkeypatch.setattr(module, "METHODS", {"proteins": ("transport", "clip")})
    monkeypatch.setattr(module, "SEEDS", (0,))
    monkeypatch.setattr(module, "BASELINES", ("cca",))
    monkeypatch.setattr(module, "load_recipe", lambda _: recipe)
