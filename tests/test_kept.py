"""What earlier versions wrote still opens: a DATASET, RUNs and EMBEDDINGS made before the package had rooms."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from small_world import invoke, run_ok

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.dataset.verify import verify
from setclip_cli.embedding.embeddings import open_embeddings
from setclip_cli.files.atomic import sha256_file

KEPT = Path(__file__).parent / "fixtures" / "before_rooms"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to write into; its recipes name ``esm2.pt`` relative to the working folder."""
    shutil.copytree(KEPT, tmp_path / "kept")
    monkeypatch.chdir(tmp_path / "kept")
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "kept"


def test_the_dataset_is_whole(kept: Path) -> None:
    assert verify(kept / "dataset").rows == 60
    assert len(open_dataset(kept / "dataset").pairs()) == 18


@pytest.mark.parametrize(("run", "embeddings"), [("run", "embeddings"), ("run-proteins", "embeddings-proteins")])
def test_a_run_embeds_as_it_did(kept: Path, run: str, embeddings: str) -> None:
    run_ok("embed", run, "dataset", "--out", "again")
    before, now = open_embeddings(kept / embeddings), open_embeddings(kept / "again")
    assert before.index.model == now.index.model
    for modality in before.modalities():
        old, new = before.load(modality), now.load(modality)
        assert old.ids == new.ids
        np.testing.assert_allclose(new.embeddings, old.embeddings, atol=1e-5)


@pytest.mark.parametrize("run", ["run", "run-proteins"])
def test_a_run_counts_as_finished_with_its_own_recipe(kept: Path, run: str) -> None:
    before = sha256_file(kept / run / "model.safetensors")
    told = json.loads(run_ok("align", f"{run}/recipe.toml", "--data", "dataset", "--out", run, "--json"))
    assert told["reused"]
    assert sha256_file(kept / run / "model.safetensors") == before


def test_a_run_goes_on_from_its_checkpoint(kept: Path) -> None:
    words = ("align", "run/recipe.toml", "--data", "dataset", "--out", "run", "--set", "train.steps=16", "--resume")
    told = json.loads(run_ok(*words, "--json"))
    assert (told["resumed_from"], told["steps"]) == (12, 16)


def test_a_tuned_protein_run_goes_on_to_the_weights_it_would_have_had(kept: Path) -> None:
    """The values are of the version that wrote the checkpoint; every optimizer state must find its weight again."""
    recipe = ("align", "run-proteins/recipe.toml", "--data", "dataset", "--out", "run-proteins")
    run_ok(*recipe, "--set", "train.steps=9", "--resume", "--set", "train.device=cpu")
    found = load_file(kept / "run-proteins" / "tuned-protein.safetensors")["emb_layer_norm_after.bias"][:4]
    np.testing.assert_allclose(found, [0.26293188, -0.07020121, -0.05003688, 0.27581155], atol=1e-6)


def test_embeddings_and_runs_are_evaluated(kept: Path) -> None:
    run_ok("evaluate", "embeddings", "run", "dataset", "--out", "report", "--baselines", "none")
    content = json.loads((kept / "report" / "report.json").read_text(encoding="utf-8"))
    of_embeddings, of_run = content["targets"]
    for key, value in of_embeddings["metrics"].items():
        assert of_run["metrics"][key]["value"] == pytest.approx(value["value"], abs=1e-5)


def test_a_search_opens_embeddings_that_have_moved(kept: Path) -> None:
    code, stdout, _ = invoke("search", "embeddings", "forest seen from above", "--split", "test", "--json")
    assert code == 0
    assert len(json.loads(stdout)["hits"]) == 6


def test_a_report_on_rows_of_one_class_or_on_those_trained_on_says_so(kept: Path) -> None:
    code, _, stderr = invoke("evaluate", "run", "dataset", "--out", "report", "--baselines", "none")
    assert (code, "WARNING: All labels of split test are 'harbour', so every answer counts as right." in stderr) == (
        0,
        True,
    )
    assert "every answer counts as right" in (kept / "report" / "report.md").read_text()
    code, _, stderr = invoke(
        *("evaluate", "run", "dataset", "--out", "again", "--baselines", "none", "--split", "train")
    )
    assert (code, "WARNING: run: the rows of split train were used for training too" in stderr) == (0, True)


def test_nothing_is_written_into_a_run_a_dataset_or_embeddings(kept: Path) -> None:
    commands = {
        "run/export": ("export", "run", "--to", "safetensors"),
        "dataset/embeddings": ("embed", "run", "dataset"),
        "embeddings/report": ("evaluate", "embeddings", "dataset", "--relevance", "label"),
        "run/report": ("evaluate", "run", "dataset"),
        "dataset/run": ("align", "run/recipe.toml", "--data", "dataset"),
        "dataset/dataset": ("ingest", "image=dataset", "--modality", "image"),
    }
    for out, words in commands.items():
        code, _, stderr = invoke(*words, "--out", out)
        assert code in (2, 3), (out, stderr)
        assert f"is inside {kept / out.partition('/')[0]}, which is" in stderr or out == "dataset/dataset", stderr
        assert not (kept / out).exists()
