"""UniProtKB entries and protein tables."""

from __future__ import annotations

import bz2
import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.errors import ExitCode, SetClipError
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions, ReadOptions
from setclip_cli.ingest.sources import open_source, uniprot
from setclip_cli.ingest.sources.base import Record, Reject
from setclip_cli.ingest.sources.uniprot import parse_entry

ENTRY = """\
ID   HBA_HUMAN               Reviewed;          20 AA.
AC   P69905; P01922; Q1HDT5;
DT   21-JUL-1986, integrated into UniProtKB/Swiss-Prot.
DE   RecName: Full=Hemoglobin subunit alpha {ECO:0000305};
DE   AltName: Full=Alpha-globin;
DE            EC=1.2.3.4;
OS   Homo sapiens (Human).
OX   NCBI_TaxID=9606;
CC   -!- FUNCTION: Involved in oxygen transport from the lung to the various
CC       peripheral tissues. {ECO:0000269|PubMed:1}.
CC   -!- SUBUNIT: Heterotetramer of two alpha chains and two beta chains
CC       (PubMed:12).
CC   ---------------------------------------------------------------------------
CC   Copyrighted by the UniProt Consortium
CC   ---------------------------------------------------------------------------
DR   GO; GO:0005833; C:hemoglobin complex; IPI:UniProtKB.
DR   GO; GO:0019825; F:oxygen binding; IBA:GO_Central.
DR   PDB; 1A00; X-ray; 2.00 A; A/C=2-142.
KW   3D-structure; Heme {ECO:0000255}; Oxygen transport.
SQ   SEQUENCE   20 AA;  2141 MW;  15E13666573BBBAE CRC64;
     MVLSPADKTN VKAAWGKVGA
//
"""


def items(path: Path, content: str | bytes, **options: Any) -> list[Record | Reject]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(open_source(path, ReadOptions(modality="protein", **options)).records(0, 1))


def test_an_entry_gives_accession_name_organism_and_all_aspects() -> None:
    entry = parse_entry(ENTRY.splitlines())
    assert (entry.accession, entry.name, entry.organism) == ("P69905", "Hemoglobin subunit alpha", "Homo sapiens")
    assert entry.residues == b"MVLSPADKTN VKAAWGKVGA"
    assert entry.aspects["keywords"] == "3D-structure, Heme {ECO:0000255}, Oxygen transport"
    assert entry.aspects["go"] == "hemoglobin complex, oxygen binding"
    assert entry.aspects["ec"] == "EC 1.2.3.4"


def test_an_entry_keeps_its_first_accession_the_species_and_each_number_once() -> None:
    entry = parse_entry(
        [
            "AC   Q1; Q2;",
            "AC   Q3;",
            "DE   SubName: Full=Some kinase;",
            "DE            EC=1.2.3.4;",
            "DE            EC=1.2.3.4;",
            "DE            EC=1.2.-.n1;",
            "OS   Escherichia coli (strain K12)",
            "OS   (Bacteria).",
            "CC   -!- FUNCTION: Adds phosphate.",
            "CC   -----------------------------------------------------------------------",
            "CC   Copyrighted by the UniProt Consortium",
        ]
    )
    assert (entry.accession, entry.name, entry.organism) == ("Q1", "Some kinase", "Escherichia coli")
    assert entry.aspects["ec"] == "EC 1.2.3.4, EC 1.2.-.n1"
    assert entry.aspects["function"] == "Adds phosphate."


def test_an_entry_over_the_limit_is_rejected_and_the_next_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uniprot, "MAX_ENTRY_BYTES", 2000)
    long = ENTRY.replace("KW   ", "KW   Word.\nKW   " * 200, 1)
    bad, good = items(tmp_path / "a.dat", long + ENTRY)
    assert bad == Reject("entry 1", "entry longer than 2,000 bytes")
    assert isinstance(good, Record)


def test_captions_are_plain_text_and_share_the_accession_as_their_group(tmp_path: Path) -> None:
    protein, function, keywords = items(tmp_path / "a.dat", ENTRY, captions_from="function,keywords")
    assert isinstance(protein, Record)
    assert isinstance(function, Record)
    assert isinstance(keywords, Record)
    assert (protein.id, protein.payload) == ("P69905", "MVLSPADKTNVKAAWGKVGA")
    assert function.payload == "Involved in oxygen transport from the lung to the various peripheral tissues."
    assert (function.id, function.group, keywords.id) == ("P69905#0", "P69905", "P69905#1")
    assert keywords.payload == "3D-structure, Heme, Oxygen transport"


