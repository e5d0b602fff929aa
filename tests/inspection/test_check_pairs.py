"""`setclip check-pairs` and `align --drop-suspect`: planted wrong pairs are named, and nothing happens silently."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_world
import torch

from setclip_cli.dataset.dataset import Pair
from setclip_cli.errors import SetClipError, UsageError
from setclip_cli.inspection.check_pairs import check_pairs
from setclip_cli.inspection.check_pairs_options import CheckPairsOptions
from setclip_cli.run.config import load_config
from setclip_cli.training.suspect_pairs import told_of_dropped

KNOWN, WRONG = 120, 12
HOSTILE = "=cmd|'<script>alert(1)</script>"


def views(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Row i of one belongs to row i of the other."""
    draw = torch.Generator().manual_seed(0)
    factors = torch.randn(rows, 6, generator=draw)
    left, right = (
        factors @ torch.randn(6, width, generator=draw) + 0.3 * torch.randn(rows, width, generator=draw)
        for width in (24, 16)
    )
    return left.numpy(), right.numpy()


def ingested(folder: Path, pairs: list[tuple[str, str]], rows: int = 300) -> Path:
    """A DATASET of radar and sonar vectors; radar 0 has a hostile id."""
    for name, values in zip(("radar", "sonar"), views(rows), strict=True):
        np.save(folder / f"{name}.npy", values)
        ids = [f"{name}{row}" for row in range(rows)]
        if name == "radar":
            ids[0] = HOSTILE
        (folder / f"{name}.ids").write_text("\n".join(ids) + "\n")
    with (folder / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("radar", "sonar"), *pairs])
    for name in ("radar", "sonar"):
        more = ["--pairs", folder / "pairs.csv"] if name == "sonar" and pairs else []
        small_world.run_ok(
            *("ingest", folder / f"{name}.npy", "--modality", name, "--kind", "vector"),
            *("--ids", folder / f"{name}.ids", "--out", folder / "data", *more),
        )
    (folder / "recipe.toml").write_text(
        'schema_version = 2\nmethod = "cca"\n[towers.radar]\nbackbone = "vector"\n[towers.sonar]\nbackbone = "vector"\n'
    )
    return folder / "data"


def named(count: int, wrong: int) -> list[tuple[str, str]]:
    """Pairs of the first rows, the first ``wrong`` of which have each other's partners."""
    lefts = [HOSTILE, *(f"radar{row}" for row in range(1, count))]
    return [(left, f"sonar{(row + 1) % wrong if row < wrong else row}") for row, left in enumerate(lefts)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ingested(tmp_path_factory.mktemp("spoilt"), named(KNOWN, WRONG))


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ingested(tmp_path_factory.mktemp("clean"), named(KNOWN, 0))


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_installed_command_names_the_wrong_pairs_first(data: Path, tmp_path: Path) -> None:
    words = ["check-pairs", str(data), "--out", str(tmp_path / "check"), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "setclip_cli", *words], capture_output=True, text=True, check=True, timeout=300
    )
    told = json.loads(done.stdout)
    wrong = {f"sonar{row}" for row in range(WRONG)}
    assert (told["pairs"], told["known_items"]) == (KNOWN, KNOWN)
    suspects = [each["right_id"] for each in told["suspects"]]
    assert len(wrong & {*suspects}) >= WRONG - 1
    assert told["likely_wrong"] == len(suspects) <= WRONG + 2
    assert told["expected_wrong_interval"][0] <= WRONG + 1 <= told["expected_wrong_interval"][1] + 2
    assert told["gain"]["held_out_items"] == KNOWN - len(suspects)
    rows = table(tmp_path / "check" / "check_pairs.csv")
    assert len(rows) == KNOWN
    assert [row["sonar"] for row in rows[: len(suspects)]] == suspects
    assert {row["likely_wrong"] for row in rows[: len(suspects)]} == {"yes"}
    assert "other known items fit this sonar row better, first radar row radar" in rows[0]["reason"]
    found = [float(row["probability"]) for row in rows]
    assert found == sorted(found, reverse=True)


def test_the_better_item_that_is_named_is_the_right_one(data: Path, tmp_path: Path) -> None:
    found = check_pairs(data, tmp_path / "check").suspects
    owner = {f"sonar{row}": HOSTILE if row == 0 else f"radar{row}" for row in range(KNOWN)}
    assert sum(pair.best == owner[pair.right] for pair in found) >= len(found) / 2


