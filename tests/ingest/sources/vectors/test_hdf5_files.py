"""Vectors in HDF5, as h5py writes it: UniProt's and bio_embeddings' layouts, matrices, what leads out of it."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from reading import error_of, ids, matrix, noise, read, rejects, source_of

from setclip_cli.ingest.sources.vectors import blocks, hdf5


def test_the_layout_of_uniprots_file_for_each_protein_works_as_it_is(tmp_path: Path) -> None:
    vectors = noise(30, 1024, "float16")
    names = [f"P{number:05d}" for number in range(30)]
    with h5py.File(tmp_path / "per-protein.h5", "w") as file:
        for name, vector in zip(names, vectors, strict=True):
            file.create_dataset(name, data=vector)
    found, values = matrix(tmp_path / "per-protein.h5")
    assert found == names
    assert values.dtype == np.float16
    np.testing.assert_array_equal(values, vectors)
    assert read(tmp_path / "per-protein.h5", start=11) == read(tmp_path / "per-protein.h5")[11:]


def test_the_ids_of_bio_embeddings_are_in_an_attribute(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "reduced.h5", "w") as file:
        for number, vector in enumerate(noise(12, 8)):
            file.create_dataset(str(number), data=vector, compression="gzip", chunks=True).attrs["original_id"] = (
                f"sp|P{number}|X"
            )
    found, _ = matrix(tmp_path / "reduced.h5")
    assert sorted(found) == sorted(f"sp|P{number}|X" for number in range(12))
    assert any("original_id" in note for note in source_of(tmp_path / "reduced.h5").notes())


def test_arrays_of_residues_are_averaged_only_if_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "BLOCK_BYTES", 64 * 3)  # the mean is taken in several steps
    arrays = {f"P{length}": noise(length, 8, "float16", seed=length) for length in (1, 2, 31)}
    with h5py.File(tmp_path / "per-residue.h5", "w") as file:
        for name, array in arrays.items():
            file[name] = array
    message = error_of(tmp_path / "per-residue.h5")
    assert "several vectors, such as one for each residue" in message
    assert "average" in message
    assert "vector_column" in message
    found, values = matrix(tmp_path / "per-residue.h5", average=True)
    for name, value in zip(found, values, strict=True):
        np.testing.assert_allclose(value, arrays[name].astype("f8").mean(0), rtol=1e-3)


@pytest.mark.parametrize(
    "options", [{}, {"chunks": (7, 8), "compression": "gzip"}, {"chunks": (7, 3), "shuffle": True}]
)
def test_one_matrix_with_a_data_set_of_ids(
    tmp_path: Path, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 8 * 4 * 20)
    array, names = noise(50, 8), [f"ü{number}" for number in range(50)]
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("embeddings", data=array, **options)
        file["ids"] = names
        file["length"] = np.arange(50)
    found, values = matrix(tmp_path / "x.h5")
    assert found == names
    np.testing.assert_array_equal(values, array)
    assert read(tmp_path / "x.h5", start=23) == read(tmp_path / "x.h5")[23:]


def test_one_matrix_without_ids_has_row_numbers(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["big"] = noise(4).astype(">f8")
    assert matrix(tmp_path / "x.h5")[0] == [f"x.h5:{row}" for row in range(4)]
    np.testing.assert_allclose(matrix(tmp_path / "x.h5")[1], noise(4))


def test_groups_of_groups_are_refused_and_a_group_can_be_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for number, vector in enumerate(noise(4)):
            file[f"human/brain/P{number}"] = vector
        file["mouse/matrix"] = noise(3, seed=1)
    message = error_of(tmp_path / "x.h5")
    assert "holds groups ('human', 'mouse')" in message
    assert "vector_column human" in message
    assert "holds groups ('brain')" in error_of(tmp_path / "x.h5", column="human")
    assert matrix(tmp_path / "x.h5", column="human/brain")[0] == ["P0", "P1", "P2", "P3"]
    assert len(read(tmp_path / "x.h5", column="mouse/matrix")) == 3
    assert "did you mean 'mouse'" in error_of(tmp_path / "x.h5", column="mousse")


def test_what_is_no_vector_is_a_reject_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(noise(1).tobytes())
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for name in "abc":
            file[name] = noise(1, seed=ord(name))[0]
        file["d"] = noise(1, 4)[0]
        file["e"] = "text"
        file["f/inner"] = noise(1)[0]
        file["g"] = h5py.SoftLink("/a")
        file["h"] = h5py.ExternalLink("other.h5", "/a")
        file["i"] = np.zeros((2, 2, 5))
        file["j"] = np.full(5, np.nan)
        file.create_dataset("k", (5,), "f4", external=[(str(tmp_path / "secret.bin"), 0, 20)])
    found = read(tmp_path / "x.h5")
    assert ids(found) == ["a", "b", "c"]
    assert {reason.partition(":")[0] for reason in rejects(found).values()} == {
        "other width than the first vector of the file",
        "data set without numbers",
        "group, not a data set",
        "link, not a data set",
        "array with other axes than (width) or (length, width)",
        "its vector is not finite",
        "data set whose content is in another file",
    }


def test_content_in_other_files_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(noise(3).tobytes())
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("m", (3, 5), "f4", external=[(str(tmp_path / "secret.bin"), 0, 60)])
    assert "in other files" in error_of(tmp_path / "x.h5")
    with h5py.File(tmp_path / "source.h5", "w") as file:
        file["data"] = noise(3)
    layout = h5py.VirtualLayout((3, 5), "f4")
    layout[:] = h5py.VirtualSource(tmp_path / "source.h5", "data", (3, 5))
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("m", layout)
    assert "in other files" in error_of(tmp_path / "virtual.h5")


@pytest.mark.parametrize("chunks", [None, (1024, 64)])
def test_a_matrix_that_was_never_filled_is_refused_and_not_read_as_zeros(
    tmp_path: Path, chunks: tuple[int, int] | None
) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("m", (1 << 40, 64), "f4", chunks=chunks)
    assert "were written" in error_of(tmp_path / "x.h5")


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["m"] = noise(1000)
    whole = (tmp_path / "x.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
    assert "cut short or damaged" in error_of(tmp_path / "cut.h5")
    (tmp_path / "text.h5").write_text("hello")
    assert "no HDF5 file" in error_of(tmp_path / "text.h5")
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    assert "holds no data sets" in error_of(tmp_path / "empty.h5")


def test_without_h5py_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["m"] = noise(10)
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    assert "pip install 'setclip[hdf5]'" in error_of(tmp_path / "x.h5")


def test_shapes_that_claim_too_much_are_rejects_and_nothing_is_allocated_for_them(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for name in "abc":
            file[name] = noise(3, seed=ord(name))
        file.create_dataset("d", (1 << 50,), "f4", chunks=(1024,))
        file.create_dataset("e", (1 << 50, 5), "f4", chunks=(1024, 5))
        file.create_dataset("f", (1 << 40, 5), "f4")
    found = read(tmp_path / "x.h5", average=True)
    assert ids(found) == ["a", "b", "c"]
    assert [reason.partition(":")[0] for reason in rejects(found).values()] == [
        "other width than the first vector of the file",
        "array that was not written to its end",
        "array that was not written to its end",
    ]


def test_a_file_of_links_alone_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a"] = h5py.ExternalLink("other.h5", "/a")
        file["b"] = h5py.SoftLink("/nothing")
    assert "no data sets, only links or types" in error_of(tmp_path / "x.h5")
