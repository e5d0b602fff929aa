"""The benchmark of adaptation runs whole on a tiny source and a tiny target."""

from __future__ import annotations

import json
from pathlib import Path

import adapt
import numpy as np
import pytest
import torch
import true_pairs

ITEMS, TEXTS = 40, 2
SMALL = ("train.steps=3", "projection.dim=8", "projection.pca=6", "train.batch=8")


def items(name: str, *_: Path) -> true_pairs.Items:
    """Items with two texts each, half of them for the test: both sides see the same factors, each data set its own."""
    draw = torch.Generator().manual_seed(len(name))
    factors = torch.randn(ITEMS, 4, generator=draw)
    item_of = np.repeat(np.arange(ITEMS), TEXTS)
    mixing = torch.Generator().manual_seed(0)
    left, right = (torch.randn(4, width, generator=mixing) for width in (10, 7))
    return true_pairs.Items(
        factors @ left,
        factors[item_of] @ right + 0.1 * torch.randn(len(item_of), 7, generator=draw),
        item_of,
        np.arange(len(item_of)),
        np.array([f"{name}{number}" for number in range(ITEMS)]),
        np.array([("a", "b")[number % 2] for number in range(ITEMS)]),
        np.arange(ITEMS) % 2 == 1,
    )


def test_the_ways_are_compared_and_each_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(true_pairs, "load", items)
    ways = [adapt.START, "adapted", "adapted by transport", adapt.SCRATCH]
    records = tmp_path / "adapt.jsonl"
    words = ["--records", str(records), "--known", "4", "--seeds", "0", "1", "--ways", *ways]
    words += [word for setting in SMALL for word in ("--set", setting)]
    adapt.main(words)
    found = [json.loads(line) for line in records.read_text().splitlines()]
    assert [(each["seed"], each["way"]) for each in found] == [(seed, way) for seed in (0, 1) for way in ways]
    assert all(0 < each["mean_recall"] <= 100 and 0 < each["map"] <= 100 for each in found)
    adapt.main(words)
    assert len(records.read_text().splitlines()) == len(found)
    capsys.readouterr()
    adapt.main([*words, "--table"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:]] == ways


def test_leads_are_paired_by_seed() -> None:
    values = {adapt.START: (3.0, 5.0), "adapted": (4.0, 7.0)}
    records = [
        {"known": 0, "way": way, "seed": seed, "mean_recall": found[seed], "map": found[seed]}
        for way, found in values.items()
        for seed in (0, 1)
    ]
    line = adapt.table(records)[3]  # the mean of 1 and 2, and 12.71 standard errors of 0.5
    assert line == "| 0 | adapted | 5.5 ± 2.1 | +1.5 ± 6.4 | 5.5 ± 2.1 | +1.5 ± 6.4 | 2 |"