def test_equal_calls_write_equal_bytes(data: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        check_pairs(data, tmp_path / name)
    for path in (tmp_path / "one").glob("check_pairs.[ch]*"):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    again = (tmp_path / "one" / "pairs_kept.csv").read_bytes()
    check_pairs(data, tmp_path / "one")
    assert (tmp_path / "one" / "pairs_kept.csv").read_bytes() == again


def test_the_kept_pairs_are_ingested_as_they_are(data: Path, tmp_path: Path) -> None:
    found = check_pairs(data, tmp_path / "check")
    source = data.parent
    for name in ("radar", "sonar"):
        small_world.run_ok(
            *("ingest", source / f"{name}.npy", "--modality", name, "--kind", "vector"),
            *("--ids", source / f"{name}.ids", "--out", tmp_path / "data"),
            *(["--pairs", tmp_path / "check" / "pairs_kept.csv"] if name == "sonar" else []),
        )
    assert len(check_pairs(tmp_path / "data", tmp_path / "again").pairs) == KNOWN - len(found.suspects)


def test_the_page_runs_no_script_of_an_id(data: Path, tmp_path: Path) -> None:
    check_pairs(data, tmp_path / "check")
    page = (tmp_path / "check" / "check_pairs.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "'=cmd" in (tmp_path / "check" / "check_pairs.csv").read_text(encoding="utf-8")


def test_clean_pairs_are_not_suspect(clean: Path, tmp_path: Path) -> None:
    found = check_pairs(clean, tmp_path / "check")
    assert found.suspects == []
    assert found.gain is None
    assert "No pair is likely wrong." in (tmp_path / "check" / "check_pairs.html").read_text(encoding="utf-8")
    assert len(table(tmp_path / "check" / "pairs_kept.csv")) == KNOWN


def test_a_run_reads_the_rows_through_its_towers(data: Path, tmp_path: Path) -> None:
    small_world.run_ok("align", data.parent / "recipe.toml", "--data", data, "--out", tmp_path / "run")
    by_run = check_pairs(data, tmp_path / "check", CheckPairsOptions(run=tmp_path / "run"))
    assert [pair.right for pair in by_run.suspects] == [
        pair.right for pair in check_pairs(data, tmp_path / "x").suspects
    ]


@pytest.mark.parametrize("count", [0, 1, 19])
def test_too_few_pairs_say_what_is_needed(tmp_path: Path, count: int) -> None:
    data = ingested(tmp_path, named(KNOWN, 0)[:count], rows=60)
    with pytest.raises(SetClipError) as told:
        check_pairs(data, tmp_path / "check")
    if count:
        assert f"takes 20 known items or more; there {'is' if count == 1 else 'are'} {count}" in told.value.problem
    else:
        assert "no radar-sonar pair is known in split 'train'" in told.value.problem
    assert "setclip ingest --pairs" in told.value.fix
    assert not (tmp_path / "check").exists()


def test_a_split_without_pairs_names_one_that_has_some(data: Path, tmp_path: Path) -> None:
    with pytest.raises(SetClipError):
        check_pairs(data, tmp_path / "check", CheckPairsOptions(split="test"))


def test_a_folder_of_other_things_is_left_alone(data: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SetClipError, match="is not a folder of setclip check-pairs"):
        check_pairs(data, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_run_and_a_recipe_are_not_given_together(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        check_pairs(data, tmp_path / "check", CheckPairsOptions(run=tmp_path, recipe="x"))


def test_align_warns_of_wrong_pairs_and_not_of_right_ones(data: Path, clean: Path, tmp_path: Path) -> None:
    warned = []
    for place in (data, clean):
        out = tmp_path / place.parent.name
        code, _, stderr = small_world.invoke("align", data.parent / "recipe.toml", "--data", place, "--out", out)
        assert code == 0
        warned.append("known pairs are likely wrong; look at them: setclip check-pairs" in stderr)
        assert not (out / "dropped_pairs.csv").exists()
        assert "drop_suspect" not in (out / "recipe.toml").read_text() + (out / "README.md").read_text()
        assert "dropped_pairs" not in json.loads((out / "config.json").read_text())
    assert warned == [True, False]


def test_align_leaves_suspects_out_only_when_asked_and_says_so(data: Path, tmp_path: Path) -> None:
    words = ("align", data.parent / "recipe.toml", "--data", data, "--out", tmp_path / "run", "--drop-suspect")
    code, stdout, stderr = small_world.invoke(*words, "--json")
    assert code == 0
    dropped = table(tmp_path / "run" / "dropped_pairs.csv")
    found = check_pairs(data, tmp_path / "check").suspects
    assert {row["sonar"] for row in dropped} == {pair.right for pair in found}
    assert json.loads(stdout)["pairs"] == KNOWN - len(dropped)
    assert f"{len(dropped)} of {KNOWN} known pairs are likely wrong and are left out" in stderr
    config = load_config(tmp_path / "run")
    assert (config.pairs, config.dropped_pairs) == (KNOWN - len(dropped), len(dropped))
    assert f"{len(dropped)} of {KNOWN}" in (tmp_path / "run" / "README.md").read_text()
    assert json.loads(small_world.run_ok(*words, "--json"))["reused"]
    code, _, stderr = small_world.invoke(*words[:-1])
    assert (code, "drop_suspect" in stderr) == (2, True)


def test_leaving_out_needs_pairs_to_judge_by(tmp_path: Path) -> None:
    data = ingested(tmp_path, named(12, 0), rows=60)
    words = ("align", tmp_path / "recipe.toml", "--data", data, "--out", tmp_path / "run", "--drop-suspect")
    code, _, stderr = small_world.invoke(*words)
    assert code == 3
    assert "takes 20 known items or more; there are 12" in stderr


def test_what_is_left_out_of_few_items_comes_with_a_doubt() -> None:
    pair = Pair("radar", "a", "sonar", "b", "train")
    told = [told_of_dropped([(pair, 0.9)], 49, items, Path("run/dropped_pairs.csv")) for items in (50, 200)]
    assert ["some of them may be right" in line for line in told] == [True, False]
    assert told_of_dropped([], 50, 50, Path("x")) == (
        "drop_suspect: 0 of 50 known pairs are likely wrong and are left out"
    )
