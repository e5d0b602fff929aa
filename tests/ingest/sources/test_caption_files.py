"""Captions in the layouts they are published in, and as people mangle them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from setclip_cli.errors import SetClipError
from setclip_cli.ingest.sources.base import Record, Reject
from setclip_cli.ingest.sources.caption import CaptionFile
from setclip_cli.ingest.sources.caption_json import class_of_name
from setclip_cli.ingest.sources.fields import split_of


def read(path: Path, content: bytes | str, **options: str) -> list[Record | Reject]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(CaptionFile(path, **options).records(0, 1))


def texts(items: list[Record | Reject]) -> list[object]:
    return [item.payload for item in items if isinstance(item, Record)]


def reasons(items: list[Record | Reject]) -> list[tuple[str, str]]:
    return [(item.location, item.reason) for item in items if isinstance(item, Reject)]


def test_published_json_gives_groups_splits_and_the_class_in_the_file_name(tmp_path: Path) -> None:
    images = [
        {"filename": "airport_1.jpg", "split": "train", "sentences": [{"raw": "a plane ."}, {"raw": " two planes "}]},
        {"filename": "00007.jpg", "split": "val", "sentences": [{"raw": "a field"}]},
        {"filename": "lake_7.jpg", "split": "test", "sentences": [{"raw": "a lake"}]},
    ]
    first, second, third, fourth = read(tmp_path / "dataset_x.json", json.dumps({"images": images, "dataset": "x"}))
    assert isinstance(first, Record)
    assert isinstance(second, Record)
    assert isinstance(third, Record)
    assert (first.id, first.group, first.label, first.split) == ("airport_1.jpg#0", "airport_1.jpg", "airport", "train")
    assert (second.id, second.payload) == ("airport_1.jpg#1", "two planes")
    assert (third.id, third.label, third.split) == ("00007.jpg#0", None, "val")
    assert isinstance(fourth, Record)
    assert (fourth.label, fourth.split) == ("lake", "test")


def test_file_names_that_all_begin_alike_name_no_class(tmp_path: Path) -> None:
    images = [{"filename": f"img_{number}.jpg", "sentences": [{"raw": "words"}]} for number in range(3)]
    items = read(tmp_path / "dataset_x.json", json.dumps({"images": images}))
    assert {item.label for item in items if isinstance(item, Record)} == {None}


def test_nwpu_captions_come_by_class(tmp_path: Path) -> None:
    image = {"filename": "lake_001.jpg", "split": "val", "raw": "a lake", "raw_1": "water", "imgid": 0}
    first, second, bad = read(tmp_path / "nwpu.json", json.dumps({"lake": [image, {"filename": "lake_002.jpg"}]}))
    assert isinstance(first, Record)
    assert isinstance(second, Record)
    assert (first.id, first.label, first.split, second.id) == ("lake_001.jpg#0", "lake", "val", "lake_001.jpg#1")
    assert isinstance(bad, Reject)


def test_coco_annotations_take_the_file_name_as_their_group(tmp_path: Path) -> None:
    whole = {
        "images": [{"id": 9, "file_name": "000009.jpg"}],
        "annotations": [
            {"id": 1, "image_id": 9, "caption": "a bowl"},
            {"id": 2, "image_id": 9, "caption": "food"},
            {"id": 3, "image_id": 8, "caption": "no such image listed"},
            {"id": 4, "image_id": 9},
        ],
    }
    items = read(tmp_path / "captions.json", json.dumps(whole))
    assert [(i.id, i.group) for i in items if isinstance(i, Record)] == [
        ("000009.jpg#0", "000009.jpg"),
        ("000009.jpg#1", "000009.jpg"),
        ("8#0", "8"),
    ]
    assert len(reasons(items)) == 1


def test_json_lines_carry_id_text_group_label_and_split(tmp_path: Path) -> None:
    lines = [
        {"id": "a", "text": "one", "group": "g", "label": "x", "split": "validation"},
        {"caption": "two", "image": "g"},
        {"caption": "three"},
        {"id": 4, "text": 4},
        ["no", "object"],
    ]
    items = read(tmp_path / "c.jsonl", "\n\n".join(json.dumps(line) for line in lines) + "\n{broken")
    assert items[0][:2] == ("caption", "a")
    assert items[0][4:7] == ("x", "val", "g")  # type: ignore[misc]
    assert [item.id for item in items[1:3] if isinstance(item, Record)] == ["g#1", "c.jsonl:5"]
    assert reasons(items) == [
        ("line 7", "caption is no string: int"),
        ("line 9", "JSON, but no object"),
        ("line 10", "not JSON: JSONDecodeError"),
    ]


def test_csv_with_a_named_column_and_quoted_line_ends(tmp_path: Path) -> None:
    items = read(tmp_path / "c.csv", 'image,caption\n1.jpg,"a, b"\n1.jpg,"two\nlines"\n2.jpg\n2.jpg,last')
    assert texts(items) == ["a, b", "two\nlines", "last"]
    assert [item.id for item in items if isinstance(item, Record)] == ["1.jpg#0", "1.jpg#1", "2.jpg#0"]
    assert len(reasons(items)) == 1
    named = read(tmp_path / "d.tsv", "words\tid\nhello\t7\n", text_column="words")
    assert (texts(named), named[0][1]) == (["hello"], "7")


def test_csv_as_spreadsheets_write_it(tmp_path: Path) -> None:
    """A byte-order mark, spaces around the names of columns, empty fields, a NUL."""
    (first, second) = read(tmp_path / "c.csv", "\ufefflabel, text ,caption,id\nx,,a lake,\n,a\0field,,7\n")
    assert isinstance(first, Record)
    assert isinstance(second, Record)
    assert (first.payload, first.label, first.id) == ("a lake", "x", "c.csv:2")
    assert (second.payload, second.label, second.id) == ("a\N{REPLACEMENT CHARACTER}field", None, "7")


def test_a_list_of_records_counts_the_captions_of_each_image(tmp_path: Path) -> None:
    entries = [
        {"caption": "one", "image": "a.jpg"},
        {"caption": "two", "image": "a.jpg"},
        {"caption": "x", "image": "b"},
    ]
    items = read(tmp_path / "c.json", json.dumps([*entries, "no object"]))
    assert [item.id for item in items if isinstance(item, Record)] == ["a.jpg#0", "a.jpg#1", "b#0"]
    assert reasons(items) == [("entry 4", "no object")]


@pytest.mark.parametrize(
    ("found", "split"),
    [
        ("restval", "train"),
        ("training", "train"),
        ("valid", "val"),
        ("dev", "val"),
        ("test", "test"),
        ("other", "other"),
    ],
)
def test_the_usual_names_of_splits(found: str, split: str) -> None:
    assert split_of(found) == split


def test_csv_without_a_caption_column_says_which_there_are(tmp_path: Path) -> None:
    with pytest.raises(SetClipError, match=r"c\.csv: no column 'text'.*among 'id', 'txet'.*did you mean 'txet'"):
        read(tmp_path / "c.csv", "id,txet\n1,hello\n")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_one_caption_a_line_with_mixed_line_ends(tmp_path: Path, mark: bytes) -> None:
    items = read(tmp_path / "c.txt", mark + b"one\r\ntwo\rthree\n  four  ")
    assert texts(items) == ["one", "two", "three", "four"]
    assert [item.id for item in items if isinstance(item, Record)] == [f"c.txt:{n}" for n in (1, 2, 3, 4)]


def test_empty_huge_and_non_utf8_captions_are_rejected_by_line(tmp_path: Path) -> None:
    items = read(tmp_path / "c.txt", b"one\n\n" + b"x" * 1_000_000 + b"\ncaf\xe9\n" + b"y" * (5 << 20) + b"\nlast")
    assert texts(items) == ["one", "last"]
    assert reasons(items) == [
        ("line 2", "empty caption"),
        ("line 3", "caption longer than 65,536 characters"),
        ("line 4", "not UTF-8: byte 0xe9"),
        ("line 5", "line longer than 4,194,304 bytes"),
    ]


@pytest.mark.parametrize("name", ["c.txt", "c.jsonl", "c.csv", "c.json"])
def test_utf16_is_one_error_that_names_the_conversion(tmp_path: Path, name: str) -> None:
    with pytest.raises(SetClipError, match=r"not UTF-8 .*UTF-16(.|\n)*iconv"):
        read(tmp_path / name, '{"text": "hello"}'.encode("utf-16"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "too many lists or objects in one another"),
        (b'{"a": 1}', "neither a list"),
        (b"3", "neither a list"),
        (b'["caf\xe9"]', "not UTF-8"),
    ],
)
def test_json_that_is_none_of_the_layouts_is_one_error(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(SetClipError, match=words):
        read(tmp_path / "c.json", content)


def test_half_a_surrogate_pair_is_rejected(tmp_path: Path) -> None:
    (item,) = read(tmp_path / "c.jsonl", '{"text": "\\ud800 hello"}')
    assert isinstance(item, Reject)


@pytest.mark.parametrize(
    ("name", "label"),
    [("airport_1.jpg", "airport"), ("storage_tanks_12.tif", "storage_tanks"), ("00012.jpg", None), ("img.png", None)],
)
def test_the_class_in_front_of_a_file_name(name: str, label: str | None) -> None:
    assert class_of_name(name) == label
