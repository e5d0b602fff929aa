"""Files as people have them: put together, exported, renamed. Nothing of them is taken for what it is not."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from setclip_cli.errors import SetClipError
from setclip_cli.ingest.options import ReadOptions
from setclip_cli.ingest.sources import open_source
from setclip_cli.ingest.sources.archive import ImageArchive
from setclip_cli.ingest.sources.base import Record, Reject
from setclip_cli.ingest.sources.caption import CaptionFile

ROWS = [{"text": "a lake", "image": "1.jpg"}, {"text": "a road", "image": "2.jpg"}]


def read(path: Path, content: str) -> tuple[list[tuple[object, str | None]], dict[str, str]]:
    """(text and group of each record), (reason of each reject)."""
    path.write_text(content)
    answers = list(CaptionFile(path).records(0, 1))
    records = [(each.payload, each.group) for each in answers if isinstance(each, Record)]
    return records, {each.location: each.reason for each in answers if isinstance(each, Reject)}


TAKEN = [("a lake", "1.jpg"), ("a road", "2.jpg")]


@pytest.mark.parametrize(
    ("name", "content", "left"),
    [
        ("a.csv", "image,text\n1.jpg,a lake\nimage,text\n2.jpg,a road\n", {"line 3": "header line again"}),
        ("a.txt", "image|text\n1.jpg|a lake\nimage|text\n2.jpg|a road\n", {"line 3": "header line again"}),
        (
            "b.txt",
            "| image | text |\n|:---|---:|\n| 1.jpg | a lake |\n| 2.jpg | a road |\n",
            {"line 2": "line between header and rows"},
        ),
        ("a.jsonl", "".join(json.dumps(row) + ",\n" for row in ROWS), {}),
        ("b.jsonl", json.dumps(ROWS), {}),
        ("c.jsonl", json.dumps(ROWS, indent=2), {}),
        ("a.json", json.dumps({"train": ROWS[:1], "test": ROWS[1:]}), {}),
    ],
)
def test_tables_and_json_as_they_are_met(tmp_path: Path, name: str, content: str, left: dict[str, str]) -> None:
    assert read(tmp_path / name, content) == (TAKEN, left)


def test_parts_named_by_splits_give_the_splits(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"train": ROWS[:1], "validation": [ROWS[1], {**ROWS[0], "split": "test"}]}))
    assert [each.split for each in CaptionFile(path).records(0, 1) if isinstance(each, Record)] == [
        "train",
        "val",
        "test",
    ]


def test_a_comma_after_an_object_is_counted_and_what_is_no_json_stays_a_reject(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"},\n{"text": "b"\n{"text": },\n')
    first, *others = CaptionFile(path).records(0, 1)
    assert isinstance(first, Record)
    assert first.repairs == ("comma after an object of JSON",)
    assert [each.kind for each in others if isinstance(each, Reject)] == ["not JSON", "not JSON"]


def test_folders_of_a_zip_from_windows_give_labels_and_splits(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number, name in enumerate(("train\\lake\\1.png", "test\\road\\2.png")):
            stream = io.BytesIO()
            Image.new("RGB", (8, 8), (number, 0, 0)).save(stream, "PNG")
            archive.writestr(zipfile.ZipInfo(name), stream.getvalue())
    found = [each for each in ImageArchive(tmp_path / "a.zip").records(0, 1) if isinstance(each, Record)]
    assert {(each.split, each.label) for each in found} == {("train", "lake"), ("test", "road")}


def test_an_excel_file_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/workbook.xml", "<workbook/>")
    (tmp_path / "b.xls").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))
    for name in ("a.xlsx", "b.xls"):
        with pytest.raises(SetClipError, match="is an Office file") as caught:
            open_source(tmp_path / name, ReadOptions(modality="caption"))
        assert "CSV" in caught.value.fix
