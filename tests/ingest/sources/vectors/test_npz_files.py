"""Vectors in .npz: which array, ids beside it, an array for each id, members that are cut short or grow too much."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from reading import error_of, ids, matrix, noise, read, rejects

from setclip_cli.ingest.sources.vectors import blocks, npz


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_the_only_array_is_read_whatever_its_compression(
    tmp_path: Path, write: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 200)
    array = noise(100, 8, "float16")
    write(tmp_path / "x.npz", array)  # type: ignore[operator]
    _, found = matrix(tmp_path / "x.npz")
    np.testing.assert_array_equal(found, array)
    assert read(tmp_path / "x.npz", start=37) == read(tmp_path / "x.npz")[37:]


def test_ids_beside_the_matrix_are_its_ids(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", vectors=noise(3), ids=["a", "b", "ü"])
    assert matrix(tmp_path / "x.npz")[0] == ["a", "b", "ü"]
    np.savez(tmp_path / "y.npz", X=noise(3), which=np.array([b"a", b"b", b"c"]), y=np.arange(3))
    assert matrix(tmp_path / "y.npz", id_column="which")[0] == ["a", "b", "c"]
    np.savez(tmp_path / "z.npz", X=noise(3), ids=["a", "b"])
    assert "3 vectors in 'X', but the ids in 'ids' have the shape (2,)" in error_of(tmp_path / "z.npz")
    np.savez(tmp_path / "p.npz", X=noise(3), ids=np.array(["a", "b", "c"], object))
    assert "not text or whole numbers" in error_of(tmp_path / "p.npz")


def test_of_several_matrices_one_must_be_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", train=noise(3), test=noise(2, seed=1))
    message = error_of(tmp_path / "x.npz")
    assert "'train' (3, 5)" in message
    assert "vector_column train" in message
    np.testing.assert_array_equal(matrix(tmp_path / "x.npz", column="test")[1], noise(2, seed=1))
    assert "did you mean 'test'" in error_of(tmp_path / "x.npz", column="tests")


def test_an_array_for_each_id_has_its_name_as_id(tmp_path: Path) -> None:
    arrays = {name: noise(1, 5, seed=seed)[0] for seed, name in enumerate(["P1", "P2", "P3"])}
    np.savez(tmp_path / "x.npz", **arrays)
    found, values = matrix(tmp_path / "x.npz")
    assert found == ["P1", "P2", "P3"]
    np.testing.assert_array_equal(values, np.stack([*arrays.values()]))


def test_arrays_of_residues_are_averaged_only_if_asked(tmp_path: Path) -> None:
    arrays = {"P1": noise(4), "P2": noise(9, seed=1)}
    np.savez(tmp_path / "x.npz", **arrays)
    assert "average" in error_of(tmp_path / "x.npz")
    found, values = matrix(tmp_path / "x.npz", average=True)
    assert found == ["P1", "P2"]
    np.testing.assert_allclose(values, np.stack([each.mean(0) for each in arrays.values()]), rtol=1e-6)


def test_a_member_that_grows_too_much_or_is_cut_short_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npz, "_FREE_BYTES", 1000)
    np.savez_compressed(tmp_path / "bomb.npz", np.zeros((4000, 64), "f4"))
    assert "a zip bomb" in error_of(tmp_path / "bomb.npz")
    np.savez(tmp_path / "x.npz", noise(100))
    whole = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:-300])
    assert "cut short or damaged" in error_of(tmp_path / "cut.npz")
    damaged = bytearray(whole)
    damaged[900] ^= 255
    (tmp_path / "damaged.npz").write_bytes(damaged)
    assert "cut short or damaged" in error_of(tmp_path / "damaged.npz")


def test_a_member_whose_header_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", noise(100))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("arr_0.npy", (tmp_path / "x.npy").read_bytes()[:-40])
    assert "cut short" in error_of(tmp_path / "x.npz")
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "'readme.txt', which is not an array" in error_of(tmp_path / "other.npz")


def test_a_vector_of_another_width_is_one_reject(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=noise(1, 5), b=noise(1, 5, seed=3), c=np.zeros((1, 5), "f4"))
    found = read(tmp_path / "x.npz")
    assert ids(found) == ["a", "b"]
    assert rejects(found) == {"row 2": "its vector is zero"}
