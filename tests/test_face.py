"""The Python face: what a notebook types."""

from __future__ import annotations

import ast
import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import pools

import setclip_cli as setclip
from setclip_cli.embedding.embeddings import open_embeddings

KEPT = Path(__file__).parent / "fixtures" / "before_rooms"


def test_importing_it_loads_nothing_heavy() -> None:
    code = (
        "import sys, setclip_cli; assert setclip_cli.__version__;"
        "print(sorted({'torch', 'numpy', 'pyarrow', 'pydantic', 'typer'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_type_checkers_and_the_interpreter_see_the_same_names() -> None:
    tree = ast.parse(Path(str(setclip.__file__)).read_text(encoding="utf-8"))
    typed = {
        (alias.name, node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("setclip_cli.")
        for alias in node.names
    } - {("__version__", "setclip_cli.version")}
    assert typed == {(name, f"setclip_cli.{home}") for name, home in setclip._HOMES.items()}
    assert set(setclip.__all__) == set(setclip._HOMES) | {"__version__", "losses"}
    for name in setclip.__all__:
        assert getattr(setclip, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'alogn'"):
        setclip.alogn  # noqa: B018


def test_arrays_are_aligned_by_their_pairs() -> None:
    """Three clusters, two pairs each: most rows find a row of their own cluster first."""
    left, right, pairs = pools()
    aligned = setclip.fit(left.numpy(), right, pairs.tolist(), method="cca")
    found = aligned.similarity(left, right.numpy()).argmax(1) % 3
    assert (found == np.arange(60) % 3).mean() > 0.9
    assert aligned.left(left).shape == (60, aligned.right(right).shape[1])
    np.testing.assert_allclose(np.linalg.norm(aligned.left(left), axis=1), 1, atol=1e-5)


def test_the_same_seed_gives_the_same_arrays_and_another_seed_others() -> None:
    left, right, pairs = pools()
    recipe = setclip.Recipe(
        schema_version=2,
        towers={"image": {"backbone": "timm:x"}, "caption": {"backbone": "sentence-transformers:x"}},
        train={"steps": 5},
    )
    one, again, other = (
        setclip.fit(left, right, pairs, method="clip", seed=seed, recipe=recipe).left(left) for seed in (0, 0, 1)
    )
    assert (one == again).all()
    assert not np.allclose(one, other)


def test_without_pairs_auto_takes_the_method_that_needs_none() -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(80, 6, generator=draw), torch.randn(90, 5, generator=draw)
    aligned = setclip.fit(x, y)
    assert aligned.method == "set-clip-plus"
    assert aligned.warnings


@pytest.mark.parametrize(
    ("x", "y", "pairs", "words"),
    [
        ([[1.0, float("nan")]], [[1.0]], [], "x: holds NaN or inf"),
        ([[1.0], [1e30]], [[1.0]], [], "x: row 1 is too long"),
        ([1.0, 2.0], [[1.0]], [], r"x: has the shape \(2,\)"),
        ([[1.0]], [[1.0]], [[0, 1]], r"pairs: 1 of 1 name rows that are not there, the first \[0, 1\]"),
        ([[1.0]], [[1.0]], [[0.5, 0.5]], "pairs: has the shape"),
        ([[1.0], [2.0]], [[1.0], [3.0]], [], "method 'cca'"),
        ([[1.0], [2.0, 3.0]], [[1.0]], [], "x: is not a matrix of numbers"),
        ([["a"]], [[1.0]], [], "x: is not a matrix of numbers"),
        ([[1j]], [[1.0]], [], "x: holds complex numbers"),
        ([[1.0]], [[1.0]], "ab", "pairs: is not a matrix of numbers"),
    ],
)
def test_what_is_wrong_with_arrays_is_said_of_the_argument(x: object, y: object, pairs: object, words: str) -> None:
    with pytest.raises(setclip.SetClipError, match=words):
        setclip.fit(x, y, pairs, method="cca")  # type: ignore[arg-type]


def test_a_model_embeds_items_as_the_command_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(KEPT, tmp_path / "kept")
    monkeypatch.chdir(tmp_path / "kept")
    model, data = setclip.load_model("run"), setclip.open_dataset("dataset")
    shards = {modality: data.shards(modality, "test")[0] for modality in ("image", "caption")}
    contents = data.read(shards["image"], ["image"])["image"].to_pylist()
    texts = data.read(shards["caption"], ["text"])["text"].to_pylist()
    kept = open_embeddings(tmp_path / "kept" / "embeddings")
    (tmp_path / "one.jpg").write_bytes(contents[0])
    images = [tmp_path / "one.jpg", contents[1], Image.open(io.BytesIO(contents[2])), *contents[3:]]
    embedded = model.embed(images=images)
    np.testing.assert_allclose(embedded, kept.load("image", "test").embeddings, atol=1e-5)
    np.testing.assert_allclose(model.embed(captions=texts), kept.load("caption", "test").embeddings, atol=1e-5)
    np.testing.assert_allclose(model.similarity(embedded, texts), embedded @ model.embed(captions=texts).T, atol=1e-6)
    with pytest.raises(setclip.SetClipError, match="needs items of one modality, images or captions; got proteins"):
        model.embed(proteins=["MKV"])
    with pytest.raises(setclip.SetClipError, match="image 1 cannot be decoded"):
        model.embed(images=[contents[0], b"not an image"])
    with pytest.raises(setclip.SetClipError, match=r"gone\.jpg"):
        model.embed(images=["gone.jpg"])
    with pytest.raises(setclip.SetClipError, match="captions: is a str, not a list"):
        model.embed(captions="forest")
    with pytest.raises(setclip.SetClipError, match="3 is not a caption"):
        model.embed(captions=["forest", 3])  # type: ignore[list-item]
    with pytest.raises(setclip.SetClipError, match="a ndarray is not an image"):
        model.embed(images=[np.zeros((8, 8, 3))])  # type: ignore[list-item]


def test_features_of_another_width_are_refused() -> None:
    left, right, pairs = pools()
    aligned = setclip.fit(left, right, pairs, method="cca")
    with pytest.raises(setclip.SetClipError, match="x: has 11 columns, and 12 were fitted"):
        aligned.left(left[:, :11])


def test_overrides_are_a_list_and_models_are_at_least_one(tmp_path: Path) -> None:
    with pytest.raises(setclip.SetClipError, match="overrides: is text, not a list"):
        setclip.load_recipe("quickstart", "train.steps=3")  # type: ignore[arg-type]
    with pytest.raises(setclip.SetClipError, match="models: there is none"):
        setclip.evaluate([], KEPT / "dataset", tmp_path / "report")
