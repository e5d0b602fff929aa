"""Values of rows: ids, splits, labels and captions that are not what they should be are never changed in silence."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.errors import SetClipError, UsageError
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions
from setclip_cli.ingest.sources.base import Record, Reject
from setclip_cli.ingest.sources.caption import CaptionFile
from setclip_cli.ingest.sources.uniprot import ProteinTable
from setclip_cli.ingest.splits import parse_split

CAPTIONS = IngestOptions(modality="caption")


def read(path: Path, content: str | list[dict[str, Any]]) -> list[Record | Reject]:
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8", newline="")
    else:
        pq.write_table(pa.Table.from_pylist(content), path)
    return list(CaptionFile(path).records(0, 1))


def reasons(items: list[Record | Reject]) -> list[str]:
    return [item.reason for item in items if isinstance(item, Reject)]


@pytest.mark.parametrize(
    ("identifier", "reason"),
    [
        ("[1]", "id cannot be used: its type is list"),
        ('{"a": 1}', "id cannot be used: its type is dict"),
        ("1e400", "id cannot be used: inf"),
        ("NaN", "id cannot be used: nan"),
        ('"' + "a" * 2000 + '"', "id longer than 1,024 characters"),
        ("9" * 5000, "JSON with a number of over 4,300 digits"),
    ],
)
def test_an_id_that_cannot_be_used_is_a_reject(tmp_path: Path, identifier: str, reason: str) -> None:
    items = read(tmp_path / "c.jsonl", f'{{"id": {identifier}, "text": "a lake"}}\n{{"id": 7, "text": "a field"}}\n')
    assert reasons(items) == [reason]
    assert [item.id for item in items if isinstance(item, Record)] == ["7"]


@pytest.mark.parametrize("value", [[1], b"\x00\x01", datetime.date(2020, 1, 1), float("inf")])
def test_an_id_of_parquet_that_cannot_be_used_is_a_reject(tmp_path: Path, value: Any) -> None:
    (reason,) = reasons(read(tmp_path / "c.parquet", [{"id": value, "text": "a lake"}]))
    assert reason.startswith("id cannot be used: ")
    pq.write_table(pa.Table.from_pylist([{"id": value, "sequence": "MKV"}]), tmp_path / "p.parquet")
    (item,) = ProteinTable(tmp_path / "p.parquet").records(0, 1)
    assert isinstance(item, Reject)
    assert item.reason == reason


def test_ids_that_are_numbers_or_missing_are_as_before(tmp_path: Path) -> None:
    items = read(tmp_path / "c.jsonl", '{"id": null, "text": "a"}\n{"id": "", "text": "b"}\n{"id": 1.5, "text": "c"}\n')
    assert [item.id for item in items if isinstance(item, Record)] == ["c.jsonl:1", "c.jsonl:2", "1.5"]
    (item,) = read(tmp_path / "c.parquet", [{"id": Decimal("12"), "text": "a"}])
    assert isinstance(item, Record)
    assert (item.id, item.made_up) == ("12", False)


def test_a_group_that_cannot_be_used_is_counted(tmp_path: Path) -> None:
    (item,) = read(tmp_path / "c.jsonl", '{"image_id": [1, 2], "text": "a"}\n')
    assert isinstance(item, Record)
    assert (item.group, item.repairs) == (None, ("group not used: its type is list",))


def test_json_nested_too_deeply_says_so(tmp_path: Path) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    assert reasons(read(tmp_path / "c.jsonl", f'{{"text": {deep}}}\n{{"text": "a"}}\n')) == [
        "JSON with too many lists or objects in one another"
    ]


@pytest.mark.parametrize(
    ("found", "split"),
    [("TEST", "test"), ("Train", "train"), (" val ", "val"), ("Validation", "val"), ("Fold1", "Fold1"), ("", "train")],
)
def test_the_usual_splits_are_known_in_any_case(tmp_path: Path, found: str, split: str) -> None:
    (tmp_path / "c.csv").write_text(f"text,split\na lake,{found}\n")
    assert ingest(tmp_path / "c.csv", tmp_path / "data", CAPTIONS).rows == {"caption": {split: 1}}


@pytest.mark.parametrize("split", ["[1]", '{"a": 1}', '"a/b"', "1e400"])
def test_what_cannot_be_a_split_is_a_reject_and_not_in_train(tmp_path: Path, split: str) -> None:
    (tmp_path / "c.jsonl").write_text(f'{{"text": "a", "split": {split}}}\n{{"text": "b", "split": "test"}}\n')
    result = ingest(tmp_path / "c.jsonl", tmp_path / "data", CAPTIONS)
    assert (result.rows, result.new[0]["bad"]) == ({"caption": {"test": 1}}, 1)


def test_splits_that_differ_in_case_only_are_one_split_or_a_reject(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("text,split\na,fold1\nb,Fold1\nc,fold1\nd,TEST\ne,test\n")
    result = ingest(tmp_path / "c.csv", tmp_path / "data", CAPTIONS)
    assert result.rows == {"caption": {"fold1": 2, "test": 2}}
    assert result.new[0]["rejects"] == {"split's name differs in case only from another": 1}
    (tmp_path / "d.csv").write_text("text,split\nf,FOLD1\n")  # the split is that of an earlier source, and on disk
    with pytest.raises(SetClipError, match=r"differs in case only(.|\n)*spell each split in one way"):
        ingest(tmp_path / "d.csv", tmp_path / "data", CAPTIONS)
    with pytest.raises(SetClipError, match="differs in case only"):
        ingest(tmp_path / "d.csv", tmp_path / "data", IngestOptions(modality="caption", split="Fold1"))
    proteins = tmp_path / "p.fasta"
    proteins.write_text(">a\nMKV\n")
    with pytest.raises(SetClipError, match="differs in case only"):  # shards of another modality too
        ingest(proteins, tmp_path / "data", IngestOptions(modality="protein", split="FOLD1"))
    with pytest.raises(UsageError, match="twice"):
        parse_split("part=0.5,PART=0.5")


@pytest.mark.parametrize("cell", ["", '""', " ", "\u200b", "\ufeff \u200d", "\u00a0", "\u2060\u200b"])
@pytest.mark.parametrize("row", ["7,{},x\n", "7,{}\n"])
def test_an_empty_caption_in_a_table_is_called_so(tmp_path: Path, cell: str, row: str) -> None:
    header = "id,text,label\n" if row.count(",") == 2 else "id,text\n"
    assert reasons(read(tmp_path / "c.csv", header + row.format(cell))) == ["empty caption"]


def test_an_empty_caption_beside_another_one_is_not_used(tmp_path: Path) -> None:
    items = read(tmp_path / "c.csv", "text,caption\n,a lake\n")
    assert [item.payload for item in items if isinstance(item, Record)] == ["a lake"]
    assert reasons(read(tmp_path / "c.jsonl", '{"text": null}\n{"id": 1}\n')) == [
        "empty caption",
        "no field 'text' or 'caption' or 'raw' or 'sentence' or 'captions' or 'sentences' or 'title' or 'comment'",
    ]


def test_joiners_of_emoji_in_a_caption_stay(tmp_path: Path) -> None:
    (item,) = read(tmp_path / "c.jsonl", '{"text": "a \U0001f469\u200d\U0001f33e farmer"}\n')
    assert isinstance(item, Record)
    assert item.payload == "a \U0001f469\u200d\U0001f33e farmer"


@pytest.mark.parametrize(
    ("content", "labels", "repair"),
    [
        ("text,label\na,0.0\nb,1.0\nc,\n", ["0", "1", None], "label such as 3.0 read as 3"),
        ("text,label\na,0.0\nb,lake\n", ["0.0", "lake"], None),
        ("text,label\na,0.5\nb,1.0\n", ["0.5", "1.0"], None),
        ("text,label\na, 1\nb,1\n", ["1", "1"], "white space at the ends of a label dropped"),
        ("text,label\na,ein See\u00a0\nb,ein See\n", ["ein See"] * 2, "white space at the ends of a label dropped"),
    ],
)
def test_labels_of_a_table_have_one_spelling(
    tmp_path: Path, content: str, labels: list[str | None], repair: str | None
) -> None:
    items = read(tmp_path / "c.csv", content)
    assert [item.label for item in items if isinstance(item, Record)] == labels
    assert {each for item in items if isinstance(item, Record) for each in item.repairs} == ({repair} - {None})
    rows = [line.split(",") for line in content.splitlines()[1:]]
    (tmp_path / "p.csv").write_text(
        "sequence,label\n" + "".join(f"MK{'AC'[n % 2]},{label}\n" for n, (_, label) in enumerate(rows))
    )
    proteins = ProteinTable(tmp_path / "p.csv").records(0, 1)
    assert [item.label for item in proteins if isinstance(item, Record)] == labels


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;", "\ufeffsep=;", "sep=:"])
def test_the_separator_in_the_first_line_is_that_of_the_table(tmp_path: Path, first: str) -> None:
    separator = first.strip('"')[-1]
    lines = [first, f"id{separator}text", f"7{separator}a lake, blue", ""]
    items = read(tmp_path / "c.csv", "\r\n".join(lines))
    assert [(item.id, item.payload) for item in items if isinstance(item, Record)] == [("7", "a lake, blue")]
    assert len(items) == 1


def test_a_long_field_beside_a_caption_is_read(tmp_path: Path) -> None:
    (item,) = read(tmp_path / "c.csv", f"id,text,notes\n7,a lake,{'x' * 200_000}\n")
    assert isinstance(item, Record)
    assert item.id == "7"


def test_labels_of_a_file_as_pandas_writes_them_are_whole_numbers(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"id": "a", "text": "x"}\n{"id": "b", "text": "y"}\n')
    (tmp_path / "l.csv").write_text("id,label\na,0.0\nb,1.0\n")
    result = ingest(
        tmp_path / "c.jsonl", tmp_path / "data", IngestOptions(modality="caption", labels=tmp_path / "l.csv")
    )
    assert open_dataset(tmp_path / "data").table("caption")["label"].to_pylist() == ["0", "1"]
    assert "labels of l.csv such as 3.0 read as 3" in result.summary()
    (tmp_path / "l.csv").write_text("id,label\na,0.0\nb,lake\n")
    ingest(tmp_path / "c.jsonl", tmp_path / "data", IngestOptions(modality="caption", labels=tmp_path / "l.csv"))
    assert open_dataset(tmp_path / "data").table("caption")["label"].to_pylist() == ["0.0", "lake"]
