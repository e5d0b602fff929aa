"""Captions in tables and lists, as people publish and export them: no file name, separator or header is a caption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from setclip_cli.errors import SetClipError
from setclip_cli.ingest.sources.base import Record, Reject
from setclip_cli.ingest.sources.caption import CaptionFile

Rows = list[tuple[str, str | None, object]]


def read(path: Path, content: bytes | str | pa.Table, **options: str) -> list[Record | Reject]:
    if isinstance(content, pa.Table):
        pq.write_table(content, path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(CaptionFile(path, **options).records(0, 1))


def taken(items: list[Record | Reject]) -> Rows:
    """(id, group, text) of each record."""
    return [(item.id, item.group, item.payload) for item in items if isinstance(item, Record)]


def reasons(items: list[Record | Reject]) -> list[tuple[str, str]]:
    return [(item.location, item.reason) for item in items if isinstance(item, Reject)]


TWO: Rows = [("1.jpg#0", "1.jpg", "a lake, blue"), ("1.jpg#1", "1.jpg", "two boats")]


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("Flickr8k.token.txt", "1.jpg#0\ta lake, blue\n1.jpg#1\ttwo boats\n", "no header line and the separator tab"),
        ("captions.txt", "image,caption\n1.jpg,a lake, blue\n1.jpg,two boats\n", "the separator comma"),
        ("captions.txt", 'image,caption\r\n1.jpg,"a lake, blue"\r\n1.jpg,two boats', "the separator comma"),
        ("c.txt", "\ufeffImage,Caption\n1.jpg,a lake, blue\n\n1.jpg,two boats\n", "the separator comma"),
        (
            "c.txt",
            "image_name| comment_number| comment\n1.jpg| 0| a lake, blue\n1.jpg| 1| two boats",
            "the separator bar",
        ),
        ("c.txt", "1.jpg\ta lake, blue\r1.jpg\ttwo boats\r", "no header line and the separator tab"),
        ("c.txt", "1.jpg,a lake, blue\n1.jpg,two boats\n", "no header line and the separator comma"),
        ("c.txt", "1.jpg a lake, blue\n1.jpg two boats\n", "no header line and the separator space"),
        ("c.txt", "caption\timage\na lake, blue\t1.jpg\ntwo boats\t1.jpg\n", "the separator tab"),
        ("results.csv", "image_name| comment_number| comment\n1.jpg| 0| a lake, blue\n1.jpg| 1| two boats", "bar"),
        ("c.csv", 'image;caption\n1.jpg;"a lake, blue"\n1.jpg;two boats\n', "the separator semicolon"),
        ("c.csv", "image\tcaption\n1.jpg\ta lake, blue\n1.jpg\ttwo boats\n", "the separator tab"),
        ("c.tsv", 'image,caption\n1.jpg,"a lake, blue"\n1.jpg,two boats\n', "the separator comma"),
        ("c.csv", "1.jpg,a lake, blue\n1.jpg,two boats\n", "no header line and the separator comma"),
        ("c.csv", "image,caption\n1.jpg,a lake, blue\n1.jpg,two boats\n", None),
        ("c.csv", " IMAGE , Caption \n1.jpg,a lake, blue\n1.jpg,two boats\n", None),
        ("c.csv", 'video,caption\n1.jpg,"a lake, blue"\n1.jpg,two boats\n', None),
        ("c.csv", 'video_id,caption\n1.jpg,"a lake, blue"\n1.jpg,two boats\n', None),
    ],
)
def test_a_table_is_read_as_one_whatever_its_separator_and_suffix(
    tmp_path: Path, name: str, content: str, note: str | None
) -> None:
    items = read(tmp_path / name, content)
    assert (taken(items), reasons(items)) == (TWO, [])
    notes = CaptionFile(tmp_path / name).notes()
    assert notes == [] if note is None else note in notes[0]


def test_the_ids_of_a_numbered_table_are_those_of_the_file(tmp_path: Path) -> None:
    items = read(tmp_path / "c.txt", "1.jpg#3\tone\n2.jpg#4\ttwo\n")
    assert [(item.id, item.made_up) for item in items if isinstance(item, Record)] == [
        ("1.jpg#3", False),
        ("2.jpg#4", False),
    ]


def test_texts_with_a_url_have_it_as_their_group(tmp_path: Path) -> None:
    """The layout of Conceptual Captions."""
    items = read(tmp_path / "train.tsv", "a lake\thttp://x.org/1.jpg\ntwo boats\thttps://x.org/2\n")
    assert taken(items) == [
        ("http://x.org/1.jpg#0", "http://x.org/1.jpg", "a lake"),
        ("https://x.org/2#0", "https://x.org/2", "two boats"),
    ]


def test_lines_that_do_not_fit_a_table_are_rejects(tmp_path: Path) -> None:
    lines = [f"{number}.jpg#0\tcaption {number}" for number in range(9)]
    items = read(tmp_path / "c.txt", "\n".join([*lines, "no file name"]))
    assert len(taken(items)) == 9
    assert reasons(items) == [("line 10", "no image's name and tab at the start, as in the other lines")]
    items = read(tmp_path / "d.txt", "image,caption\n1.jpg,one\n2.jpg,two\n3.jpg,three\n4.jpg,x\n5.jpg,y\n6.jpg")
    assert len(taken(items)) == 5
    assert reasons(items) == [("line 7", "number of fields differs from the header: 1, not 2")]


@pytest.mark.parametrize(
    "content",
    ["a lake, blue\ntwo boats, one red\n", "text, and more\nwords\n", "see 1.jpg\n2.jpg is red\n", "one | two\n"],
)
def test_plain_captions_stay_what_they_are(tmp_path: Path, content: str) -> None:
    assert [text for _, _, text in taken(read(tmp_path / "c.txt", content))] == content.splitlines()
    assert CaptionFile(tmp_path / "c.txt").notes() == []


@pytest.mark.parametrize("header", ["caption", "Text", "captions"])
def test_the_header_of_a_single_column_is_no_caption(tmp_path: Path, header: str) -> None:
    items = read(tmp_path / "c.txt", f"{header}\na lake\n")
    assert [text for _, _, text in taken(items)] == ["a lake"]
    assert items[0] == Reject("line 1", "header line", bad=False, listed=False)


def test_columns_that_no_rule_knows_are_refused_and_no_caption(tmp_path: Path) -> None:
    with pytest.raises(SetClipError, match=r"c\.txt: each line has 2 columns"):
        read(tmp_path / "c.txt", "391895\ta lake\n391896\ttwo boats\n")


def test_no_line_is_swallowed_by_a_quote_that_is_not_closed(tmp_path: Path) -> None:
    items = read(tmp_path / "c.csv", 'image,caption\n1.jpg,one\n2.jpg,"two\n3.jpg,three\n4.jpg,four\n')
    assert [text for _, _, text in taken(items)] == ["one"]
    assert reasons(items) == [
        ("line 3", "quote that is not closed"),
        ("line 4", "part of a row that is not taken: that of line 3"),
        ("line 5", "part of a row that is not taken: that of line 3"),
    ]


LISTS: Rows = [("1.jpg#0", "1.jpg", "one"), ("2.jpg#0", "2.jpg", "two"), ("2.jpg#1", "2.jpg", "three")]


@pytest.mark.parametrize("field", ["caption", "captions", "sentences", "raw", "text"])
@pytest.mark.parametrize(
    "several",
    [
        ["two", "three"],
        [{"raw": "two", "tokens": ["two"]}, {"caption": "three"}],
        ["two", {"sentence": "three"}],
        {"raw": ["two", "three"], "sentid": [0, 1]},
        '["two", "three"]',
        "['two', 'three']",
    ],
)
def test_a_list_is_that_many_captions_of_one_group(tmp_path: Path, field: str, several: Any) -> None:
    entries = [{"image": "1.jpg", field: "one"}, {"image": "2.jpg", field: several}]
    assert taken(read(tmp_path / "c.jsonl", "\n".join(map(json.dumps, entries)))) == LISTS
    assert taken(read(tmp_path / "c.json", json.dumps(entries))) == LISTS
    assert taken(read(tmp_path / "d.json", "\n".join(map(json.dumps, entries)))) == LISTS


def test_captions_of_one_list_without_an_image_share_a_group(tmp_path: Path) -> None:
    items = read(tmp_path / "c.jsonl", '{"captions": ["one", "two"]}\n{"id": 7, "captions": ["three", 4, null]}')
    assert taken(items) == [
        ("c.jsonl:1#0", "c.jsonl:1", "one"),
        ("c.jsonl:1#1", "c.jsonl:1", "two"),
        ("7#0", "c.jsonl:2", "three"),
    ]
    assert reasons(items) == [
        ("line 2, caption 2", "caption is no string: int"),
        ("line 2, caption 3", "no text in place of a caption"),
    ]
    assert [item.made_up for item in items if isinstance(item, Record)] == [True, True, False]


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()],
    ids=str,
)
def test_columns_of_every_string_type(tmp_path: Path, kind: pa.DataType) -> None:
    table = pa.table({"image": pa.array(["1.jpg", "2.jpg"]), "caption": pa.array(["one", "two"]).cast(kind)})
    assert taken(read(tmp_path / "c.parquet", table)) == [("1.jpg#0", "1.jpg", "one"), ("2.jpg#0", "2.jpg", "two")]


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.large_string()), pa.list_(pa.string(), 2)])
def test_columns_of_lists_beside_images(tmp_path: Path, kind: pa.DataType) -> None:
    images = [{"bytes": b"x" * 1000, "path": "1.jpg"}, {"bytes": b"y" * 1000, "path": None}]
    captions = pa.array([["one", "two"], ["three", "four"]], kind)
    items = read(tmp_path / "c.parquet", pa.table({"image": images, "captions": captions}))
    assert taken(items) == [
        ("1.jpg#0", "1.jpg", "one"),
        ("1.jpg#1", "1.jpg", "two"),
        ("c.parquet:2#0", "c.parquet:2", "three"),  # the id that the image gets
        ("c.parquet:2#1", "c.parquet:2", "four"),
    ]


def test_the_group_beside_an_image_is_the_id_that_the_image_gets(tmp_path: Path) -> None:
    table = pa.table({"image": [{"bytes": b"x"}], "filename": ["a/1.jpg"], "caption": ["one"]})
    assert taken(read(tmp_path / "c.parquet", table)) == [("a/1.jpg#0", "a/1.jpg", "one")]
    assert taken(read(tmp_path / "d.parquet", table.set_column(0, "image", [[b"x"]]))) == [
        ("a/1.jpg#0", "a/1.jpg", "one")
    ]


def test_empty_lists_are_counted_and_nulls_are_rejects(tmp_path: Path) -> None:
    items = read(tmp_path / "c.parquet", pa.table({"captions": [["one"], [], None]}))
    assert items[1] == Reject("row 2", "empty list of captions", bad=False, listed=False)
    assert reasons(items)[1][0] == "row 3"
    items = read(tmp_path / "d.parquet", pa.table({"caption": pa.nulls(2)}))
    assert [location for location, _ in reasons(items)] == ["row 1", "row 2"]
    assert read(tmp_path / "e.parquet", pa.table({"caption": pa.array([], pa.string())})) == []


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("c.csv", "caption,image,caption\none,1.jpg,two\n", "has 2 columns that are 'caption'"),
        ("c.csv", "image,caption, Caption\n1.jpg,one,two\n", "'caption', 'Caption'"),
        ("c.csv", "Image,image,caption\n1.jpg,2.jpg,one\n", "2 columns that are 'image'"),
        ("c.tsv", "id\tlabel\tlabel\ttext\n1\tx\ty\tone\n", "2 columns that are 'label'"),
        ("c.txt", "image,caption,caption\n1.jpg,one,two\n2.jpg,one,two\n", "2 columns that are 'caption'"),
        ("c.parquet", pa.table([["one"], ["two"]], ["caption", "caption"]), "2 columns that are 'caption'"),
        ("c.parquet", pa.table([["one"], ["two"]], ["text", "text "]), "2 columns that are 'text'"),
    ],
)
def test_two_columns_that_can_be_one_are_refused(tmp_path: Path, name: str, content: Any, words: str) -> None:
    with pytest.raises(SetClipError, match=words):
        read(tmp_path / name, content)


def test_a_repeated_key_in_json_is_refused(tmp_path: Path) -> None:
    items = read(tmp_path / "c.jsonl", '{"text": "one", "text": "two"}\n{"text": "x", "Text": "y"}\n{"text": "three"}')
    assert [text for _, _, text in taken(items)] == ["three"]
    assert reasons(items) == [
        ("line 1", "JSON with one key twice: 'text'"),
        ("line 2", "two fields are one: has 2 columns that are 'text': 'text', 'Text'"),
    ]
    with pytest.raises(SetClipError, match="one key twice: 'caption'"):
        read(tmp_path / "c.json", '[{"caption": "one", "caption": "two"}]')


def test_a_column_that_is_not_used_may_be_there_twice(tmp_path: Path) -> None:
    assert [text for _, _, text in taken(read(tmp_path / "c.csv", "note,caption,note,,\nx,one,y,,\n"))] == ["one"]
    named = read(tmp_path / "d.csv", "Caption,caption\none,two\n", text_column="Caption")
    assert [text for _, _, text in taken(named)] == ["one"]


@pytest.mark.parametrize(
    ("label", "found"), [("lake", "lake"), (3, "3"), (3.0, "3"), (2.5, "2.5"), (True, "True"), (None, None), ("", None)]
)
def test_labels_that_are_numbers_or_words(tmp_path: Path, label: Any, found: str | None) -> None:
    (item,) = read(tmp_path / "c.jsonl", json.dumps({"text": "one", "label": label}))
    assert isinstance(item, Record)
    assert (item.label, item.repairs) == (found, ())


@pytest.mark.parametrize("label", [["lake", "forest"], {"name": "lake"}, [3]])
def test_a_label_that_cannot_be_one_is_counted(tmp_path: Path, label: Any) -> None:
    (item,) = read(tmp_path / "c.jsonl", json.dumps({"text": "one", "label": label}))
    assert isinstance(item, Record)
    assert (item.label, item.repairs) == (None, (f"label not used: its type is {type(label).__name__}",))


def test_coco_captions_of_images_that_it_does_not_list_are_counted(tmp_path: Path) -> None:
    whole = {
        "images": [{"id": 9, "file_name": "9.jpg"}, {"id": 10, "file_name": "10.jpg"}],
        "annotations": [
            {"image_id": "9", "caption": ["a bowl", "food"]},
            {"image_id": 8, "caption": "not listed"},
            {"image_id": 9},
        ],
    }
    items = read(tmp_path / "captions.json", json.dumps(whole))
    assert taken(items) == [("9.jpg#0", "9.jpg", "a bowl"), ("9.jpg#1", "9.jpg", "food"), ("8#0", "8", "not listed")]
    assert [item.repairs for item in items if isinstance(item, Record)] == [
        (),
        (),
        ("image is not in the list of images: its number is the group",),
    ]
    assert reasons(items) == [("annotation 3", "no 'caption' and 'image_id'"), ("10.jpg", "image without a caption")]


@pytest.mark.parametrize(
    "whole",
    [
        {"1.jpg": "one", "2.jpg": ["two", "three"]},
        {"images": [{"file_name": "1.jpg", "captions": ["one"]}, {"filename": "2.jpg", "sentences": ["two", "three"]}]},
        {"version": 1, "data": [{"image": "1.jpg", "caption": "one"}, {"image": "2.jpg", "caption": ["two", "three"]}]},
        {"annotations": [{"image": "1.jpg", "caption": "one"}, {"image": "2.jpg", "captions": ["two", "three"]}]},
    ],
)
def test_other_json_layouts(tmp_path: Path, whole: Any) -> None:
    assert taken(read(tmp_path / "c.json", json.dumps(whole))) == LISTS


def test_a_list_of_texts_is_a_caption_each(tmp_path: Path) -> None:
    assert taken(read(tmp_path / "c.json", '["one", "two"]')) == [("c.json:1", None, "one"), ("c.json:2", None, "two")]
