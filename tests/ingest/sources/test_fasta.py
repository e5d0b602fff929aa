"""FASTA as people have it: odd headers, odd line ends, odd letters."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from setclip_cli.errors import SetClipError
from setclip_cli.ingest.sources import protein
from setclip_cli.ingest.sources.base import Record, Reject
from setclip_cli.ingest.sources.protein import Fasta


def read(path: Path, content: bytes) -> list[Record | Reject]:
    path.write_bytes(content)
    return list(Fasta(path).records(0, 1))


def sequences(items: list[Record | Reject]) -> dict[str, object]:
    return {item.id: item.payload for item in items if isinstance(item, Record)}


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
        (b">a\nMK-VL\n", "an aligned sequence with gaps: '-'"),
        (b">a\nMK:VL\n", "several chains in one sequence"),
        (b">5abc_A mol:na length:3 RNA\nACG\n", "nucleotides, not amino acids"),
        (b">DL;X\ntitle\nACG*\n", "nucleotides, not amino acids"),
        (b">P1;X\ntitle\nMKV\n", "PIR record without '*'"),
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


def test_comments_are_dropped_and_counted(tmp_path: Path) -> None:
    first, second, third = read(tmp_path / "a.fasta", b"# made by x\n;y\n>a\n;note\nMKV\n#note\nLA\n>b\nGG\n")
    assert first == Reject("record 1", "comments before the first '>'", bad=False)
    assert isinstance(second, Record)
    assert (second.payload, second.repairs) == ("MKVLA", ("lines of comments dropped",))
    assert isinstance(third, Record)


def test_the_title_of_a_pir_record_is_its_description_and_not_residues(tmp_path: Path) -> None:
    (item,) = read(tmp_path / "a.pir", b">P1;CRAB_ANAPL\nalpha crystallin B chain - duck\n MDIT\n  IHNPL*\n")
    assert isinstance(item, Record)
    assert (item.id, item.payload, item.columns) == ("CRAB_ANAPL", "MDITIHNPL", (9, "alpha crystallin B chain - duck"))


def test_a_byte_order_mark_is_skipped_and_utf_16_is_named(tmp_path: Path) -> None:
    assert sequences(read(tmp_path / "a.fasta", b"\xef\xbb\xbf>a\nMKV\n")) == {"a": "MKV"}
    with pytest.raises(SetClipError, match="starts as UTF-16 does"):
        read(tmp_path / "a.fasta", ">a\nMKV\n".encode("utf-16"))


DNA = b"ACATTTGCTTCTGACACAACTGTGTTCACTAGCAACCTCAAACAGACACCATGGTGCATCTGACTCCTGA"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.fasta", b">x mRNA\n" + DNA + b"\n" + DNA + b"\n>y\n" + DNA + b"\n"),
        ("a.fasta", b">soft masked\n" + DNA.lower() + b"NNNNNNNN\n"),
        ("a.fa", b">rna\n" + DNA.replace(b"T", b"U") + b"\n"),
        ("a.fasta", b">ambiguous codes\n" + DNA * 3 + b"RYKM\n"),
        ("a.fasta", b"".join(b">primer\n" + DNA[start : start + 20] + b"\n" for start in range(25))),
        ("a.fna", b">short\nACGTAC\n"),
        ("a.ffn", b">short\nAAAAAA\n"),
    ],
)
def test_a_file_of_nucleotides_is_refused_at_its_start(tmp_path: Path, name: str, content: bytes) -> None:
    with pytest.raises(SetClipError, match=r"holds nucleotides, not amino acids.*\n.*translate"):
        read(tmp_path / name, content)


@pytest.mark.parametrize(
    ("name", "content", "taken"),
    [
        ("a.fasta", b">a\nCAT\n>b\nGATTACA\n>c\nACGT\n", 3),
        ("a.fasta", b">a\n" + b"GA" * 60 + b"\n>b\n" + b"A" * 80 + b"\n", 2),
        ("a.fna", b">a\nMKTAYIAKQRQISFVKSHFSRQ\n", 1),
        (
            "a.fasta",
            b"".join(b">p\nMKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVWEE\n" for _ in range(5)) + b">x\n" + DNA,
            5,
        ),
    ],
)
def test_proteins_that_look_a_little_like_nucleotides_are_taken(
    tmp_path: Path, name: str, content: bytes, taken: int
) -> None:
    items = read(tmp_path / name, content)
    assert sum(isinstance(item, Record) for item in items) == taken
    assert {item.kind for item in items if isinstance(item, Reject)} <= {"nucleotides, not amino acids"}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"# STOCKHOLM 1.0\na  MKV-L\n//\n", "a Stockholm alignment"),
        (b"CLUSTAL W (1.82) multiple sequence alignment\n", "a Clustal alignment"),
        (b"LOCUS       NM_000518  628 bp  mRNA  linear  PRI\n", "a GenBank flat file"),
        (b"ID   X56734; SV 1; linear; mRNA; STD; PLN; 1859 BP.\n", "an EMBL flat file"),
        (b"ID   HBA_HUMAN   Reviewed;   142 AA.\nAC   P69905;\n", "a UniProtKB flat file"),
        (b"data_1ABC\n#\n_entry.id 1ABC\n", "an mmCIF file"),
        (b"HEADER    OXYGEN TRANSPORT     01-JAN-00   1ABC\n", "a PDB file of atoms"),
        (b"ATOM      1  N   MET A   1\n", "a PDB file of atoms"),
        (b"@read1\nACGTN\n+\n!!!!!\n", "a FASTQ file"),
        (b";LCBO prolactin\n;another line\nMDSKGSSQK*\n", "FASTA of the old form"),
        (b'[{"id": "a"}]', "a JSON file"),
    ],
)
def test_a_file_of_another_format_is_named(tmp_path: Path, content: bytes, what: str) -> None:
    with pytest.raises(SetClipError, match=f"is {what}"):
        read(tmp_path / "a.fasta", content)
