"""Vectors in tables: Parquet and Lance by Arrow, pandas and polars, CSV by pandas and NumPy."""

from __future__ import annotations

import gzip
from pathlib import Path

import lance
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import error_of, ids, matrix, noise, read, rejects, source_of

from setclip_cli.ingest.sources.base import Record
from setclip_cli.ingest.sources.vectors import blocks

NAMES = [f"n{number}" for number in range(7)]


def fixed(array: np.ndarray) -> pa.Array:  # type: ignore[type-arg]
    return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_parquet_with_fixed_size_lists_and_with_lists(tmp_path: Path, kind: str) -> None:
    array = noise(dtype=kind)
    lists = pa.array(list(array))
    for number, column in enumerate([fixed(array), lists, lists.cast(pa.large_list(lists.type.value_type))]):
        pq.write_table(pa.table({"id": NAMES, "embedding": column}), tmp_path / f"{number}.parquet")
        found, values = matrix(tmp_path / f"{number}.parquet")
        assert found == NAMES
        assert values.dtype == ("float16" if kind == "float16" else "float32")
        np.testing.assert_array_equal(values, array.astype(values.dtype))


def test_small_batches_and_row_groups_give_the_same_rows_from_any_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = noise(100, 6)
    table = pa.table({"id": [f"n{n}" for n in range(100)], "v": list(array)})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=17)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 6 * 4 * 5)
    whole = read(tmp_path / "x.parquet")
    assert ids(whole) == [f"n{n}" for n in range(100)]
    for start in (0, 1, 16, 17, 40, 99, 100):
        assert read(tmp_path / "x.parquet", start=start) == whole[start:]


@given(
    lists=st.lists(
        st.none() | st.lists(st.none() | st.integers(-9, 9).map(float), min_size=2, max_size=4), min_size=1, max_size=12
    ),
    offset=st.integers(0, 5),
)
def test_of_lists_of_any_length_those_of_the_first_width_are_rows(
    tmp_path_factory: pytest.TempPathFactory, lists: list[list[float | None] | None], offset: int
) -> None:
    path = tmp_path_factory.mktemp("lists") / "x.parquet"
    pq.write_table(pa.table({"v": pa.array(lists, pa.list_(pa.float32()))}), path)
    width = next((len(each) for each in lists if each), None)
    if width is None:
        assert "has no vectors" in error_of(path)
        return
    usable = [each is not None and len(each) == width and None not in each and any(each) for each in lists]
    found = read(path, start=min(offset, len(lists)))
    assert [isinstance(each, Record) for each in found] == usable[min(offset, len(lists)) :]
    for each, numbers in zip(found, lists[min(offset, len(lists)) :], strict=True):
        if isinstance(each, Record):
            assert isinstance(each.payload, memoryview)
            np.testing.assert_array_equal(np.frombuffer(each.payload, "<f4"), np.array(numbers, "<f4"))


def test_lists_that_cannot_be_rows_say_why(tmp_path: Path) -> None:
    lists = pa.array([[1.0, 2.0], None, [1.0], [1.0, None], [0.0, 0.0]], pa.list_(pa.float32()))
    pq.write_table(pa.table({"v": lists}), tmp_path / "x.parquet")
    assert rejects(read(tmp_path / "x.parquet")) == {
        "row 1": "null in place of a vector",
        "row 2": "other width than the first vector of the file: 1, not 2",
        "row 3": "null in its vector",
        "row 4": "its vector is zero",
    }
    nulls = pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2, None, 3]), 2)
    pq.write_table(pa.table({"v": nulls}), tmp_path / "y.parquet")
    assert rejects(read(tmp_path / "y.parquet")) == {"row 1": "null in its vector"}


def test_one_column_for_each_dimension_with_the_columns_that_describe_a_row(tmp_path: Path) -> None:
    array = noise(7, 12)
    frame = pd.DataFrame(array, columns=[f"dim_{n}" for n in range(12)])
    frame.insert(0, "accession", NAMES)
    frame["label"] = [1.0, 2, 3, np.nan, 1, 2, 3]
    frame["split"] = ["Train", "test"] + ["train"] * 5
    frame["group"] = ["g"] * 7
    frame["length"] = range(7)
    frame.to_parquet(tmp_path / "x.parquet")
    found, values = matrix(tmp_path / "x.parquet")
    assert found == NAMES
    np.testing.assert_array_equal(values, array)
    first, second, *_ = read(tmp_path / "x.parquet")
    assert isinstance(first, Record)
    assert isinstance(second, Record)
    assert (first.label, first.split, first.group, second.split) == ("1", "train", "g", "test")
    notes = " ".join(source_of(tmp_path / "x.parquet").notes())
    assert "12 columns from 'dim_0' to 'dim_11'" in notes
    assert "not read: 'length'" in notes
    assert matrix(tmp_path / "x.parquet", column="dim_1*")[1].shape == (7, 3)


