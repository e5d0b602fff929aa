"""Claims about features on disk: they are the rows of the files, and a file that is cut short is noticed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from setclip_cli.errors import SetClipError
from setclip_cli.features import on_disk
from setclip_cli.features.on_disk import FeatureRows, stored_file


def write(folder: Path, sizes: list[int], dim: int) -> tuple[FeatureRows, torch.Tensor]:
    features = torch.randn(sum(sizes), dim, generator=torch.Generator().manual_seed(0))
    files = []
    for number, part in enumerate(features.split(sizes)):
        path = folder / f"{number}.safetensors"
        save_file({"features": part.contiguous(), "counts": torch.zeros(3, dtype=torch.int64)}, path)
        found = stored_file(path, rows=len(part), dim=dim)
        assert found is not None
        files.append(found)
    return FeatureRows(files, dim), features


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    dim=st.integers(1, 5),
    wanted=st.lists(st.floats(0, 1, exclude_max=True), max_size=30),
    open_files=st.integers(1, 3),
    block=st.integers(1, 20),
)
def test_rows_are_those_of_the_files_in_the_order_that_is_asked_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sizes: list[int],
    dim: int,
    wanted: list[float],
    open_files: int,
    block: int,
) -> None:
    monkeypatch.setattr(on_disk, "_OPEN_FILES", open_files)
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
    assert stored_file(path, rows=5, dim=4) is None


def test_other_features_are_none(tmp_path: Path) -> None:
    write(tmp_path, [5], 4)
    path = tmp_path / "0.safetensors"
    assert stored_file(path, rows=5, dim=4) is not None
    assert stored_file(path, rows=4, dim=5) is None
    assert stored_file(tmp_path / "absent", rows=5, dim=4) is None
    for wrong in ({"features": torch.zeros(5, 4, dtype=torch.float16)}, {"other": torch.zeros(5, 4)}):
        save_file(wrong, path)
        assert stored_file(path, rows=5, dim=4) is None
    path.write_bytes(b"\xff" * 100)
    assert stored_file(path, rows=5, dim=4) is None


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_few_files_are_open_and_none_when_the_rows_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_files()
    monkeypatch.setattr(on_disk, "_OPEN_FILES", 2)
    rows, features = write(tmp_path, [2] * 9, 2)
    assert torch.equal(rows.take(torch.arange(18)), features)
    assert open_files() == before + 2
    del rows
    assert open_files() == before


def test_a_file_that_is_cut_short_in_use_is_told(tmp_path: Path) -> None:
    rows, _ = write(tmp_path, [4, 4], 2)
    rows.take(torch.arange(8))
    os.truncate(tmp_path / "1.safetensors", 100)
    rows.take(torch.arange(4))
    with pytest.raises(SetClipError, match=r"1\.safetensors: cannot be read any more \(it is shorter than it was\)"):
        rows.take(torch.arange(8))
    with pytest.raises(SetClipError, match="cannot be read any more"):
        list(rows.blocks())
