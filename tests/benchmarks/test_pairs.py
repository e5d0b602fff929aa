"""The benchmark of true pairs: which settings it chooses, what its tables say, and what its picture shows."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pairs
import pairs_found
import pairs_picture
import pytest
import torch
import true_pairs


def record(method: str, mean_recall: float, *, seed: int = 0, **changed: Any) -> dict[str, Any]:
    of_all = {"data": "yeast", "split": "test", "known": "50", "settings": {}, "items": 50, "pairs": 50, "chance": 1.3}
    return of_all | {"method": method, "mean_recall": mean_recall, "seed": seed, "wall_s": 2.0} | changed


def validated(axes: int, values: list[float], method: str = "cca", **changed: Any) -> list[dict[str, Any]]:
    return [
        record(method, value, seed=100 + seed, split="validation", settings={"axes": axes}, **changed)
        for seed, value in enumerate(values)
    ]


@pytest.fixture
def items() -> true_pairs.Items:
    """240 items with two texts each, half of them for the test; what an item is about is in both features."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(240, 8, generator=generator)
    item_of = np.repeat(np.arange(240), 2)
    texts = features[torch.from_numpy(item_of)] + 0.1 * torch.randn(480, 8, generator=generator)
    blocks = np.array([f"block {number}" for number in range(240)])
    return true_pairs.Items(
        features, texts, item_of, np.arange(480), blocks, np.array([""] * 240), np.arange(240) % 2 == 0
    )


# which settings


def test_the_setting_with_the_best_mean_over_the_validation_seeds_is_chosen_for_each_place() -> None:
    records = [
        *validated(64, [9, 1]),
        *validated(256, [6, 6]),
        *validated(384, [8]),  # has fewer seeds: one lucky seed decides nothing
        *validated(64, [3, 3], known="200"),
        *validated(0, [2, 2], known="200"),
        *(record("cca", 99, seed=seed, settings={"axes": 1}) for seed in range(2)),  # of the test split
    ]
    chosen = {pairs_found.place(line): line for line in pairs_found.choose(records)}
    assert chosen["yeast", "50", "cca"]["settings"] == {"axes": 256}
    assert chosen["yeast", "50", "cca"]["tried"] == 2
    assert chosen["yeast", "200", "cca"]["settings"] == {"axes": 64}
    assert len(chosen) == 2


