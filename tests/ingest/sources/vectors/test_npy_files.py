"""Vectors in .npy, as NumPy writes it: every type and order, and headers that say too much."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st
from reading import error_of, ids, matrix, noise, read, rejects, source_of

from setclip_cli.ingest.sources.vectors import blocks


def saved(path: Path, array: np.ndarray[Any, Any], **options: Any) -> Path:
    np.save(path, array, **options)
    return path


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8", "<i2", ">i4", "i8", "<u2"])
def test_all_numbers_but_float16_become_float32(tmp_path: Path, dtype: str) -> None:
    array = (noise(9, 4) * 100).astype(dtype)
    array[0, 0] = 1
    _, found = matrix(saved(tmp_path / "x.npy", array))
    assert found.dtype == np.dtype("<f4")
    np.testing.assert_array_equal(found, array.astype("<f4"))


@pytest.mark.parametrize("dtype", ["<f2", ">f2"])
def test_float16_stays_float16(tmp_path: Path, dtype: str) -> None:
    array = noise(9, 4).astype(dtype)
    _, found = matrix(saved(tmp_path / "x.npy", array))
    assert found.dtype == np.dtype("<f2")
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_an_array_in_the_order_of_fortran_gives_the_same_rows(
    tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 7 * 6 * 4)  # several blocks
    array = noise(rows, 6)
    _, found = matrix(saved(tmp_path / "x.npy", np.asfortranarray(array)))
    np.testing.assert_array_equal(found, array)


def test_ids_are_row_numbers_from_0_and_are_made_up(tmp_path: Path) -> None:
    found = read(saved(tmp_path / "x.npy", noise(3)))
    assert ids(found) == ["x.npy:0", "x.npy:1", "x.npy:2"]
    assert all(each.made_up for each in found)  # type: ignore[union-attr]
    assert "'x.npy:0' is the first row" in " ".join(source_of(tmp_path / "x.npy").notes())


@given(
    array=np_st.arrays(
        st.sampled_from(["<f2", ">f4", "<f8", "<i4"]), np_st.array_shapes(min_dims=2, max_dims=2, min_side=1)
    ),
    start=st.integers(0, 12),
    block=st.integers(1, 90),
)
def test_the_rows_after_any_start_are_the_last_rows_of_all(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray[Any, Any], start: int, block: int
) -> None:
    path = saved(tmp_path_factory.mktemp("npy") / "x.npy", array)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_BYTES", block)
        assert read(path, start=start) == read(path)[start:]


def test_rows_without_a_direction_are_rejects_with_their_place(tmp_path: Path) -> None:
    array = noise(6, 4).astype("float64")
    array[0] = 0
    array[2, 1] = np.nan
    array[3, 3] = -np.inf
    array[4, 0] = 1e300
    found = read(saved(tmp_path / "x.npy", array))
    assert rejects(found) == {
        "row 0": "its vector is zero",
        "row 2": "its vector is not finite",
        "row 3": "its vector is not finite",
        "row 4": "its vector has a number that is too large for float32",
    }
    assert ids(found) == ["x.npy:1", "x.npy:5"]


def test_integers_of_8_bits_need_a_scale(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.npy", np.array([[1, -2], [127, -128]], "i1"))
    assert "--scale" in error_of(path) or "scale" in error_of(path)
    _, found = matrix(path, scale=0.5)
    np.testing.assert_array_equal(found, np.array([[0.5, -1], [63.5, -64]], "f4"))


def test_what_is_no_matrix_of_numbers_is_refused_in_one_message(tmp_path: Path) -> None:
    structured = np.zeros(3, [("a", "f4"), ("b", "i4")])
    for array, words in [
        (np.array([[1, "a"], [{}, 2]], object), "Python objects (pickle)"),
        (structured, "'a', 'b'"),
        (structured[None], "'a', 'b'"),
        (noise(4, 3)[0], "shape (3,)"),
        (np.zeros((2, 3, 4), "f4"), "array.mean(axis=1)"),
        (np.zeros((3, 0), "f4"), "width 0"),
        (np.zeros((1, 100_000), "f4"), "100,000 numbers, and setclip takes 65,536"),
        (np.zeros((2, 2), "c8"), "complex64"),
        (np.zeros((2, 2), bool), "bool"),
        (np.array([["a", "b"]]), "str"),
        (np.zeros((2, 2), "V2"), "bfloat16"),
        (np.zeros((2, 2), "M8[s]"), "datetime64"),
    ]:
        path = saved(tmp_path / "x.npy", array, allow_pickle=True)
        assert words in error_of(path), words


def test_a_header_that_claims_more_than_the_file_holds_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (1 << 50, 1024)})
    path = tmp_path / "huge.npy"
    path.write_bytes(stream.getvalue() + bytes(4096))
    assert "cut short" in error_of(path)
    whole = saved(tmp_path / "x.npy", noise(100, 8)).read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-5])
    assert "3,328 bytes, but 3,323 are there" in error_of(tmp_path / "cut.npy")


def test_what_follows_the_array_is_not_dropped_in_silence(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    with path.open("wb") as file:
        np.save(file, noise(5))
        np.save(file, noise(3, seed=1))
    assert "another array follows the first one, of 5 x 5" in error_of(path)
    with path.open("wb") as file:
        np.save(file, noise(5))
        file.write(b"\0" * 1024)  # as a file that was made larger than its array
    assert len(read(path)) == 5
    assert "1,024 bytes behind the array are not read" in source_of(path).notes()
    assert not any("behind" in note for note in source_of(saved(path, noise(5))).notes())


def test_a_file_that_is_something_else_is_named(tmp_path: Path) -> None:
    for content, words in [
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer"),
        (b"\x80\x04\x95\x00", "a Python pickle"),
        (b"\x93NUMPY\x01\x00\x10\x00{'descr': broken", "no header of NumPy that can be read"),
        (b"\x93NUMPY\x07\x00\x10\x00{}", "header of NumPy"),
        (b"some bytes", "does not begin as one"),
    ]:
        path = tmp_path / "x.npy"
        path.write_bytes(content)
        assert words in error_of(path), words


def test_a_pickle_and_an_unknown_suffix_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"PK\x03\x04whatever")
    assert "pickle" in error_of(tmp_path / "x.pt")
    (tmp_path / "x.dat").write_bytes(b"\x00\x01\x02")
    assert "known are: .npy" in error_of(tmp_path / "x.dat")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a").touch()
    assert "is a folder" in error_of(tmp_path / "folder")
    path = saved(tmp_path / "y.npy", noise(2))
    path.rename(tmp_path / "vectors")  # the first bytes say what it is
    assert len(read(tmp_path / "vectors")) == 2
