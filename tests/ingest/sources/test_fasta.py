"""FASTA as people have it: odd headers, odd line ends, odd letters."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from setclip_cli.errors import SetClipError
from setclip_cli.ingest.sources import protein
from setclip_cli.ingest.sources.base import Record, Reject
from setclip_cli.ingest.sources.protein import Fasta, parse_header


def read(path: Path, content: bytes) -> list[Record | Reject]:
    path.write_bytes(content)
    return list(Fasta(path).records(0, 1))


def sequences(items: list[Record | Reject]) -> dict[str, object]:
    return {item.id: item.payload for item in items if isinstance(item, Record)}


@pytest.mark.parametrize(
    ("line", "accession", "name", "organism"),
    [
        (
            "sp|P69905|HBA_HUMAN Hemoglobin subunit alpha OS=Homo sapiens OX=9606 GN=HBA1 PE=1 SV=2",
            "P69905",
            "Hemoglobin subunit alpha",
            "Homo sapiens",
        ),
        ("tr|W0FSK4|W0FSK4_9FLAV Polyprotein OS=Dengue virus 3 PE=4", "W0FSK4", "Polyprotein", "Dengue virus 3"),
        ("NP_000508.1 hemoglobin alpha [Homo sapiens]", "NP_000508.1", "hemoglobin alpha", "Homo sapiens"),
        ("gi|4504345|ref|NP_000508.1| hemoglobin [Homo sapiens]", "NP_000508.1", "hemoglobin", "Homo sapiens"),
        ("ref|WP_1.1| a protein [phage [x]]", "WP_1.1", "a protein [phage [x]]", ""),
        ("my_protein\tsecond field", "my_protein", "second field", ""),
        ("up|Q9|X_Y Some name OS=Homo sapiens", "Q9", "Some name", "Homo sapiens"),
        ("xx|Q9|X_Y Some name", "xx|Q9|X_Y", "Some name", ""),
        ("bare", "bare", "", ""),
        ("", "", "", ""),
    ],
)
def test_headers_give_accession_name_and_organism(line: str, accession: str, name: str, organism: str) -> None:
    header = parse_header(line)
    assert (header.accession, header.name, header.organism) == (accession, name, organism)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_line_ends_and_a_missing_last_one_do_not_matter(tmp_path: Path, end: bytes) -> None:
    items = read(tmp_path / "a.fasta", end.join([b">a first", b"MKV", b"LAA", b"", b">b", b"GG"]))
    assert sequences(items) == {"a": "MKVLAA", "b": "GG"}
    assert len(items) == 2


def test_mixed_line_ends_within_one_file(tmp_path: Path) -> None:
    assert sequences(read(tmp_path / "a.fasta", b">a\r\nMK\rVL\n>b\rGG\r\n")) == {"a": "MKVL", "b": "GG"}


def test_lower_case_is_made_upper_case_and_a_final_stop_stripped_and_both_are_counted(tmp_path: Path) -> None:
    (item,) = read(tmp_path / "a.fasta", b">a\nmkvLA*\n")
    assert isinstance(item, Record)
    assert (item.payload, item.columns[0]) == ("MKVLA", 5)
    assert set(item.repairs) == {"lower case made upper case", "trailing * stripped"}


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (b">a\n", "empty sequence"),
        (b">a\n*\n", "empty sequence"),
        (b">a\nMK*VL\n", "no amino-acid code: '*'"),
        (b">a\nMK-VL\n", "no amino-acid code: '-'"),
        (b">a\nMK1\n", "no amino-acid code: '1'"),
        (b">a\nMK\xc3\xa9\n", "no amino-acid code"),
        (b">\nMKV\n", "empty id"),
        (b">a\xff\xfe\nMKV\n", "header is not UTF-8"),
        (b"MKV\n", "text before the first '>'"),
    ],
)
def test_a_bad_record_is_rejected_with_its_reason_and_the_next_one_is_read(
    tmp_path: Path, entry: bytes, reason: str
) -> None:
    bad, good = read(tmp_path / "a.fasta", entry + b">next\nMKV\n")
    assert isinstance(bad, Reject)
    assert reason in bad.reason
    assert bad.location == "record 1"
    assert isinstance(good, Record)


def test_all_26_letters_are_taken_since_iupac_uses_them_all(tmp_path: Path) -> None:
    (item,) = read(tmp_path / "a.fasta", b">a\nABCDEFGHIJKLMNOPQRSTUVWXYZ\n")
    assert isinstance(item, Record)


def test_a_protein_of_40_000_residues_is_taken_whole(tmp_path: Path) -> None:
    (item,) = read(tmp_path / "a.fasta", b">titin\n" + b"MKVLA" * 8000)
    assert isinstance(item, Record)
    assert len(item.payload) == item.columns[0] == 40_000


def test_a_record_over_the_cap_is_rejected_and_what_follows_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protein, "MAX_RECORD_BYTES", 3 << 20)  # spans several blocks
    items = read(tmp_path / "a.fasta", b">long\n" + b"M" * (4 << 20) + b"\n>b\nGG\n")
    assert [type(item) for item in items] == [Reject, Record]
    assert sequences(items) == {"b": "GG"}


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64])
def test_block_boundaries_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    content = b"\r\n>a one\r\nMKV\r\nLAA\r\n\r\n>b\nGG>G\n>c\nmk*\n>\n>d\nAA"
    whole = read(tmp_path / "a.fasta", content)
    monkeypatch.setattr(protein, "blocks", lambda file: iter(lambda: file.read(block), b""))
    assert list(Fasta(tmp_path / "a.fasta").records(0, 1)) == whole


def test_starting_later_yields_the_same_rest(tmp_path: Path) -> None:
    items = read(tmp_path / "a.fasta", b">a\nM\n>b\n\n>c\nK\n")
    assert list(Fasta(tmp_path / "a.fasta").records(1, 1)) == items[1:]


def test_a_gzip_cut_short_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "a.fasta.gz"
    path.write_bytes(gzip.compress(b">a\n" + bytes(range(65, 90)) * 4000)[:-20])
    with pytest.raises(SetClipError, match=r"a\.fasta\.gz: is cut short or damaged"):
        list(Fasta(path).records(0, 1))
