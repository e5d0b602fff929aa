"""Which RUNs get a calibration.json, and from which pairs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from small_world import run_ok

from setclip_cli.files.atomic import sha256_file
from setclip_cli.run.config import load_config
from setclip_cli.trust.saved import CALIBRATION_NAME, Calibration, read_calibration, why_not

sys.path.insert(0, str(Path(__file__).parents[1] / "matching"))
from paired_vectors import write_pools, write_recipe

pytestmark = pytest.mark.usefixtures("cache")
FEW_STEPS = "train = {{ steps = 5, batch = 16 }}\n{}"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / "cache"))


def aligned(folder: Path, method: str, extra: str = "", **pools: object) -> Calibration | None:
    write_pools(folder / "data", **{"rows": 90, "known": 40, **pools})  # type: ignore[arg-type]
    run_ok("align", write_recipe(folder, extra, method), "--data", folder / "data", "--out", folder / "run")
    return read_calibration(folder / "run")


@pytest.mark.parametrize(("method", "known"), [("transport", 40), ("transport", 33), ("cca", 30), ("asif", 40)])
def test_a_method_in_closed_form_is_calibrated_by_folds_of_its_pairs(method: str, known: int, tmp_path: Path) -> None:
    found = aligned(tmp_path, method, known=known)
    assert found is not None
    assert (found.source, found.held_out_items, found.held_out_pairs) == ("folds", known, known)
    assert found.model_sha256 == sha256_file(tmp_path / "run" / "model.safetensors")
    assert "cross-conformal" in found.guarantee()
    run_ok("verify", tmp_path / "run")


def test_the_same_alignment_writes_the_same_calibration(tmp_path: Path) -> None:
    write_pools(tmp_path / "data", rows=90, known=40)
    for name in ("first", "second"):
        run_ok("align", write_recipe(tmp_path), "--data", tmp_path / "data", "--out", tmp_path / name)
    first, second = ((tmp_path / name / CALIBRATION_NAME).read_bytes() for name in ("first", "second"))
    assert first == second
    assert CALIBRATION_NAME not in load_config(tmp_path / "first").files  # the bytes of config.json are as before


def test_a_trained_run_is_calibrated_by_the_pairs_that_it_left_over(tmp_path: Path) -> None:
    found = aligned(tmp_path, "set-clip", FEW_STEPS.format("") + "\npairs = 40", known=80)
    assert found is not None
    assert (found.source, found.held_out_items) == ("left-over pairs", 40)
    assert "split-conformal" in found.guarantee()


def test_a_trained_run_is_calibrated_by_the_pairs_of_its_validation_split(tmp_path: Path) -> None:
    extra = FEW_STEPS.format('validation = { split = "val", every = 5 }')
    found = aligned(tmp_path, "set-clip", extra, splits=("train", "val"))
    assert found is not None
    assert (found.source, found.split, found.held_out_items) == ("validation split", "val", 40)


def test_a_trained_run_without_other_pairs_says_what_it_needs(tmp_path: Path) -> None:
    assert aligned(tmp_path, "set-clip", FEW_STEPS.format("")) is None
    why, fix = why_not(tmp_path / "run", load_config(tmp_path / "run"))
    assert "no 30 items are left" in why
    assert "--set pairs=N" in fix


def test_training_that_goes_on_does_not_keep_the_calibration_of_the_state_before(tmp_path: Path) -> None:
    extra = "train = { steps = 6, batch = 16, checkpoint_every = 2 }\npairs = 40"
    before = aligned(tmp_path, "set-clip", extra, known=80)
    again = ("align", tmp_path / "set-clip.toml", "--data", tmp_path / "data", "--out", tmp_path / "run", "--resume")
    told = json.loads(run_ok(*again, "--set", "train.steps=8", "--json"))
    after = read_calibration(tmp_path / "run")
    assert told["steps"] == 8
    assert before is not None
    assert after is not None
    assert before.model_sha256 != after.model_sha256
