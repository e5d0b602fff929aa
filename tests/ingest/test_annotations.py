"""Labels and pairs as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from setclip_cli.errors import SetClipError
from setclip_cli.ingest.annotations import read_labels, read_pairs

HEADER = "left_modality,left_id,right_modality,right_id\n"


def write(path: Path, content: str) -> Path:
    path.write_bytes(content.encode())
    return path


@pytest.mark.parametrize("header", ["id,label", "filename,class", "Label,ID", "\ufeffid,extra,label"])
def test_labels_are_found_by_the_names_of_their_columns(tmp_path: Path, header: str) -> None:
    row = {"id": "a", "filename": "a", "label": "x", "class": "x", "extra": "-"}
    line = ",".join(row[name.strip("\ufeff").lower()] for name in header.split(","))
    assert read_labels(write(tmp_path / "l.csv", f"{header}\r\n{line}\r\n\r\n")) == {"a": "x"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no column 'id'"),
        ("id,label\n", "there are no labels in it"),
        ("id,label\na,\n", "line 2: empty id or label"),
        ("id,label\na,x\na,y\n", "line 3: 'a' has the label 'y', but before 'x'"),
        ("id,label\na\n", "line 2: has 1 fields, but needs 2"),
    ],
)
def test_bad_labels_name_the_line(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(SetClipError, match=words):
        read_labels(write(tmp_path / "l.csv", content))


def test_labels_that_are_missing_or_not_utf8_are_named(tmp_path: Path) -> None:
    with pytest.raises(SetClipError, match=r"none\.csv: No such file"):
        read_labels(tmp_path / "none.csv")
    (tmp_path / "l.csv").write_bytes(b"id,label\ncaf\xe9,x\n")
    with pytest.raises(SetClipError, match=r"l\.csv: not UTF-8"):
        read_labels(tmp_path / "l.csv")


def test_pairs_may_be_written_in_either_order(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", HEADER + "caption,c,protein,p\nprotein,p,caption,c\n")
    assert [pair[1:] for pair in read_pairs(path).pairs] == [("protein", "p", "caption", "c")] * 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("imag,a,caption,b", "'imag' is not a modality.*did you mean 'image'"),
        ("image,a,image,b", "both sides are image"),
    ],
)
def test_bad_pairs_name_the_line(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(SetClipError, match=f"line 2: {words}"):
        read_pairs(write(tmp_path / "p.csv", HEADER + line))


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_other_separators_are_read(tmp_path: Path, separator: str) -> None:
    content = f"id{separator}label\na,b.jpg{separator}a lake, blue\n"
    assert read_labels(write(tmp_path / "l.csv", content)) == {"a,b.jpg": "a lake, blue"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a.jpg,lake\nb.jpg,field\n", r"line 1 is not a known header \(a.jpg, lake\)(.|\n)*add a first line.*id,label"),
        ("picture,label\na,x\n", r"no column 'id'.* among picture, label"),
        ("id,label,Label\na,x,y\n", "two columns 'label'"),
        ('{"id": "a", "label": "x"}\n', "is JSON, but a CSV file is needed"),
    ],
)
def test_a_file_that_is_no_table_of_labels_says_what_was_found(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(SetClipError, match=words):
        read_labels(write(tmp_path / "l.csv", content))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b'[{"id": "a", "label": "x"}]', "JSON"),
        (b'\xef\xbb\xbf \n{"a": "x"}', "JSON"),
        (b"PAR1\x00\x01", "a Parquet file"),
        (b"\x1f\x8b\x08\x00", "a gzip file"),
    ],
)
def test_a_file_of_another_format_is_named(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "l.csv").write_bytes(content)
    with pytest.raises(SetClipError, match=f"is {what}, but a CSV file is needed(.|\n)*the header id,label"):
        read_labels(tmp_path / "l.csv")
    with pytest.raises(SetClipError, match=f"is {what}, but a CSV file is needed(.|\n)*left_modality,left_id"):
        read_pairs(tmp_path / "l.csv")


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "\ufeffsep=;"])
def test_a_first_line_with_the_separator_is_no_header(tmp_path: Path, first: str) -> None:
    assert read_labels(write(tmp_path / "l.csv", f"{first}\r\nid;label\r\na,b;x\r\n")) == {"a,b": "x"}
    with pytest.raises(SetClipError, match="line 4: has 1 fields"):
        read_labels(write(tmp_path / "l.csv", f"{first}\nid;label\na;x\nb\n"))


def test_a_long_field_in_a_file_of_labels_is_read(tmp_path: Path) -> None:
    content = f"id,label,notes\na,x,{'y' * 200_000}\n"
    assert read_labels(write(tmp_path / "l.csv", content)) == {"a": "x"}
