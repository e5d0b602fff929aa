"""`setclip inspect`: planted rows without a partner and planted near copies are found and listed; nothing else is."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import small_world
import torch
from two_pools import pools

from setclip_cli.errors import UsageError
from setclip_cli.inspection.inspect import inspect
from setclip_cli.inspection.inspect_page import SHOWN, inspect_page
from setclip_cli.inspection.leakage import nearest_training_rows
from setclip_cli.inspection.options import InspectOptions

CLUSTERS, GONE = 8, 4
HOSTILE = "=cmd|'<script>alert(1)</script>"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors: the right side lacks half of the clusters; 5 of 40 test rows of the left side are copies."""
    folder = tmp_path_factory.mktemp("world")
    left, right = (side.numpy() for side in pools(CLUSTERS, 400, 500))
    right = right[np.arange(500) % CLUSTERS >= GONE]
    cluster = (np.arange(500) % CLUSTERS)[np.arange(500) % CLUSTERS >= GONE]
    draw = np.random.default_rng(0)
    test = draw.normal(size=(40, 12)).astype(np.float32)
    test[:5] = left[:5] * 1.5  # the direction is what counts
    np.save(folder / "left.npy", np.concatenate([left, test]))
    np.save(folder / "right.npy", right)
    names = [HOSTILE, *(f"l{number}" for number in range(1, 400)), *(f"t{number}" for number in range(40))]
    (folder / "left.ids").write_text("\n".join(names) + "\n")
    known = [row for row in range(1, 400) if row % CLUSTERS >= GONE][:80]
    lines = [f"l{row},right-{draw.choice(np.flatnonzero(cluster == row % CLUSTERS))}" for row in known]
    (folder / "right.ids").write_text("\n".join(f"right-{number}" for number in range(len(right))) + "\n")
    (folder / "pairs.csv").write_text("\n".join(["left,right", *lines]) + "\n")
    return folder


@pytest.fixture(scope="module")
def data(world: Path) -> Path:
    """Ingested: the rows t0 to t39 are the split test."""
    for name, rows in (("train", slice(0, 400)), ("test", slice(400, 440))):
        part = world / name
        part.mkdir()
        np.save(part / "left.npy", np.load(world / "left.npy")[rows])
        (part / "left.ids").write_text("\n".join((world / "left.ids").read_text().splitlines()[rows]) + "\n")
        small_world.run_ok(
            "ingest", part / "left.npy", "--modality", "left", "--kind", "vector", "--ids", part / "left.ids",
            "--split", name, "--out", world / "data",
        )  # fmt: skip
    small_world.run_ok(
        "ingest", world / "right.npy", "--modality", "right", "--kind", "vector", "--ids", world / "right.ids",
        "--pairs", world / "pairs.csv", "--out", world / "data",
    )  # fmt: skip
    return world / "data"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_planted_rows_are_found_and_listed(data: Path, tmp_path: Path) -> None:
    found = inspect(data, tmp_path / "look")
    left, right = found.overlaps
    assert left.found.share == pytest.approx(GONE / CLUSTERS, abs=0.12)
    assert not right.found.certain
    listed = [row for row in rows_of(tmp_path / "look" / "unmatched.csv") if row["modality"] == "left"]
    lone = [row["id"] for row in listed if row["id"].startswith("'") or int(row["id"][1:]) % CLUSTERS < GONE]
    assert len(lone) > 0.9 * len(listed) > 100
    assert [float(row["no_partner"]) for row in listed] == sorted(
        (float(row["no_partner"]) for row in listed), reverse=True
    )
    assert found.rows == {"left": 400, "right": 248}
    assert json.loads((tmp_path / "look" / "inspect.json").read_text())["overlap"][0]["modality"] == "left"