@pytest.mark.parametrize(
    ("chosen", "known", "axes"),
    [
        ({"50": 4, "200": 2}, "50", 4),
        ({"50": 4, "200": 2}, "20", 4),
        ({"50": 4, "200": 2}, "0.1", 2),
        ({"50": 4, "200": 2}, "all", 2),
        ({"50": 4, "200": 2, "0.1": 3}, "all", 3),
        ({"50": 4, "0.1": 3}, "200", 3),
    ],
)
def test_the_test_split_is_scored_with_the_setting_chosen_at_this_number_or_a_near_one(
    chosen: dict[str, int],
    known: str,
    axes: int,
    items: true_pairs.Items,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = [{"data": "yeast", "known": at, "method": "cca", "settings": {"axes": n}} for at, n in chosen.items()]
    (tmp_path / "chosen.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (found,) = run(items, tmp_path, monkeypatch, "--chosen", tmp_path / "chosen.jsonl", "--known", known)
    assert found["settings"] == {"axes": axes}
    assert found["items"] == {"50": 50, "20": 20, "200": 120, "0.1": 12, "all": 120}[known]


def test_a_grid_is_run_whole_and_what_is_recorded_is_not_run_again(
    items: true_pairs.Items, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--split", "validation", "--known", "20")
    first = run(items, tmp_path, monkeypatch, *words, "--settings", '{"axes": 64}')
    assert run(items, tmp_path, monkeypatch, *words, "--grid")[0] == first[0]
    found = run(items, tmp_path, monkeypatch, *words, "--grid")
    assert [each["settings"] for each in found] == list(pairs.GRIDS["cca"])
    assert all(each["mean_recall"] > 3 * each["chance"] for each in found)


def run(items: true_pairs.Items, folder: Path, monkeypatch: pytest.MonkeyPatch, *words: Any) -> list[dict[str, Any]]:
    """The records after a run of the script with CCA and one seed on these items."""
    monkeypatch.setattr(true_pairs, "load", lambda *_: items)
    command = ("--records", folder / "records.jsonl", "--names", "yeast", "--methods", "cca", "--seeds", "0", *words)
    monkeypatch.setattr(sys, "argv", ["pairs.py", *map(str, command)])
    pairs.main()
    return pairs_found.read(folder / "records.jsonl")


def test_settings_reach_the_recipe_of_a_method_and_the_arguments_of_a_rival(items: true_pairs.Items) -> None:
    problem = true_pairs.draw(items, 40, 0)
    (left, _), _ = pairs.embed(problem, items, "cca", {"axes": 3}, 0)
    assert left.shape[1] == 3
    (left, _), _ = pairs.embed(problem, items, "csa", {"axes": 4}, 0)
    assert left.shape[1] == 4 + 2  # and the two that make it of unit length


def test_every_setting_of_a_grid_is_one_that_its_method_takes() -> None:
    for method, grid in pairs.GRIDS.items():
        assert len({json.dumps(settings) for settings in grid}) == len(grid)
        if method not in pairs.rivals.RIVALS:
            for settings in grid:
                pairs.recipe_of(method, settings, seed=0)


# what the tables say


def test_the_table_compares_ours_with_the_best_other_over_the_seeds_that_both_have() -> None:
    records = [
        *(record("transport", value, seed=seed) for seed, value in enumerate([10, 20, 30])),
        *(record("cca", value, seed=seed, settings={"axes": 64}) for seed, value in enumerate([12, 18])),
        *validated(64, [99, 99, 99]),
        *(record("asif", 17, seed=seed) for seed in range(3)),  # more than CCA, but not with the same seeds
    ]
    beside, every, settings = pairs_found.tables(records).split("\n\n")
    row = beside.splitlines()[2]
    assert "| 20.0 ± 10.0 | cca 15.0 ± 4.2 | 64 axes | 1.00 | 1 of 2 |" in row  # (10 + 20) / (12 + 18)
    assert every.splitlines()[2].startswith("| yeast, 50 (50 pairs) | 1.3 | 20.0 | 15.0 (2) | 17.0 |")
    assert settings.splitlines()[2:] == ["| cca | 64 axes |", "| asif | its own axes |"]


def test_settings_of_a_method_are_told_for_each_number_of_known_items_if_they_differ() -> None:
    records = [
        record("cca", 1, settings={"axes": 64}),
        record("cca", 2, known="200", settings={"axes": 0}),
        record("csa", 1, settings={"axes": 256, "ridge": 4.0}),
        record("csa", 1, known="200", settings={"axes": 256, "ridge": 4.0}),
    ]
    settings = pairs_found.tables(records).split("\n\n")[2].splitlines()[2:]
    assert settings == ["| cca | 64 axes / all axes |", "| csa | 256 axes, ridge = 4 |"]


def test_map_is_beside_the_best_other_map_and_lines_are_in_the_order_of_known_items() -> None:
    records = [
        record("transport", 10, map=50.0, known="all"),
        record("cca", 9, map=40.0, known="all"),
        record("asif", 8, map=45.0, known="all"),
        record("transport", 5, known="0.1"),
        record("cca", 4, known="0.1"),
    ]
    lines = pairs_found.tables(records).splitlines()
    assert lines[2].startswith("| yeast, a tenth")
    assert "| 50.0 / 45.0 (asif) |" in lines[3]


# what the picture shows


def test_the_picture_has_a_panel_a_data_set_and_names_every_line() -> None:
    records = [
        record(method, value + items / 50, known=known, items=items, data=data)
        for data in ("yeast", "rsicd")
        for method, value in (("transport", 9), ("cca", 8), ("relative", 7))
        for known, items in (("50", 50), ("200", 200))
    ]
    root = ElementTree.fromstring(pairs_picture.picture([*records, record("mini_vec2vec", 2, known="0", items=0)]))
    texts = ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert [texts.count(name) for name in ("transport", "cca", "relative", "mini-vec2vec")] == [2, 2, 2, 1]
    assert sum("Yeast" in text or "RSICD" in text for text in texts) == 2


def test_higher_is_better_in_the_picture_and_more_known_items_are_further_right() -> None:
    panel = pairs_picture.Panel("yeast", 1.0, {"cca": [(0, 1.0), (50, 3.0), (5000, 7.0)]})
    assert panel.y(1.0) > panel.y(3.0) > panel.y(7.0) > 0
    assert panel.x(0) < panel.x(50) < panel.x(500) < panel.x(5000)
    assert panel.x(500) - panel.x(50) == pytest.approx(panel.x(5000) - panel.x(500))


def test_names_of_lines_keep_their_order_and_their_distance() -> None:
    placed = pairs_picture.spread([50, 10, 11, 99, 98, 12], 10, 0, 100)
    assert sorted(range(6), key=lambda n: placed[n]) == [1, 2, 5, 0, 4, 3]
    ordered = sorted(placed)
    assert all(b - a >= 10 for a, b in itertools.pairwise(ordered))
    assert ordered[0] >= 0
    assert ordered[-1] <= 100