def test_the_index_of_pandas_is_the_id_and_never_a_dimension(tmp_path: Path) -> None:
    frame = pd.DataFrame(noise(), index=NAMES)
    frame.columns = frame.columns.astype(str)
    frame.to_parquet(tmp_path / "x.parquet")
    frame.to_csv(tmp_path / "x.csv")
    for name in ("x.parquet", "x.csv"):
        found, values = matrix(tmp_path / name)
        assert found == NAMES
        np.testing.assert_allclose(values, noise(), rtol=1e-6)
    frame.to_csv(tmp_path / "named.csv", index_label="id")
    assert matrix(tmp_path / "named.csv")[0] == NAMES
    frame.to_csv(tmp_path / "none.csv", index=False)
    assert len(read(tmp_path / "none.csv")) == 7
    frame.reset_index(drop=True).to_csv(tmp_path / "y.csv")
    found, values = matrix(tmp_path / "y.csv")
    assert found == [f"y.csv:{row}" for row in range(7)]
    assert values.shape == (7, 5)


def test_parquet_of_polars(tmp_path: Path) -> None:
    frame = pl.DataFrame({"id": NAMES, "v": noise()}, schema={"id": pl.String, "v": pl.Array(pl.Float32, 5)})
    frame.write_parquet(tmp_path / "x.parquet")
    np.testing.assert_array_equal(matrix(tmp_path / "x.parquet")[1], noise())


def test_columns_that_do_not_say_which_are_the_vectors_are_refused(tmp_path: Path) -> None:
    array = noise()
    pq.write_table(pa.table({"a": list(array), "b": list(array)}), tmp_path / "two.parquet")
    assert "2 columns hold lists of numbers: 'a', 'b'" in error_of(tmp_path / "two.parquet")
    assert len(read(tmp_path / "two.parquet", column="b")) == 7
    pq.write_table(pa.table({"a": list(array), "embedding": list(array)}), tmp_path / "named.parquet")
    assert len(read(tmp_path / "named.parquet")) == 7
    pq.write_table(pa.table({"id": NAMES, "text": NAMES}), tmp_path / "none.parquet")
    assert "no column holds lists of numbers" in error_of(tmp_path / "none.parquet")
    assert "holds string, not a list" in error_of(tmp_path / "none.parquet", column="text")
    assert "did you mean 'text'" in error_of(tmp_path / "none.parquet", column="txt")
    assert "has no 'nope'" in error_of(tmp_path / "two.parquet", id_column="nope")
    pq.write_table(pa.table({"v": fixed(array)}).slice(0, 0), tmp_path / "empty.parquet")
    assert "has no rows" in error_of(tmp_path / "empty.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "two.parquet").read_bytes()[:-20])
    assert "not a Parquet file that can be read" in error_of(tmp_path / "cut.parquet")
    pq.write_table(pa.table({"v": fixed(np.zeros((2, 3), "i1"))}), tmp_path / "int8.parquet")
    assert "their scale is not known" in error_of(tmp_path / "int8.parquet")


def test_lance_from_any_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 5 * 4 * 3)
    array = noise(50)
    names = [f"n{n}" for n in range(50)]
    lance.write_dataset(pa.table({"id": names, "vector": fixed(array)}), tmp_path / "x.lance", max_rows_per_file=20)
    found, values = matrix(tmp_path / "x.lance")
    assert found == names
    np.testing.assert_array_equal(values, array)
    assert read(tmp_path / "x.lance", start=33) == read(tmp_path / "x.lance")[33:]
    assert len(source_of(tmp_path / "x.lance").files()) > 3
    lance.write_dataset(pa.table({"v": list(array)}), tmp_path / "lists.lance")
    np.testing.assert_array_equal(matrix(tmp_path / "lists.lance")[1], array)
    monkeypatch.setitem(__import__("sys").modules, "lance", None)
    assert "pip install 'setclip[lance]'" in error_of(tmp_path / "x.lance")


