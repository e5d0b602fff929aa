"""Rows without a partner: a user is told of them before the training, and `transport` leaves them out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import small_world
import torch
from torch import Tensor
from two_pools import pools

from setclip_cli.recipe.recipe import Recipe
from setclip_cli.training.fit import fit
from setclip_cli.training.overlap import Overlap, estimate_overlap
from setclip_cli.trust.unmatched import UnmatchedRows

CLUSTERS = 8


def world(gone: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two pools and 80 pairs; the right side lacks the first clusters."""
    left, right = pools(CLUSTERS, 400, 480)
    right, cluster = right[torch.arange(480) % CLUSTERS >= gone], torch.arange(480) % CLUSTERS
    cluster = cluster[cluster >= gone]
    draw = np.random.default_rng(0)
    known = [row for row in range(400) if row % CLUSTERS >= gone][:80]
    partners = [int(draw.choice(np.flatnonzero(cluster.numpy() == row % CLUSTERS))) for row in known]
    return left, right, torch.tensor([known, partners]).T


def recipe(**settings: object) -> Recipe:
    towers = {"left": {"backbone": "vector"}, "right": {"backbone": "vector"}}
    return Recipe.model_validate({"method": "transport", "towers": towers, **settings})


def test_a_fit_learns_from_rows_with_a_partner_and_from_all_known_ones() -> None:
    left, right, pairs = world(4)
    found = estimate_overlap(recipe(), left, right, pairs, None)
    assert found is not None
    kept = found.kept(left, right, pairs, seed=0)
    assert torch.equal(kept.left[kept.pairs[:, 0]], left[pairs[:, 0]])
    assert torch.equal(kept.right[kept.pairs[:, 1]], right[pairs[:, 1]])
    assert len(kept.right) == len(right)  # each of them has a partner
    stayed = {tuple(row) for row in kept.left.tolist()}
    lone = [tuple(row) in stayed for number, row in enumerate(left.tolist()) if number % CLUSTERS < 4]
    others = [tuple(row) in stayed for number, row in enumerate(left.tolist()) if number % CLUSTERS >= 4]
    assert np.mean(lone) < 0.15 < 0.85 < np.mean(others)


def test_where_nothing_is_certain_the_fit_is_the_one_of_all_rows() -> None:
    left, right, pairs = world(0)
    auto, keep = (fit(recipe(unmatched=choice), left, right, pairs) for choice in ("auto", "keep"))
    assert torch.equal(auto.encoders[0](left), keep.encoders[0](left))
    assert auto.findings == keep.findings


def test_where_rows_are_left_out_the_fit_says_so_and_its_folds_name_rows_of_the_whole_pools() -> None:
    left, right, pairs = world(4)
    found = fit(recipe(), left, right, pairs)
    assert 0.3 < found.findings["unmatched/left_share"] < 0.65
    assert "unmatched/right_share" not in found.findings
    assert found.folds
    for fold in found.folds:
        assert torch.equal(fold.known, pairs[~fold.hidden])
    assert not torch.equal(found.encoders[0](left), fit(recipe(unmatched="keep"), left, right, pairs).encoders[0](left))


@pytest.mark.parametrize("settings", [{"unmatched": "keep"}, {}])
def test_no_estimate_if_none_is_wanted_or_too_few_items_are_known(settings: dict[str, str]) -> None:
    left, right, pairs = world(4)
    assert estimate_overlap(recipe(**settings), left, right, pairs[: 19 if not settings else 80], None) is None


def test_known_rows_stay_even_if_a_row_is_sure_to_have_no_partner() -> None:
    left, right, pairs = world(0)
    sure = UnmatchedRows(0.9, (0.8, 0.95), 0.9, (0.8, 0.95), torch.ones(len(left)))
    none = UnmatchedRows(0.0, (0.0, 0.1), 0.0, (0.0, 0.1), torch.ones(len(right)))
    kept = Overlap((sure, none)).kept(left, right, pairs, seed=0)
    assert len(kept.left) == len(set(pairs[:, 0].tolist()))
    assert len(kept.right) == len(right)


def test_align_tells_of_them_before_it_trains(tmp_path: Path) -> None:
    left, right, pairs = world(4)
    for name, rows in (("left", left), ("right", right)):
        np.save(tmp_path / f"{name}.npy", rows.numpy())
    lines = [f"{one},{other}" for one, other in pairs.tolist()]
    (tmp_path / "pairs.csv").write_text("\n".join(["left,right", *lines]) + "\n")
    small_world.run_ok(
        "ingest", f"left={tmp_path / 'left.npy'}", f"right={tmp_path / 'right.npy'}", "--kind", "vector",
        "--pairs", tmp_path / "pairs.csv", "--out", tmp_path / "data",
    )  # fmt: skip
    for method, words in (("transport", "left out of the fit"), ("cca", "setclip inspect")):
        code, _, told = small_world.invoke(
            "align", "vectors", "--data", tmp_path / "data", "--out", tmp_path / method, "--set", f'method="{method}"'
        )
        assert code == 0, told
        (line,) = [line for line in told.splitlines() if "seem to have no partner" in line]
        assert "of the left rows" in line
        assert words in line
        assert ("left out of the fit" in line) == (method == "transport")
