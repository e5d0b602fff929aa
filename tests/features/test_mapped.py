"""Claims about features in memory maps: they are the rows of the files, and a file that is cut short is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from setclip_cli.features import mapped
from setclip_cli.features.mapped import FeatureRows, mapped_file


def write(folder: Path, sizes: list[int], dim: int) -> tuple[FeatureRows, torch.Tensor]:
    features = torch.randn(sum(sizes), dim, generator=torch.Generator().manual_seed(0))
    files = []
    for number, part in enumerate(features.split(sizes)):
        path = folder / f"{number}.safetensors"
        save_file({"features": part.contiguous(), "counts": torch.zeros(3, dtype=torch.int64)}, path)
        found = mapped_file(path, rows=len(part), dim=dim)
        assert found is not None
        files.append(found)
    return FeatureRows(files, dim), features


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    dim=st.integers(1, 5),
    wanted=st.lists(st.floats(0, 1, exclude_max=True), max_size=30),
    open_files=st.integers(1, 3),
    held=st.sampled_from([1, 1 << 30]),
    block=st.integers(1, 20),
)
def test_rows_are_those_of_the_files_in_the_order_that_is_asked_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sizes: list[int],
    dim: int,
    wanted: list[float],
    open_files: int,
    held: int,
    block: int,
) -> None:
    monkeypatch.setattr(mapped, "_OPEN_FILES", open_files)
    monkeypatch.setattr(mapped, "_HELD_BYTES", held)
    rows, features = write(tmp_path, sizes, dim)
    assert len(rows) == len(features)
    chosen = torch.tensor([int(share * len(features)) for share in wanted], dtype=torch.int64)
    assert torch.equal(rows.take(chosen), features[chosen])
    assert torch.equal(torch.cat(list(rows.blocks(block))), features)
    assert torch.equal(rows.take(torch.arange(len(rows))), features)


def test_rows_that_are_not_there_are_refused(tmp_path: Path) -> None:
    rows, _ = write(tmp_path, [3, 2], 2)
    for row in (-1, 5):
        with pytest.raises(IndexError, match=f"0 to 4, got {row}"):
            rows.take(torch.tensor([row]))


def test_a_copy_is_the_callers_own(tmp_path: Path) -> None:
    rows, features = write(tmp_path, [4], 3)
    rows.take(torch.arange(4)).zero_()
    next(rows.blocks()).zero_()
    assert torch.equal(rows.take(torch.arange(4)), features)


@pytest.mark.parametrize("kept", [0, 4, 8, 60, -1])
def test_a_file_that_is_cut_short_is_none(tmp_path: Path, kept: int) -> None:
    write(tmp_path, [5], 4)
    path = tmp_path / "0.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert mapped_file(path, rows=5, dim=4) is None


def test_other_features_are_none(tmp_path: Path) -> None:
    write(tmp_path, [5], 4)
    path = tmp_path / "0.safetensors"
    assert mapped_file(path, rows=5, dim=4) is not None
    assert mapped_file(path, rows=4, dim=5) is None
    assert mapped_file(tmp_path / "absent", rows=5, dim=4) is None
    for wrong in ({"features": torch.zeros(5, 4, dtype=torch.float16)}, {"other": torch.zeros(5, 4)}):
        save_file(wrong, path)
        assert mapped_file(path, rows=5, dim=4) is None
    path.write_bytes(b"\xff" * 100)
    assert mapped_file(path, rows=5, dim=4) is None


def test_maps_are_closed_when_they_have_taken_up_their_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = write(tmp_path, [4, 4], 2)
    rows.take(torch.arange(8))
    assert len(rows._maps) == 2
    monkeypatch.setattr(mapped, "_HELD_BYTES", 0)
    rows.take(torch.arange(8))
    assert not rows._maps
    monkeypatch.setattr(mapped, "_HELD_BYTES", 1 << 30)
    monkeypatch.setattr(mapped, "_OPEN_FILES", 1)
    np.testing.assert_array_equal(rows.take(torch.tensor([0, 7, 1])).shape, (3, 2))
    assert len(rows._maps) == 1
