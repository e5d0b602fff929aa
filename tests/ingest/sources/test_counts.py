"""Every text format is counted a second time, block by block, so that a reader that drops something is stopped."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from setclip_cli.errors import AccountingError
from setclip_cli.ingest.sources import protein, rows, streams, uniprot
from setclip_cli.ingest.sources.base import Record
from setclip_cli.ingest.sources.caption import CaptionFile
from setclip_cli.ingest.sources.counts import FastaCount, FlatFileCount, LineCount
from setclip_cli.ingest.sources.protein import Fasta
from setclip_cli.ingest.sources.reader import Reader
from setclip_cli.ingest.sources.uniprot import FlatFile, ProteinTable

ENTRY = "ID   A\nAC   A{};\nSQ   SEQUENCE\n     MKVLA\n//\n"


@pytest.mark.parametrize("seed", range(20))
def test_the_counts_agree_with_the_readers_on_random_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    draw = random.Random(seed)
    monkeypatch.setattr(streams, "BLOCK_BYTES", 7)
    monkeypatch.setattr(streams.blocks, "__defaults__", (draw.choice([3, 5, 8, 64]),))
    monkeypatch.setattr(protein, "MAX_RECORD_BYTES", 9)
    for number in range(200):
        words = [b"\n", b"\r", b"\r\n", b">", b"//", b"\n//\n", b"a", b" ", b";", b"\xff", b"bb>"]
        path = tmp_path / f"{number}.txt"
        path.write_bytes(b"".join(draw.choices(words, k=draw.randint(0, 24))))
        line_count, fasta_count, flat_count = LineCount(), FastaCount(), FlatFileCount()
        assert len(list(rows.text_lines(path, line_count))) == line_count.total
        assert len(list(protein._entries(path, fasta_count))) == fasta_count.total, path.read_bytes()
        assert len(list(uniprot._entries(path, flat_count))) == flat_count.total, path.read_bytes()


def test_a_record_over_the_limit_is_a_reject_also_if_only_its_line_end_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first record was lost if a block ended with its last line."""
    monkeypatch.setattr(protein, "MAX_RECORD_BYTES", 10)
    monkeypatch.setattr(streams.blocks, "__defaults__", (20,))
    path = tmp_path / "a.fasta"
    path.write_text(">A\n" + "M" * 16 + "\n>B\nMKV\n")
    found = list(Fasta(path).records(0, 1))
    assert [getattr(each, "reason", "taken") for each in found] == ["record longer than 10 bytes", "taken"]


def _without(function: Callable[..., Iterator[Any]], place: int) -> Callable[..., Iterator[Any]]:
    def dropping(*arguments: Any, **named: Any) -> Iterator[Any]:
        yield from (each for number, each in enumerate(function(*arguments, **named)) if number != place)

    return dropping


SOURCES: list[tuple[str, str, Callable[[Path], Reader], Any, str]] = [
    ("a.jsonl", '{"text": "a"}\n\n{"text": "b"}\n{"text": "c"}\n', CaptionFile, rows, "lines"),
    ("a.csv", 'text,label\na,b\n"c\nd",e\n\nf,g\n', CaptionFile, rows, "lines"),
    ("a.tsv", "text|label\na|b\nc|e\nf|g\n", CaptionFile, rows, "lines"),
    ("a.txt", "a lake\na field\n\na road\n", CaptionFile, rows, "lines"),
    ("b.txt", "1.jpg#0\ta lake\n1.jpg#1\ta field\n2.jpg#0\ta road\n", CaptionFile, rows, "lines"),
    ("c.txt", "image,caption\n1.jpg,a lake\n1.jpg,a field\n2.jpg,a road\n", CaptionFile, rows, "lines"),
    ("a.fasta", ">A\nMKV\n>B\nMKL\n>C\nMKI\n", Fasta, protein, "_entries"),
    ("a.dat", ENTRY.format(1) + ENTRY.format(2) + ENTRY.format(3), FlatFile, uniprot, "_entries"),
    ("p.csv", "id,sequence\nA,MKV\nB,MKL\nC,MKI\n", ProteinTable, rows, "lines"),
]


@pytest.mark.parametrize(("name", "content", "reader", "module", "function"), SOURCES)
@pytest.mark.parametrize("place", [1, 2])
def test_a_cutter_that_drops_a_piece_is_noticed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: str,
    reader: Callable[..., Reader],
    module: Any,
    function: str,
    place: int,
) -> None:
    path = tmp_path / name
    path.write_text(content)
    source = reader(path, ()) if reader is FlatFile else reader(path)
    assert sum(isinstance(each, Record) for each in source.records(0, 1)) >= 3
    monkeypatch.setattr(module, function, _without(getattr(module, function), place))
    with pytest.raises(AccountingError, match="but the reader met"):
        list(source.records(0, 1))


@pytest.mark.parametrize(
    ("name", "content", "method"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": "b"}\n', "_json_lines"),
        ("a.csv", "text\na\nb\n", "_csv"),
        ("c.txt", "image,caption\n1.jpg,a lake\n1.jpg,a field\n", "_lines"),
        ("a.jsonl", '{"text": "a"}\n{"text": "b"}\n', "_text_lines"),
        ("a.csv", "text\na\nb\n", "_text_lines"),
    ],
)
def test_a_table_that_drops_a_row_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str, method: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    monkeypatch.setattr(rows.Table, method, _without(getattr(rows.Table, method), 1))
    with pytest.raises(AccountingError, match="but the reader met"):
        list(CaptionFile(path).records(0, 1))


PROGRAM = """
import sys
from setclip_cli.ingest.sources import caption
real = caption.rows.Table._json_lines
def dropping(table):
    for number, found in enumerate(real(table)):
        if number != 1:
            yield found
caption.rows.Table._json_lines = dropping
from setclip_cli.cli.program import main
sys.argv[0] = "setclip"
main()
"""


def test_the_program_ends_with_1_and_one_object_if_a_record_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\n{"text": "c"}\n')
    words = ["ingest", str(path), "--modality", "caption", "--out", str(tmp_path / "out"), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "holds 3 items, but the reader met 2" in json.dumps(json.loads(done.stdout)["error"])
    assert "AccountingError" in done.stderr
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_the_counts_see_lines_across_blocks() -> None:
    count, text = LineCount(), io.BytesIO(b"a\r\nb\rc\n\nd")
    while block := text.read(2):
        count.add(block)
    assert count.total == 5
