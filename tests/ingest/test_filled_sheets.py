"""Files of pairs that a person fills in: empty partners, items without one, ids that look like formulas, slips."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tiny
from typer.testing import CliRunner

from setclip_cli.cli.app import app
from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.errors import SetClipError
from setclip_cli.ingest.annotations import PairFile, quoted, read_pairs, unquoted
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten radar rows r0 ... r9 and ten sonar rows s0 ... s9."""
    for name in ("radar", "sonar"):
        lines = [f"{name[0]}{row},{row + 1},{row * row}" for row in range(10)]
        source = write(tmp_path / f"{name}.csv", "id,a,b", *lines)
        ingest([source], tmp_path / "data", IngestOptions(modality=name, kind="vector"))
    return tmp_path / "data"


def add(data: Path, file: Path) -> None:
    ingest([], data, IngestOptions(pairs=file))


def told(data: Path, file: Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["ingest", "--pairs", str(file), "--out", str(data)])
    return result.exit_code, result.output


FORMS = {
    "two names": ("radar,sonar,why,shown", "{0},{1},typical,words"),
    "the other way round": ("sonar,radar", "{1},{0}"),
    "four columns": ("left_modality,left_id,right_modality,right_id", "radar,{0},sonar,{1}"),
    "semicolons": ("radar;sonar;why", "{0};{1};because"),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_line_is_a_pair_an_item_alone_or_not_answered(tmp_path: Path, form: str) -> None:
    header, line = FORMS[form]
    answers = [("r0", "s1"), ("r1", ""), ("r2", "-"), ("-", "s2"), ("", "s3"), ("r4", "  "), ("-", "-")]
    file = read_pairs(
        write(tmp_path / "p.csv", header, *(line.format(*answer) for answer in answers)), ("radar", "sonar")
    )
    assert [(pair.location, pair.left_id, pair.right_id) for pair in file.pairs] == [("line 2", "r0", "s1")]
    assert [tuple(item) for item in file.lone] == [("line 4", "radar", "r2"), ("line 5", "sonar", "s2")]
    assert file.unanswered == 4


@pytest.mark.parametrize("text", ["=1+1", "+7", "-7", "-", "@x", "'=1", "''-", "\uff1dx", "\t=x"])
def test_what_a_spreadsheet_would_run_is_quoted_and_comes_back(text: str) -> None:
    assert quoted(text) == f"'{text}"
    assert unquoted(quoted(text)) == text


@pytest.mark.parametrize("text", ["a=1", "'a'", "'", "", "a-b", "7", "it's", "\u00e9"])
def test_other_ids_stay_as_they_are(text: str) -> None:
    assert quoted(text) == unquoted(text) == text


def test_unfilled_lines_are_counted_and_items_alone_are_kept(data: Path, tmp_path: Path) -> None:
    code, words = told(data, write(tmp_path / "p.csv", "radar,sonar", "r0,s1", "r1,", "r2,", "r3,-", "-,s9"))
    assert code == 0, words
    assert "2 rows of the pairs have no partner filled in" in words
    assert "2 rows of the pairs say that an item has no partner" in words
    dataset = open_dataset(data)
    assert [pair[:4] for pair in dataset.pairs()] == [("radar", "r0", "sonar", "s1")]
    assert dataset.lone_items() == {("radar", "r3"), ("sonar", "s9")}
    # A second file adds to the first; the same file again changes nothing.
    add(data, write(tmp_path / "q.csv", "radar,sonar", "r4,s4", "r5,-"))
    before = (data / "dataset.json").read_bytes()
    add(data, tmp_path / "q.csv")
    assert (data / "dataset.json").read_bytes() == before
    assert len(open_dataset(data).pairs()) == 2
    assert open_dataset(data).lone_items() == {("radar", "r3"), ("radar", "r5"), ("sonar", "s9")}


def test_a_file_of_items_alone_is_taken(data: Path, tmp_path: Path) -> None:
    add(data, write(tmp_path / "p.csv", "radar,sonar", "r3,-"))
    assert open_dataset(data).pairs() == []
    assert open_dataset(data).lone_items() == {("radar", "r3")}


def test_a_file_that_nobody_has_filled_in_is_refused(data: Path, tmp_path: Path) -> None:
    before = (data / "dataset.json").read_bytes()
    with pytest.raises(SetClipError, match="no line has a partner filled in, of 2") as caught:
        add(data, write(tmp_path / "p.csv", "radar,sonar", "r0,", "r1,"))
    assert "write the id of the partner" in caught.value.fix
    assert (data / "dataset.json").read_bytes() == before


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("r0,s11", "line 3: pair names an unknown sonar id: s11 (did you mean 's1'?)"),
        ("r00,s1", "line 3: pair names an unknown radar id: r00 (did you mean 'r0'?)"),
        ("radar9,-", "line 3: pair names an unknown radar id: radar9"),
    ],
)
def test_a_slip_is_told_with_its_line_and_the_nearest_id(data: Path, tmp_path: Path, line: str, words: str) -> None:
    code, output = told(data, write(tmp_path / "p.csv", "radar,sonar", "r5,s5", line))
    assert code == 0, output
    assert words in " ".join(output.split())
    assert [pair[:4] for pair in open_dataset(data).pairs()] == [("radar", "r5", "sonar", "s5")]


