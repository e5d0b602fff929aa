"""`setclip match`: answers with probabilities, sets and ranks; files; and input that does not fit."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from paired_vectors import NAMES, write_pools, write_recipe
from small_world import invoke, run_ok

import setclip_cli as setclip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DATASET of 200 items of which 60 are known, and a RUN of it."""
    root = tmp_path_factory.mktemp("match")
    os.environ["SETCLIP_CACHE"] = str(root / "cache")
    write_pools(root / "data", noise=0.5)
    run_ok("align", write_recipe(root), "--data", root / "data", "--out", root / "run")
    return root


def rows_of(out: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = pq.read_table(out / "matches.parquet").to_pylist()
    return found


def partner(name: str) -> str:
    return f"w{name[1:]}"


def test_every_row_of_both_sides_gets_its_answers_with_probabilities(world: Path, tmp_path: Path) -> None:
    told = json.loads(run_ok("match", world / "run", world / "data", "--top", 3, "--out", tmp_path / "m", "--json"))
    rows = rows_of(tmp_path / "m")
    assert told["matches"] == len(rows) == 2 * 200 * 3
    assert list(rows[0])[:4] == [*NAMES, "query", "rank"]
    for name, ids in zip(NAMES, "aw", strict=True):
        asked = [row for row in rows if row["query"] == name]
        assert sorted({str(row[name]) for row in asked}) == sorted(f"{ids}{number}" for number in range(200))
        assert [row["rank"] for row in asked] == [1, 2, 3] * 200
    judged = [row for row in rows if row["rank"] == 1 and row["probability"] is not None and not row["known"]]
    right = [row["words"] == partner(str(row["audio"])) for row in judged]
    expected = [float(str(row["probability"])) for row in judged]
    assert abs(sum(expected) - sum(right)) / len(judged) < 0.2
    for row in judged:
        shares = [float(str(row[name])) for name in ("probability", "another", "no_partner")]
        assert sum(shares) == pytest.approx(1, abs=3e-6)
        assert min(shares) >= 0
    first = told["queries"]["audio"]
    assert first["judged"] == 140
    assert first["rows"] == 200


def test_a_known_pair_is_sure_and_other_answers_to_its_rows_are_not_judged(world: Path, tmp_path: Path) -> None:
    run_ok("match", world / "run", world / "data", "--top", 2, "--out", tmp_path / "m")
    for row in rows_of(tmp_path / "m"):
        of_known = int(str(row["audio" if row["query"] == "audio" else "words"])[1:]) < 60
        assert row["known"] == (of_known and row["words"] == partner(str(row["audio"])))
        if row["known"]:
            assert row["probability"] == 1
        else:
            assert (row["probability"] is None) == of_known


def test_pools_that_have_nothing_in_common_get_small_probabilities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fit finds the pairs that it saw, so these could not have told."""
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / "cache"))
    write_pools(tmp_path / "data", rows=150, known=50, noise=50.0)
    run_ok("align", write_recipe(tmp_path), "--data", tmp_path / "data", "--out", tmp_path / "run")
    told = json.loads(run_ok("match", tmp_path / "run", tmp_path / "data", "--out", tmp_path / "m", "--json"))
    for found in told["queries"].values():
        assert found["expected_right"] / found["judged"] < 0.1
        assert found["mean_set_size"] > 75


def test_sets_hold_the_partner_as_often_as_stated(world: Path, tmp_path: Path) -> None:
    arguments = ("match", world / "run", world / "data", "--top", 200, "--coverage", 0.9)
    told = json.loads(run_ok(*arguments, "--out", tmp_path / "m", "--json"))
    rows = [row for row in rows_of(tmp_path / "m") if int(str(row["audio"])[1:]) >= 60]
    partners = [row for row in rows if row["words"] == partner(str(row["audio"]))]
    assert 0.83 < sum(bool(row["in_set"]) for row in partners) / len(partners) <= 1
    first = [row for row in rows if row["audio"] == "a77" and row["query"] == "audio"]
    assert sum(bool(row["in_set"]) for row in first) <= int(str(first[0]["set_size"]))
    assert told["guarantee"]


def test_one_to_one_gives_each_row_one_partner(world: Path, tmp_path: Path) -> None:
    run_ok("match", world / "run", world / "data", "--one-to-one", "--out", tmp_path / "m")
    rows = rows_of(tmp_path / "m")
    assert len(rows) == 200
    assert len({row["audio"] for row in rows}) == len({row["words"] for row in rows}) == 200
    assert sum(row["words"] == partner(str(row["audio"])) for row in rows) > 120
    assert all(row["query"] == "audio" for row in rows)
    assert min(int(str(row["rank"])) for row in rows) == 1
    message = invoke("match", world / "run", world / "data", "--one-to-one", "--top", 2, "--out", tmp_path / "n")
    assert message[0] == 2
    assert "--top 2" in message[2]


def test_the_same_matches_have_the_same_bytes_and_are_not_made_twice(world: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        run_ok("match", world / "run", world / "data", "--out", tmp_path / name)
    files = ("matches.parquet", "matches.csv", "matches.json")
    first = [(tmp_path / "first" / name).read_bytes() for name in files]
    assert first == [(tmp_path / "second" / name).read_bytes() for name in files]
    told = json.loads(run_ok("match", world / "run", world / "data", "--out", tmp_path / "first", "--json"))
    assert told["reused"]
    assert "whole" in run_ok("verify", tmp_path / "first")
    (tmp_path / "first" / "matches.csv").write_text("changed")
    assert "matches.csv: its sha256 differs" in invoke("verify", tmp_path / "first")[2]
    told = json.loads(run_ok("match", world / "run", world / "data", "--out", tmp_path / "first", "--json"))
    assert not told["reused"]
    assert first == [(tmp_path / "first" / name).read_bytes() for name in files]


def test_the_format_says_which_files_there_are(world: Path, tmp_path: Path) -> None:
    for form, names in (("csv", ["matches.csv"]), ("parquet", ["matches.parquet"])):  # the other one goes
        run_ok("match", world / "run", world / "data", "--format", form, "--out", tmp_path / "m")
        there = sorted(path.name for path in (tmp_path / "m").iterdir() if path.name.startswith("matches"))
        assert there == sorted([*names, "matches.json"])


def test_a_spreadsheet_computes_nothing_of_an_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / "cache"))
    write_pools(tmp_path / "data", rows=50, known=10, ids=('=HYPERLINK("x";{})', 'a,"b"\n{}'))
    run_ok("align", write_recipe(tmp_path), "--data", tmp_path / "data", "--out", tmp_path / "run")
    told = json.loads(run_ok("match", tmp_path / "run", tmp_path / "data", "--out", tmp_path / "m", "--json"))
    assert told["csv_cells_escaped"] == 100
    with (tmp_path / "m" / "matches.csv").open(encoding="utf-8", newline="") as file:
        cells = list(csv.DictReader(file))
    exact = rows_of(tmp_path / "m")
    assert [row["audio"] for row in cells] == [f"'{row['audio']}" for row in exact]
    assert [row["words"] for row in cells] == [row["words"] for row in exact]


def test_with_few_pairs_there_are_ranks_only_and_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / "cache"))
    write_pools(tmp_path / "data", rows=60, known=29)
    run_ok("align", write_recipe(tmp_path), "--data", tmp_path / "data", "--out", tmp_path / "run")
    assert not (tmp_path / "run" / "calibration.json").exists()
    code, stdout, stderr = invoke("match", tmp_path / "run", tmp_path / "data", "--out", tmp_path / "m", "--json")
    assert code == 0
    assert "29 known items, and probabilities need 30" in stderr
    assert json.loads(stdout)["why_no_probability"]
    rows = rows_of(tmp_path / "m")
    assert {row["probability"] for row in rows} == {row["in_set"] for row in rows} == {None}
    assert any(row["no_partner"] for row in rows)  # this needs 20 items only
    assert all(row["rank"] == 1 for row in rows)


def test_a_run_of_an_earlier_version_gives_ranks(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "run", tmp_path / "run")
    (tmp_path / "run" / "calibration.json").unlink()
    code, _, stderr = invoke("match", tmp_path / "run", world / "data", "--out", tmp_path / "m")
    assert code == 0
    assert "align again" in stderr


def test_a_calibration_of_another_training_or_a_changed_one_is_refused(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "run", tmp_path / "run")
    path = tmp_path / "run" / "calibration.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"split": "train"', '"split": "other"'), encoding="utf-8")
    code, _, stderr = invoke("match", tmp_path / "run", world / "data", "--out", tmp_path / "m")
    assert code == 3
    assert "has changed since setclip wrote it" in stderr
    content = json.loads(text)
    del content["self_sha256"]
    path.write_text(json.dumps(content | {"model_sha256": "0" * 64}), encoding="utf-8")
    code, _, stderr = invoke("match", tmp_path / "run", world / "data", "--out", tmp_path / "m")
    assert code == 3
    assert "belongs to another training" in stderr
    content["left_to_right"]["temperature"] = 0
    path.write_text(json.dumps(content), encoding="utf-8")
    code, _, stderr = invoke("match", tmp_path / "run", world / "data", "--out", tmp_path / "m")
    assert code == 3
    assert "temperature" in stderr
    assert not (tmp_path / "m").exists()


def test_what_is_there_is_not_overwritten(world: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    code, _, stderr = invoke("match", world / "run", world / "data", "--out", tmp_path / "mine")
    assert code == 3
    assert "thesis.txt" in stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_folders_in_the_wrong_order_and_a_split_that_is_not_there(world: Path, tmp_path: Path) -> None:
    code, _, stderr = invoke("match", world / "data", world / "run", "--out", tmp_path / "m")
    assert code == 2
    assert f"setclip match {world / 'run'} {world / 'data'}" in stderr
    code, _, stderr = invoke("match", world / "run", world / "data", "--split", "nowhere", "--out", tmp_path / "m")
    assert code in (2, 3)
    assert "nowhere" in stderr
    code, _, stderr = invoke("match", world / "run", world / "data", "--coverage", "1", "--out", tmp_path / "m")
    assert code == 2


def test_a_dataset_without_the_other_side(world: Path, tmp_path: Path) -> None:
    write_pools(tmp_path / "data", rows=40, known=0)
    index = json.loads((tmp_path / "data" / "dataset.json").read_text(encoding="utf-8"))
    index["shards"] = [shard for shard in index["shards"] if shard["modality"] == "audio"]
    index["modalities"].pop("words")
    index.pop("self_sha256", None)
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(index), encoding="utf-8")
    code, _, stderr = invoke("match", world / "run", tmp_path / "data", "--out", tmp_path / "m")
    assert code in (2, 3)
    assert "words" in stderr


def test_a_split_without_pairs_is_matched_with_probabilities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / "cache"))
    write_pools(tmp_path / "data", rows=90, known=40, splits=("train", "new"))
    run_ok("align", write_recipe(tmp_path), "--data", tmp_path / "data", "--out", tmp_path / "run")
    run_ok("match", tmp_path / "run", tmp_path / "data", "--split", "new", "--out", tmp_path / "m")
    rows = rows_of(tmp_path / "m")
    assert len(rows) == 180
    assert all(row["probability"] is not None for row in rows)  # training saw none of these pairs


def test_rows_of_a_kind_that_the_other_side_lacks_are_likely_to_have_no_partner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / "cache"))
    write_pools(tmp_path / "data", rows=300, known=60, lonely=120)
    run_ok("align", write_recipe(tmp_path), "--data", tmp_path / "data", "--out", tmp_path / "run")
    told = json.loads(run_ok("match", tmp_path / "run", tmp_path / "data", "--out", tmp_path / "m", "--json"))
    rows = [row for row in rows_of(tmp_path / "m") if row["query"] == "audio" and not row["known"]]
    alone = [float(str(row["no_partner"])) for row in rows if int(str(row["audio"])[1:]) >= 180]
    others = [float(str(row["no_partner"])) for row in rows if 60 <= int(str(row["audio"])[1:]) < 180]
    assert sum(alone) / len(alone) > 0.5 > sum(others) / len(others)
    share, low, high = told["queries"]["audio"]["share_without_partner"]
    assert low <= share <= high
    assert low < 0.4 < high


def test_from_python(world: Path, tmp_path: Path) -> None:
    options = setclip.MatchOptions(top=2, coverage=0.8)
    found = setclip.match(world / "run", setclip.open_dataset(world / "data"), tmp_path / "m", options)
    assert found.content["matches"] == 800
    assert "about" in found.summary()


@pytest.mark.slow
def test_as_a_command_of_its_own(world: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "setclip_cli", "match", str(world / "run"), str(world / "data")]
    done = subprocess.run([*words, "--out", str(tmp_path / "m"), "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["matches"] == 400