def test_csv_with_and_without_a_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 100)
    array = noise(20, 6, "float64")
    frame = pd.DataFrame(array, columns=[f"d{n}" for n in range(6)])
    frame.insert(0, "id", [f"n, {n}" for n in range(20)])
    frame.to_csv(tmp_path / "x.csv", index=False)
    frame.to_csv(tmp_path / "x.tsv", index=False, sep="\t")
    frame.to_csv(tmp_path / "semicolon.csv", index=False, sep=";")
    frame.to_csv(tmp_path / "bare.csv", index=False, header=False)
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress((tmp_path / "x.csv").read_bytes()))
    (tmp_path / "crlf.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "x.csv").read_bytes().replace(b"\n", b"\r\n"))
    for name in ("x.csv", "x.tsv", "semicolon.csv", "bare.csv", "x.csv.gz", "crlf.csv"):
        found, values = matrix(tmp_path / name)
        assert found == [f"n, {n}" for n in range(20)], name
        np.testing.assert_array_equal(values, array.astype("f4"))
        assert read(tmp_path / name, start=13) == read(tmp_path / name)[13:]
    np.savetxt(tmp_path / "x.txt", array)
    np.savetxt(tmp_path / "y.csv", array, delimiter=",", header="made by numpy")
    for name in ("x.txt", "y.csv"):
        np.testing.assert_allclose(matrix(tmp_path / name)[1], array, rtol=1e-6)
        assert matrix(tmp_path / name)[0][0] == f"{name}:0"


def test_a_bad_line_of_csv_is_one_reject_and_its_neighbours_are_rows(tmp_path: Path) -> None:
    lines = [
        "id,a,b",
        "n1,1,2",
        "n2,x,2",
        "n3,1",
        "n4,,3",
        "n5,nan,1",
        "n6,1_0,2",
        'n7,"1,2',
        "n8,1e3,-2",
        "",
        "n9,0,0",
    ]
    (tmp_path / "x.csv").write_bytes("\n".join(lines).encode() + b"\nn\xff,1,2\n")
    found = read(tmp_path / "x.csv")
    assert ids(found) == ["n1", "n8"]
    assert rejects(found) == {
        "line 3": "no number: 'x' in column 'a'",
        "line 4": "number of fields differs from the others: 2, not 3",
        "line 5": "empty field in place of a number: column 'a'",
        "line 6": "its vector is not finite",
        "line 7": "no number: '1_0' in column 'a'",
        "line 8": "not CSV: a quote is not closed",
        "line 11": "its vector is zero",
        "line 12": "not UTF-8: byte 0xff",
    }


def test_an_empty_field_in_the_first_row_takes_no_dimension_away(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("id,note,a,b\nn1,hm,,2\nn2,so,1,2\nn3,no,3,4\n")
    found = read(tmp_path / "x.csv")
    assert ids(found) == ["n2", "n3"]
    assert source_of(tmp_path / "x.csv").width == 2
    assert rejects(found) == {"line 2": "empty field in place of a number: column 'a'"}
    (tmp_path / "bare.csv").write_text("1,,3,4\n1,2,3,4\n")
    assert ids(read(tmp_path / "bare.csv")) == ["bare.csv:1"]
    (tmp_path / "ids.csv").write_text("n1,5,,3,4\nn2,1,2,3,4\n")
    assert ids(read(tmp_path / "ids.csv")) == ["n2"]


def test_csv_with_a_column_of_lists_as_json_python_or_numpy_write_them(tmp_path: Path) -> None:
    array = noise(4, 3)
    for name, write in {
        "json": lambda row: str(row.tolist()),
        "tuple": lambda row: str(tuple(row.tolist())),
        "numpy": lambda row: str(row),
    }.items():
        frame = pd.DataFrame({"id": NAMES[:4], "embedding": [write(row) for row in array], "text": ["[x]"] * 4})
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
        found, values = matrix(tmp_path / f"{name}.csv")
        assert found == NAMES[:4]
        np.testing.assert_allclose(values, array, rtol=1e-5)
    (tmp_path / "short.csv").write_text('id,embedding\na,"[1, 2]"\nb,"[1 ... 2]"\nc,"[1, 2, 3]"\nd,"[1, ""x""]"\n')
    assert {reason.partition(":")[0] for reason in rejects(read(tmp_path / "short.csv")).values()} == {
        "list that was shortened with '...' when it was written",
        "other width than the first vector of the file",
        "no list of numbers",
    }


def test_text_that_is_no_table_of_numbers_is_refused(tmp_path: Path) -> None:
    for text, words in [
        ("", "holds no rows"),
        ("\n\n", "holds no rows"),
        ("id,a\n", "has a header line, but no rows"),
        ("id,text\n1,hello\n", "none of its columns holds numbers"),
        ("Entry\tWhat it does\nP1\tbinds iron\n", "none of its columns holds numbers"),
        ("id,a,a\n1,2,3\n", "two columns 'a'"),
        ("id,a,b\n1,2\n", "line 1 names 3 columns, but the next line has 2 fields"),
    ]:
        (tmp_path / "x.csv").write_text(text)
        assert words in error_of(tmp_path / "x.csv"), words
    (tmp_path / "x.csv").write_text("1,2\n3,4\n")
    assert "its columns have no names" in error_of(tmp_path / "x.csv", column="a")
    (tmp_path / "x.csv").write_bytes("id,a,b\nx,1,2\n".encode("utf-16"))
    assert "UTF-16" in error_of(tmp_path / "x.csv")


def test_rows_that_were_deleted_from_lance_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 5 * 4 * 3)
    names = [f"n{n}" for n in range(20)]
    lance.write_dataset(pa.table({"id": names, "v": fixed(noise(20))}), tmp_path / "x.lance", max_rows_per_file=7)
    lance.dataset(tmp_path / "x.lance").delete("id IN ('n3', 'n8', 'n19')")
    found, values = matrix(tmp_path / "x.lance")
    assert found == [name for name in names if name not in ("n3", "n8", "n19")]
    np.testing.assert_array_equal(values, np.delete(noise(20), [3, 8, 19], axis=0))