@pytest.mark.parametrize("at_once", [True, False])
def test_an_id_that_was_left_out_as_a_duplicate_is_told_so(tmp_path: Path, at_once: bool) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name, seed in (("a.jpg", 0), ("b.jpg", 0), ("c.jpg", 1)):
        (images / name).write_bytes(tiny.jpeg(seed))
    texts = ['{"id": "t1", "text": "sea"}', '{"id": "t2", "text": "sea"}', '{"id": "t3", "text": "wood"}']
    words = write(tmp_path / "captions.jsonl", *texts)
    out, sheet = tmp_path / "out", tmp_path / "p.csv"
    write(sheet, "image,caption", "b.jpg,t1", "a.jpg,t2", "b,t3", "c.jpg,t3", "bb.jpg,t1")
    ingest([images], out, IngestOptions(modality="image"))
    with_captions = IngestOptions(modality="caption", pairs=sheet if at_once else None)
    ingest([words], out, with_captions)
    if not at_once:
        add(out, sheet)
    lines = pq.read_table(out / "rejects.parquet").to_pylist()
    reasons = {line["location"]: line["reason"] for line in lines if line["source"] == "pairs"}
    repeated = "(it was left out as a duplicate: another row has the same content)"
    assert reasons == {
        "line 2": f"pair names an unknown image id: b.jpg {repeated}",
        "line 3": f"pair names an unknown caption id: t2 {repeated}",
        "line 4": f"pair names an unknown image id: b {repeated}",
        "line 6": "pair names an unknown image id: bb.jpg (did you mean 'c.jpg'?)",
    }


def test_an_answer_for_a_row_that_has_gone_is_told(data: Path, tmp_path: Path) -> None:
    sheet = write(tmp_path / "p.csv", "radar,sonar", "r8,s1", "r9,s2", "r7,-")
    lines = (tmp_path / "radar.csv").read_text().splitlines()
    write(tmp_path / "radar.csv", *lines[:-3])  # r7, r8 and r9 are gone
    ingest([tmp_path / "radar.csv"], data, IngestOptions(modality="radar", kind="vector"))
    with pytest.raises(SetClipError, match=r"none of the 3 radar ids of p\.csv matches one of the 7 radar rows"):
        add(data, sheet)
    write(sheet, "radar,sonar", "r0,s1", "r9,s2", "r7,-")
    code, output = told(data, sheet)
    assert (code, "2 pairs left out: pair names an unknown radar id (first line 3: " in output) == (0, True), output
    assert open_dataset(data).lone_items() == set()


def test_a_row_that_goes_later_is_no_item_alone_any_more(data: Path, tmp_path: Path) -> None:
    add(data, write(tmp_path / "p.csv", "radar,sonar", "r0,s0", "r9,-", "r1,-"))
    lines = (tmp_path / "radar.csv").read_text().splitlines()
    write(tmp_path / "radar.csv", *lines[:-1])
    ingest([tmp_path / "radar.csv"], data, IngestOptions(modality="radar", kind="vector"))
    assert ("radar", "r1") in open_dataset(data).lone_items()


def test_a_pair_counts_more_than_no_partner_in_the_same_file_or_a_later_one(data: Path, tmp_path: Path) -> None:
    add(data, write(tmp_path / "p.csv", "radar,sonar", "r0,s1", "r0,-", "r2,-", "-,s3"))
    assert open_dataset(data).lone_items() == {("radar", "r2"), ("sonar", "s3")}
    add(data, write(tmp_path / "q.csv", "radar,sonar", "r2,s3"))
    assert open_dataset(data).lone_items() == set()


def test_a_sheet_that_a_spreadsheet_has_saved_is_read(data: Path, tmp_path: Path) -> None:
    text = "\ufeffRadar;Sonar;why;shown\r\nr0;s1;stands for 3;\r\nr1;;stands for 2;\r\n\r\n;;;\r\nr2; - ;;\r\n"
    (tmp_path / "p.csv").write_bytes(text.encode())
    add(data, tmp_path / "p.csv")
    assert [pair[:4] for pair in open_dataset(data).pairs()] == [("radar", "r0", "sonar", "s1")]
    assert open_dataset(data).lone_items() == {("radar", "r2")}


def test_an_empty_file_says_so(tmp_path: Path) -> None:
    assert read_pairs(write(tmp_path / "p.csv", "image,caption")) == PairFile()


def test_counts_are_in_the_json(data: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "p.csv", "radar,sonar", "r0,s1", "r1,", "r3,-")
    result = CliRunner().invoke(app, ["ingest", "--pairs", str(file), "--out", str(data), "--json"])
    found = json.loads(result.stdout)
    assert (found["pairs"], found["pairs_unanswered"], found["pairs_without_partner"]) == (1, 1, 1)