def test_an_entry_cut_short_or_unreadable_is_rejected_and_the_next_is_read(tmp_path: Path) -> None:
    content = b"ID   X\nAC   \xff;\n//\n" + ENTRY.encode() + b"AC   Q1;\nSQ   SEQ\n     MKV\n"
    bad, good, cut = items(tmp_path / "a.dat", content)
    assert bad == Reject("entry 1", "not UTF-8")
    assert isinstance(good, Record)
    assert cut == Reject("entry 3", "entry cut short: no // at its end")


def test_compressed_flat_files_are_read_as_plain_ones(tmp_path: Path) -> None:
    plain = items(tmp_path / "a.dat", ENTRY * 2)
    assert items(tmp_path / "b.dat.gz", gzip.compress((ENTRY * 2).encode())) == plain
    assert items(tmp_path / "c.dat.bz2", bz2.compress((ENTRY * 2).encode())) == plain


def test_a_uniprot_table_is_read_by_its_column_names(tmp_path: Path) -> None:
    function_text = "FUNCTION: Adds phosphate (PubMed:1, PubMed:2). {ECO:0000269}."
    table = f"Entry\tProtein names\tSequence\tFunction [CC]\nP1\tSome kinase\tMKV\t{function_text}\n"
    protein, name, function = items(tmp_path / "a.tsv", table, captions_from="name,function")
    assert isinstance(protein, Record)
    assert protein[:3] == ("protein", "P1", "MKV")
    assert [name[2], function[2]] == ["Some kinase", "Adds phosphate."]  # type: ignore[misc]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_named_columns_in_other_tables(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({"id": ["a", "b"], "aa": ["MKV", ""], "label": ["x", None]}), path)
    elif suffix == "csv":
        path.write_text("id,aa,label\na,MKV,x\nb,,\n")
    else:
        path.write_text('{"id": "a", "aa": "MKV", "label": "x"}\n{"id": "b"}\n')
    good, bad = open_source(path, ReadOptions(modality="protein", sequence_column="aa")).records(0, 1)
    assert isinstance(good, Record)
    assert (good.id, good.payload, good.label) == ("a", "MKV", "x")
    assert isinstance(bad, Reject)
    assert bad.reason == "empty sequence"


def test_a_table_without_sequences_says_which_columns_it_has(tmp_path: Path) -> None:
    with pytest.raises(SetClipError, match=r"no column 'sequence'.*among 'id', 'sequenc'.*did you mean 'sequenc'"):
        items(tmp_path / "a.csv", "id,sequenc\na,M\n")


def test_fasta_headers_give_names_only(tmp_path: Path) -> None:
    content = ">sp|P1|X_Y Some kinase OS=Homo sapiens\nMKV\n>p2\nGG\n"
    found = items(tmp_path / "a.fasta", content, captions_from="name")
    assert [item.payload for item in found if isinstance(item, Record)] == ["MKV", "Some kinase", "GG"]
    with pytest.raises(SetClipError, match="FASTA headers do not hold the function"):
        items(tmp_path / "a.fasta", content, captions_from="function")
    with pytest.raises(SetClipError, match="did you mean 'function'") as caught:
        items(tmp_path / "a.fasta", content, captions_from="functoin")
    assert caught.value.exit_code == ExitCode.USAGE


def test_captions_make_pairs_only_when_asked_and_as_many_as_asked(tmp_path: Path) -> None:
    entries = "".join(
        ENTRY.replace("P69905", f"P{n:05d}").replace("MVLSP", f"MV{'ACDEFGHIKL'[n % 10]}SP{'A' * n}") for n in range(30)
    )
    entries = entries.replace("Involved in", "Is part of")
    source = tmp_path / "a.dat"
    source.write_text(entries)
    options = IngestOptions(modality="protein", captions_from="function")
    ingest([source], tmp_path / "none", options)
    assert open_dataset(tmp_path / "none").modalities() == ["protein", "caption"]
    assert open_dataset(tmp_path / "none").pairs() == []
    for name in ("one", "two"):
        ingest([source], tmp_path / name, replace(options, pairs=7, seed=3))
    pairs = open_dataset(tmp_path / "one").pairs()
    assert len(set(pairs)) == 7
    assert all(pair.right_id == f"{pair.left_id}#0" for pair in pairs)
    assert pairs == open_dataset(tmp_path / "two").pairs()
    ingest(source, tmp_path / "other", replace(options, pairs=7, seed=4))
    assert pairs != open_dataset(tmp_path / "other").pairs()
    with pytest.raises(SetClipError, match="give only 30 pairs"):
        ingest([source], tmp_path / "many", replace(options, pairs=31))
