"""Claims about nested heads on real files: what a RUN of them is, what `embed --width` cuts, and what a report says."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from small_world import align, invoke, make_world, run_ok

from setclip_cli.embedding.embeddings import open_embeddings
from setclip_cli.embedding.options import SearchOptions
from setclip_cli.embedding.search import search
from setclip_cli.encoders import ProjectionHead, encoder_from_description, nested_widths
from setclip_cli.errors import SetClipError
from setclip_cli.losses.nested import narrowed
from setclip_cli.recipe.recipe import Recipe, load_recipe
from setclip_cli.run.config import load_config
from setclip_cli.training.build import build_training
from setclip_cli.training.fit import fit
from setclip_cli.training.tower import Pool

NESTED = ("--set", "projection.nested=[4,8,16]")
TOWERS = {"left": {"backbone": "vector"}, "right": {"backbone": "vector"}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_world(tmp_path_factory.mktemp("nested"))
    for name, extra in (("nested", NESTED), ("plain", ("--set", "train.steps=2"))):
        code, _, stderr = align(root, root / name, *extra)
        assert code == 0, stderr
    run_ok("embed", root / "nested", root / "data", "--out", root / "whole")
    return root


def test_a_run_says_its_widths_and_one_without_them_is_as_before(world: Path) -> None:
    for tower in load_config(world / "nested").towers.values():
        assert nested_widths(tower.encoder) == [4, 8, 16]
        assert encoder_from_description(tower.encoder).dim == 16
    assert "nested = [" in (world / "nested" / "recipe.toml").read_text()
    for name in ("recipe.toml", "config.json"):
        assert "nested = [" not in (world / "plain" / name).read_text()
        assert '"nested"' not in (world / "plain" / name).read_text()
    assert load_recipe(world / "nested" / "recipe.toml").extra_encoders.model_dump() == dict.fromkeys(
        ("linear", "diffused", "shifted", "partner"), 0.0
    )


def test_embed_cuts_to_a_width_at_length_1_and_a_query_is_cut_too(world: Path, tmp_path: Path) -> None:
    run_ok("embed", world / "nested", world / "data", "--out", tmp_path / "e", "--width", 4)
    found, whole = open_embeddings(tmp_path / "e"), open_embeddings(world / "whole")
    assert (found.index.dim, found.index.width, whole.index.width) == (4, 4, None)
    assert "width" not in json.loads((world / "whole" / "embeddings.json").read_text())
    for modality in ("protein", "caption"):
        first = whole.load(modality).embeddings[:, :4]
        expected = first / np.linalg.norm(first, axis=1, keepdims=True)
        np.testing.assert_allclose(found.load(modality).embeddings, expected, atol=1e-6)
    result = search(tmp_path / "e", "a kinase, entry 0", options=SearchOptions(top=36))
    table, query = found.load("protein"), found.load("caption")
    own = query.embeddings[query.ids.index("c0")]
    assert [hit.score for hit in result.hits] == pytest.approx(np.sort(table.embeddings @ own)[::-1], abs=1e-5)
    assert {hit.probability for hit in result.hits} == {None}
    assert "cut to 4 values" in result.why_no_probability
    run_ok("verify", tmp_path / "e")
    code, _, stderr = invoke("embed", world / "nested", world / "data", "--out", tmp_path / "e", "--width", 8)
    assert code == 3
    assert "another width (4, now 8)" in stderr
    run_ok("embed", world / "nested", world / "data", "--out", tmp_path / "e1", "--width", 8, "--dtype", "ubinary")
    shards = open_embeddings(tmp_path / "e1")
    assert next(shards.stored_blocks(shards.shards("protein")[0])).shape == (36, 1)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (["nested", "--width", 5], "was trained for the widths 4, 8, 16"),
        (["plain", "--width", 8], "are not nested"),
        (["plain", "--width", 1], "fix: leave --width out\n"),  # heads of one value cannot be trained
        (["plain", "--width", 4000], "have 48 values"),
        (["nested", "--width", 0], "--width"),
    ],
)
def test_a_width_that_was_not_trained_is_refused(world: Path, tmp_path: Path, what: list[object], words: str) -> None:
    run, *flags = what
    code, _, stderr = invoke("embed", world / str(run), world / "data", "--out", tmp_path / "e", *flags)
    assert code == 2
    assert words in stderr
    assert not (tmp_path / "e").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "extra"), [("plus", ()), ("no-pairs", ("pairs=0",)), ("several", ("ensemble=2",))])
def test_the_advice_about_a_width_trains_a_run_that_has_it(
    world: Path, tmp_path: Path, name: str, extra: tuple[str, ...]
) -> None:
    code, _, stderr = align(world, tmp_path / name, "--set", "train.steps=2", *(f"--set={one}" for one in extra))
    assert code == 0, stderr
    code, _, stderr = invoke("embed", tmp_path / name, world / "data", "--out", tmp_path / "e", "--width", 8)
    assert code == 2
    words = shlex.split(stderr.partition("train a RUN with this width: ")[2].splitlines()[0])
    named = {"DATASET": str(world / "data"), "NEW_RUN": str(tmp_path / "new")}
    run_ok(*(named.get(word, word) for word in words[1:]))
    run_ok("embed", tmp_path / "new", world / "data", "--out", tmp_path / "e", "--width", 8)
    assert open_embeddings(tmp_path / "e").index.dim == 8


def test_a_report_has_the_quality_of_each_width(world: Path, tmp_path: Path) -> None:
    arguments = ("--split", "train", "--relevance", "pairs", "--baselines", "cca")
    run_ok("evaluate", world / "nested", world / "data", "--out", tmp_path / "report", *arguments)
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    first = content["methods"][0]
    assert [one["width"] for one in first["widths"]] == [4, 8, 16]
    assert not content["baselines_left_out"]
    key = "protein_to_caption/map"
    assert first["widths"][-1]["metrics"][key] == pytest.approx(first["metrics"][key]["mean"])
    run_ok("embed", world / "nested", world / "data", "--out", tmp_path / "e", "--width", 4)
    run_ok("evaluate", tmp_path / "e", world / "data", "--out", tmp_path / "cut", *arguments[:4])
    cut = json.loads((tmp_path / "cut" / "report.json").read_text())["methods"][0]
    assert cut["metrics"][key]["mean"] == pytest.approx(first["widths"][0]["metrics"][key], abs=1e-6)
    assert [one["width"] for one in cut["widths"]] == [4]
    assert "| 8 |" in (tmp_path / "report" / "report.md").read_text()
    assert "at each width" in (tmp_path / "report" / "report.html").read_text()


def test_a_run_without_nested_widths_has_no_table_of_them(world: Path, tmp_path: Path) -> None:
    arguments = ("--split", "train", "--relevance", "pairs", "--baselines", "none")
    run_ok("evaluate", world / "plain", world / "data", "--out", tmp_path / "report", *arguments)
    assert "widths" not in json.loads((tmp_path / "report" / "report.json").read_text())["methods"][0]
    assert "each width" not in (tmp_path / "report" / "report.html").read_text()


def test_a_nested_training_that_stops_goes_on_to_the_same_bytes(world: Path) -> None:
    queue = ("--set", "objective.sdd.queue=40", "--set", "objective.clip.learnable_temperature=true")
    recipe = load_recipe(world / "recipe.toml", [one for one in (*NESTED, *queue) if one != "--set"])
    draw = torch.Generator().manual_seed(0)
    left, right = (Pool(torch.randn(40, 12, generator=draw)) for _ in range(2))
    pairs = torch.arange(6).repeat(2, 1).T.contiguous()
    through = build_training(recipe, left, right, pairs)
    for _ in range(20):
        through.advance()
    stopped = build_training(recipe, left, right, pairs)
    for _ in range(10):
        stopped.advance()
    again = build_training(recipe, left, right, pairs)
    again.restore(10, {name: value.clone() for name, value in stopped.tensors().items()})
    for _ in range(10):
        again.advance()
    expected = through.tensors()
    assert again.tensors().keys() == expected.keys()
    for name, value in again.tensors().items():
        assert torch.equal(value, expected[name]), name


def two_views(rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    factors = torch.randn(rows, 12, generator=draw)
    left, right = (factors @ torch.randn(12, 20, generator=draw) for _ in range(2))
    return left, right


def test_the_first_values_of_nested_heads_find_partners_better_than_those_of_plain_heads() -> None:
    left, right = two_views(240, 0)
    pairs = torch.arange(120).repeat(2, 1).T.contiguous()

    def mean_rank(nested: list[int] | None) -> float:
        """How many rows are nearer than the partner, by the first 8 values, among rows that are not known."""
        projection = {"dim": 64, "kind": "linear", "pca": 0} | ({"nested": nested} if nested else {})
        recipe = {"method": "clip", "towers": TOWERS, "optim": {"lr": 0.02}, "train": {"steps": 40}}
        encoders = fit(Recipe.model_validate(recipe | {"projection": projection}), left, right, pairs).encoders
        with torch.no_grad():
            x, y = (narrowed(encoder(rows[120:]), 8) for encoder, rows in zip(encoders, (left, right), strict=True))
        scores = x @ y.T
        return float((scores > scores.diag()[:, None]).sum(1).float().mean())

    assert mean_rank([8, 64]) < mean_rank(None) / 2


def settings(**changed: object) -> dict[str, object]:
    return {"method": "clip", "towers": TOWERS, "projection": {"dim": 16, "nested": [4, 16]}} | changed


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"projection": {"dim": 16, "nested": [4, 8]}}, "rise up to projection.dim, which is 16"),
        ({"projection": {"dim": 16, "nested": [16, 4]}}, "rise up to projection.dim"),
        ({"projection": {"dim": 16, "nested": [4, 4, 16]}}, "rise up to projection.dim"),
        ({"projection": {"dim": 16, "nested": [1, 16]}}, "start with 2"),
        ({"projection": {"dim": 16, "nested": []}}, "projection.nested"),
        ({"method": "auto"}, "may choose a method without heads"),
        ({"method": "transport"}, "trains no heads"),
        ({"method": "set-clip-plus", "pairs": 0}, "matches the features"),
        ({"method": "set-clip", "ensemble": 3}, "heads side by side"),
        ({"method": "set-clip-plus", "extra_encoders": {"partner": 1.0}}, "extra_encoders.partner = 1.0"),
    ],
)
def test_what_cannot_be_nested_is_refused_with_a_reason(changed: dict[str, object], words: str) -> None:
    Recipe.model_validate(settings())
    with pytest.raises(SetClipError) as raised:
        Recipe.model_validate(settings(**changed))
    assert words in str(raised.value)


def test_features_that_are_matched_without_a_pair_are_refused() -> None:
    left, right = two_views(60, 1)
    recipe = Recipe.model_validate(settings(method="set-clip-plus"))
    with pytest.raises(SetClipError, match="no head is trained"):
        fit(recipe, left, right, torch.zeros(0, 2, dtype=torch.int64))


def test_a_head_with_widths_is_saved_and_opened_with_them() -> None:
    head = ProjectionHead(5, 8, nested=[2, 8])
    again = encoder_from_description(head.describe())
    assert again.describe() == head.describe()
    assert nested_widths(ProjectionHead(5, 8).describe()) == []