def test_planted_copies_are_found_and_listed(data: Path, tmp_path: Path) -> None:
    found = inspect(data, tmp_path / "look", InspectOptions(near_duplicates=0.97))
    (split,) = found.copies
    assert (split.modality, split.split, split.rows) == ("left", "test", 40)
    listed = {(row["id"], row["id_in_train"]) for row in rows_of(tmp_path / "look" / "near_copies.csv")}
    planted = {("t0", f"'{HOSTILE}"), *((f"t{number}", f"l{number}") for number in range(1, 5))}
    assert planted <= listed
    assert len(listed) <= 7


def test_no_script_of_the_data_runs_in_the_page(data: Path, tmp_path: Path) -> None:
    inspect(data, tmp_path / "look")
    page = (tmp_path / "look" / "inspect.html").read_text()
    assert "<script" not in page
    assert "&lt;script" in page or HOSTILE not in page


def test_the_command_writes_the_same_bytes_twice_and_one_object(data: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        done = subprocess.run(
            [sys.executable, "-m", "setclip_cli", "inspect", data, "--out", tmp_path / name, "--json"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["near_copies"][0]["split"] == "test"
    for path in sorted((tmp_path / "one").iterdir()):
        other = (tmp_path / "two" / path.name).read_text()
        assert path.read_text().replace(str(tmp_path / "one"), str(tmp_path / "two")) == other, path.name


def test_without_pairs_it_says_what_it_needs_and_still_looks_for_copies(
    world: Path, data: Path, tmp_path: Path
) -> None:
    for name in ("train", "test"):
        part = world / name
        small_world.run_ok("ingest", part / "left.npy", "--modality", "left", "--kind", "vector", "--ids",
                           part / "left.ids", "--split", name, "--out", tmp_path / "data")  # fmt: skip
    small_world.run_ok("ingest", world / "right.npy", "--modality", "right", "--kind", "vector", "--out",
                       tmp_path / "data")  # fmt: skip
    said = small_world.run_ok("inspect", tmp_path / "data")
    assert "0 known items: too few" in said
    assert "20 known items are enough" in said
    assert "of 40 left rows of split test" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]  # nothing is written without --out


def test_a_folder_with_other_things_is_left_alone(data: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    code, _, err = small_world.invoke("inspect", data, "--out", tmp_path / "mine")
    assert code in (2, 3)
    assert "notes.txt" in err or "other" in err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_cosine_out_of_range_is_refused() -> None:
    with pytest.raises(UsageError, match="near_duplicates"):
        InspectOptions(near_duplicates=1.5)


def test_the_nearest_row_is_that_of_the_whole_product(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    rows, training = torch.randn(50, 6, generator=draw) + 3, torch.randn(70, 6, generator=draw) + 3
    monkeypatch.setattr("setclip_cli.inspection.leakage.BLOCK", 200)
    nearest, cosines = nearest_training_rows(rows, training, label="rows")
    a, b = (side - training.mean(0) for side in (rows, training))
    whole = torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=2)
    assert torch.equal(nearest, whole.argmax(1))
    assert torch.allclose(cosines, whole.amax(1), atol=1e-5)


def test_of_many_equal_rows_the_page_shows_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal captions under many ids would fill the list of rows without a partner."""
    pools_of_page = SimpleNamespace(sides=(SimpleNamespace(modality="caption"),), split="train", dataset=None)
    texts = {f"c{number}": "many cars" if number < 30 else f"field {number}" for number in range(60)}
    monkeypatch.setattr(
        "setclip_cli.inspection.inspect_page.displayed_by_id",
        lambda _dataset, _modality, _split, ids: {name: {"id": name, "text": texts[name]} for name in ids},
    )
    content = {
        "dataset": "data", "rows": {"caption": 60}, "split": "train", "pairs": 30, "why_no_overlap": None,
        "overlap": [{"interval": [0.1, 0.9], "share_without_partner": 0.5}], "near_copies_from_cosine": 0.9,
    }  # fmt: skip
    page = inspect_page(pools_of_page, content, [("Half of them", [(name, 0.9) for name in texts])], [])  # type: ignore[arg-type]
    assert page.count("<p>many cars</p>") == 1
    assert page.count("<p>field") == SHOWN - 1
