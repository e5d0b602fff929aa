"""Claims about RUN/README.md: it states data, licences and figures, and what it tells a reader to run runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from small_world import align, invoke, make_world, run_ok

from setclip_cli.dataset.dataset import Dataset, open_dataset
from setclip_cli.recipe.recipe import load_recipe
from setclip_cli.run.config import load_config
from setclip_cli.run.model_card import model_card

MANIFEST = """
schema_version = 2
method = "set-clip-plus"
title = "Nine kinds of entry"
homepage = "https://example.org/entries"
paper = "Someone et al. 2020, arXiv:2001.00001"
licence = "CC-BY-4.0"
licence_note = "stated in its README"
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_world(tmp_path_factory.mktemp("card"))
    fields = ("title", "homepage", "paper", "licence", "licence_note")
    found = {name: re.search(rf'^{name} = "(.+)"$', MANIFEST, re.MULTILINE)[1] for name in fields}  # type: ignore[index]
    tiny.edit_document(folder / "data/dataset.json", lambda index: index.update(manifests=[found]))
    return folder


@pytest.fixture(scope="module")
def run(world: Path) -> Path:
    settings = ("--set", "validation.split=train", "--set", "validation.every=5", "--set", "train.steps=20")
    code, _, stderr = align(world, world / "run", *settings)
    assert code == 0, stderr
    return world / "run"


def test_it_states_rows_licences_and_papers_of_the_data(run: Path) -> None:
    card = (run / "README.md").read_text()
    assert "- protein rows: 36 in `train`; trained on `train`." in card
    assert "- Nine kinds of entry. Licence: CC-BY-4.0 (stated in its README). https://example.org/entries" in card
    assert "arXiv:2001.00001 (data)" in card
    for paper in ("arXiv:2406.05766", "ESM-2: Lin et al. 2023", "arXiv:1908.10084"):
        assert paper in card


def test_what_a_manifest_says_is_no_mark_up(world: Path, run: Path) -> None:
    hostile = "a|b\n# c\x1b[31m [d](javascript:e) <script> `f` \u202e"
    fields = ("title", "homepage", "paper", "licence", "licence_note")
    dataset = open_dataset(world / "data")
    index = dataset.index.model_copy(update={"manifests": [dict.fromkeys(fields, hostile)]})
    recipe = load_recipe(run / "recipe.toml")
    card = model_card(recipe, load_config(run), Dataset(dataset.root, index), records=[], findings={})
    shown = r"a\|b\\n\# c\\x1b\[31m \[d\](javascript:e) &lt;script&gt; \`f\` \\u202e"
    assert f"- {shown}. Licence: {shown} ({shown}). {shown}\n" in card
    assert f"- {shown} (data)\n" in card


def test_its_figures_are_those_of_the_weights_kept(run: Path) -> None:
    card = (run / "README.md").read_text()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    validated = [record for record in records if "validation/criterion" in record]
    best = min(validated, key=lambda record: (record["validation/criterion"], record["step"]))
    step = best["step"]
    assert f"| loss/total | {best['loss/total']:.4f} | the batch of step {step} |" in card
    recall = best["validation/recall_at_1"]
    assert f"| validation/recall_at_1 | {recall:.4f} | split `train`, step {step} |" in card
    assert f"| density_gap | {best['density_gap']:.4f} |" in card


def test_a_method_without_steps_has_a_card_without_figures_of_steps(world: Path, tmp_path: Path) -> None:
    assert align(world, tmp_path / "run", "--set", "method=asif")[0] == 0
    card = (tmp_path / "run/README.md").read_text()
    assert "## Figures" not in card
    assert "ASIF: Norelli et al. 2023" in card
    assert "Objective, as weights of its terms: none" in card


def test_the_snippet_it_shows_compares_both_sides(run: Path) -> None:
    [snippet] = re.findall(r"```python\n(.+?)```", (run / "README.md").read_text(), re.DOTALL)
    check = "\nassert embeddings.shape[0] == 1\nassert cosines.shape == (1, 1)\nprint(float(cosines[0, 0]))"
    done = subprocess.run(
        [sys.executable, "-c", snippet + check],
        cwd=run,
        capture_output=True,
        text=True,
        env={**os.environ},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert -1.001 < float(done.stdout) < 1.001


def test_the_commands_it_shows_run(run: Path, world: Path, tmp_path: Path) -> None:
    commands = re.findall(r"^ {4}setclip (.+)$", (run / "README.md").read_text(), re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["embed", "evaluate"]
    places = {"THIS_FOLDER": run, "DATASET": world / "data", "EMBEDDINGS": tmp_path / "e", "REPORT": tmp_path / "r"}
    run_ok(*(places.get(word, word) for word in commands[0].split()))
    code, _, stderr = invoke(
        *(places.get(word, word) for word in commands[1].split()), "--split", "train", "--relevance", "pairs"
    )
    assert code == 0, stderr


def test_every_method_that_comes_from_a_paper_names_it() -> None:
    from setclip_cli.recipe.presets import TRAINED_METHODS
    from setclip_cli.run.model_card import PAPERS

    assert set(TRAINED_METHODS) <= set(PAPERS)
