"""Vectors in safetensors, EMBEDDINGS folders, and the ids that the user gives."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from reading import error_of, ids, matrix, noise, read, rejects
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from setclip_cli.errors import SetClipError
from setclip_cli.ingest.sources.base import Record
from setclip_cli.ingest.sources.vectors import blocks


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "bfloat16", "int32"])
def test_one_tensor_of_any_type(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 50)
    tensor = (torch.from_numpy(noise(20)) * 100).to(getattr(torch, kind))
    save_torch({"emb": tensor, "more.bias": torch.zeros(1)}, tmp_path / "two.safetensors")
    save_torch({"emb": tensor}, tmp_path / "x.safetensors", metadata={"model": "mine"})
    for name, column in (("x.safetensors", None), ("two.safetensors", "emb")):
        _, values = matrix(tmp_path / name, column=column)
        assert values.dtype == ("float16" if kind == "float16" else "float32")
        np.testing.assert_array_equal(values, tensor.float().numpy().astype(values.dtype))
        assert read(tmp_path / name, column=column, start=9) == read(tmp_path / name, column=column)[9:]
    assert "holds 2 tensors" in error_of(tmp_path / "two.safetensors")
    assert "did you mean 'emb'" in error_of(tmp_path / "two.safetensors", column="em")


def test_a_tensor_for_each_id_has_its_name_as_id(tmp_path: Path) -> None:
    save_file({"P2": noise(1)[0], "P1": noise(1, seed=1)[0]}, tmp_path / "x.safetensors")
    found, values = matrix(tmp_path / "x.safetensors")
    assert dict(zip(found, values.tolist(), strict=True)) == {
        "P2": noise(1)[0].tolist(),
        "P1": noise(1, seed=1)[0].tolist(),
    }
    save_file({"a": noise(4), "b": noise(9, seed=1)}, tmp_path / "long.safetensors")
    assert "average" in error_of(tmp_path / "long.safetensors")
    found, values = matrix(tmp_path / "long.safetensors", average=True)
    np.testing.assert_allclose(values[found.index("b")], noise(9, seed=1).mean(0), rtol=1e-5)


def test_the_mean_of_whole_numbers_is_scaled_and_not_cut(tmp_path: Path) -> None:
    save_file({"a": np.array([[1, 2], [2, 5]], "i1"), "b": np.array([[7, 7]], "i1")}, tmp_path / "x.safetensors")
    found, values = matrix(tmp_path / "x.safetensors", average=True, scale=2.0)
    assert dict(zip(found, values.tolist(), strict=True)) == {"a": [3.0, 7.0], "b": [14.0, 14.0]}


def test_a_header_of_safetensors_that_says_too_much_is_refused(tmp_path: Path) -> None:
    def write(header: object, data: bytes = bytes(64)) -> Path:
        raw = json.dumps(header).encode()
        path = tmp_path / "x.safetensors"
        path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
        return path

    assert "cut short" in error_of(write({"a": {"dtype": "F32", "shape": [1 << 40, 2], "data_offsets": [0, 1 << 43]}}))
    assert "does not fit its shape" in error_of(
        write({"a": {"dtype": "F32", "shape": [4, 2], "data_offsets": [0, 64]}})
    )
    assert "does not fit" in error_of(write({"a": {"dtype": "F32", "shape": [-4, -4], "data_offsets": [0, 64]}}))
    assert "does not fit" in error_of(write({"a": {"dtype": "F32", "shape": [4, 4], "data_offsets": [-64, 0]}}))
    assert "holds F8_E4M3, which is not read" in error_of(
        write({"a": {"dtype": "F8_E4M3", "shape": [4, 4], "data_offsets": [0, 16]}})
    )
    assert "header cannot be read" in error_of(write({"a": 1}))
    (tmp_path / "y.safetensors").write_bytes(b"\xff" * 100)
    assert "its header would have" in error_of(tmp_path / "y.safetensors")
    (tmp_path / "z.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "Git LFS" in error_of(tmp_path / "z.safetensors")


def test_a_file_of_ids_names_the_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", noise(3))
    for name, text in {
        "a.txt": "a\nb\nü\n",
        "b.txt": "id\na\n b\r\nü\n\n\n",
        "c.csv": "id\na\nb\nü\n",
        "d.jsonl": '{"id": "a"}\n{"id": "b"}\n{"id": "ü"}\n',
        "e": "a\nb\nü",
    }.items():
        (tmp_path / name).write_text(text)
        assert matrix(tmp_path / "x.npy", ids=tmp_path / name)[0] == ["a", "b", "ü"], name
        assert ids(read(tmp_path / "x.npy", ids=tmp_path / name, start=2)) == ["ü"], name


def test_a_table_of_ids_may_say_group_label_and_split(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", noise(3))
    (tmp_path / "ids.csv").write_text("ID;label;group;split\na;1;g;Test\nb;;;\n3;x;h;train\n")
    first, second, third = read(tmp_path / "x.npy", ids=tmp_path / "ids.csv")
    assert isinstance(first, Record)
    assert isinstance(second, Record)
    assert isinstance(third, Record)
    assert (first.label, first.group, first.split, first.columns) == ("1", "g", "test", ("g",))
    assert (second.label, second.group, second.split) == (None, None, None)
    assert (third.id, third.made_up) == ("3", False)


def test_ids_that_differ_in_number_from_the_rows_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", noise(3))
    np.savetxt(tmp_path / "x.csv", noise(3), delimiter=",")  # of which no header says the number of rows
    for count in (2, 4):
        (tmp_path / "ids.txt").write_text("".join(f"n{n}\n" for n in range(count)))
        assert f"has {count} ids, but {tmp_path / 'x.npy'} has 3 rows" in error_of(
            tmp_path / "x.npy", ids=tmp_path / "ids.txt"
        )
        assert f"has {count} ids" in error_of(tmp_path / "x.csv", ids=tmp_path / "ids.txt")
    (tmp_path / "ids.csv").write_text("name\na\nb\nc\n")
    with pytest.raises(Exception, match="no column 'id'"):
        read(tmp_path / "x.npy", ids=tmp_path / "ids.csv")


def test_ids_in_a_numpy_file_say_how_they_become_lines(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", noise(3))
    np.save(tmp_path / "ids.npy", np.array(["a", "b", "c"]))
    with pytest.raises(SetClipError, match=r"ids\.npy: is a NumPy file(.|\n)*np\.savetxt\('ids\.txt'"):
        read(tmp_path / "x.npy", ids=tmp_path / "ids.npy")


def test_a_line_without_an_id_is_a_reject_and_shifts_no_other(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", noise(5))
    (tmp_path / "ids.txt").write_bytes(b"a\n\nc\n\xff\n" + b"e" * 2000 + b"\n")
    found = read(tmp_path / "x.npy", ids=tmp_path / "ids.txt")
    assert ids(found) == ["a", "c"]
    assert rejects(found) == {
        "row 1": "empty line in place of an id",
        "row 3": "not UTF-8: byte 0xff",
        "row 4": "id longer than 1,024 characters",
    }
