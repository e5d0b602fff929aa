"""Each dialect of FASTA headers: its id, the protein's name alone, and the organism."""

from __future__ import annotations

from pathlib import Path

import pytest

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions
from setclip_cli.ingest.sources.fasta_headers import ID_RULES, NAME_RULES, parse_header

# header, id, name, organism
DIALECTS = [
    (
        "sp|P69905|HBA_HUMAN Hemoglobin subunit alpha OS=Homo sapiens OX=9606 GN=HBA1 PE=1 SV=2",
        "P69905",
        "Hemoglobin subunit alpha",
        "Homo sapiens",
    ),
    ("tr|W0FSK4|W0FSK4_9FLAV Polyprotein OS=Dengue virus 3 PE=4", "W0FSK4", "Polyprotein", "Dengue virus 3"),
    ("up|Q9|X_Y Some name OS=Homo sapiens", "Q9", "Some name", "Homo sapiens"),
    (
        "sp|P12345-2|AATM_RABIT Isoform 2 of Aspartate aminotransferase OS=Oryctolagus cuniculus OX=9986 GN=GOT2",
        "P12345-2",
        "Isoform 2 of Aspartate aminotransferase",
        "Oryctolagus cuniculus",
    ),
    ("xx|Q9|X_Y Some name", "xx|Q9|X_Y", "Some name", ""),
    ("sp|P12345", "sp|P12345", "", ""),
    (
        "UniRef50_Q8WZ42 Titin n=2 Tax=Homo sapiens TaxID=9606 RepID=TITIN_HUMAN",
        "UniRef50_Q8WZ42",
        "Titin",
        "Homo sapiens",
    ),
    ("UniRef100_A0 Cluster: x, y n=1 Tax=root TaxID=1", "UniRef100_A0", "Cluster: x, y", "root"),
    ("UPI0000000005 status=active", "UPI0000000005", "status=active", ""),
    (
        "4HHB_1|Chains A, C|Hemoglobin subunit alpha|Homo sapiens (9606)",
        "4HHB_1",
        "Hemoglobin subunit alpha",
        "Homo sapiens",
    ),
    ("1ABC_2|Chain B|Some protein|unidentified (32644)", "1ABC_2", "Some protein", "unidentified"),
    ("pdb_00001abc_1|Chain A|Some protein|Mus musculus (10090)", "pdb_00001abc_1", "Some protein", "Mus musculus"),
    ("1ABC:A|PDBID|CHAIN|SEQUENCE", "1ABC_A", "", ""),
    ("pdb|1ABC|A", "1ABC_A", "", ""),
    ("pdb|1ABC|AA Chain AA, Hemoglobin [Homo sapiens]", "1ABC_AA", "Hemoglobin", "Homo sapiens"),
    ("gi|157829|pdb|1ABC|B Chain B, Some protein", "1ABC_B", "Some protein", ""),
    ("1ABC_A Chain A, Hemoglobin subunit alpha [Homo sapiens]", "1ABC_A", "Hemoglobin subunit alpha", "Homo sapiens"),
    ("1ABC Chain B", "1ABC_B", "", ""),
    ("1abc_A mol:protein length:146  HEMOGLOBIN (DEOXY)", "1abc_A", "HEMOGLOBIN (DEOXY)", ""),
    ("1ABC_A", "1ABC_A", "", ""),
    ("NP_000508.1 hemoglobin alpha [Homo sapiens]", "NP_000508.1", "hemoglobin alpha", "Homo sapiens"),
    ("gi|4504345|ref|NP_000508.1| hemoglobin [Homo sapiens]", "NP_000508.1", "hemoglobin", "Homo sapiens"),
    ("ref|WP_1.1| a protein [phage [x]]", "WP_1.1", "a protein [phage [x]]", ""),
    ("gb|AAA1.1| a protein", "AAA1.1", "a protein", ""),
    ("gi|1|sp|P69905.2|HBA_HUMAN RecName: Full=Hemoglobin", "P69905.2", "RecName: Full=Hemoglobin", ""),
    ("NP_1.1 one [Homo sapiens]\x01XP_2.1 two [Pan]", "NP_1.1", "one", "Homo sapiens"),
    ("NP_1.1\x01XP_2.1 two [Pan]", "NP_1.1", "two", "Pan"),
    ("\x01XP_2.1 two [Pan]", "", "two", "Pan"),
    ("lcl|ORF1_x:1:30 unnamed protein product", "ORF1_x:1:30", "unnamed protein product", ""),
    (
        "lcl|NC_1_prot_NP_2.1_1 [gene=thrL] [protein=thr operon leader peptide] [gbkey=CDS]",
        "NC_1_prot_NP_2.1_1",
        "thr operon leader peptide",
        "",
    ),
    ("Seq1 some kinase [strain=K12] [organism=Escherichia coli]", "Seq1", "some kinase", "Escherichia coli"),
    ("Seq1 some kinase [locus_tag=b1]", "Seq1", "some kinase", ""),
    ("gnl|dbname|x12 a protein", "x12", "a protein", ""),
    (
        "ENSP00000369497.3 pep chromosome:GRCh38:13:1:2:1 gene:ENSG1.2 transcript:ENST1.2 gene_symbol:BRCA2 "
        "description:BRCA2 DNA repair associated [Source:HGNC Symbol;Acc:HGNC:1101]",
        "ENSP00000369497.3",
        "BRCA2 DNA repair associated",
        "",
    ),
    ("ENSP1.1 pep:known scaffold:x:1:2 gene:G gene_symbol:ABC1", "ENSP1.1", "ABC1", ""),
    ("ENSP1.1 pep chromosome:x:1:2 gene:G transcript:T", "ENSP1.1", "", ""),
    ("jgi|Aspnid1|123|est.C_1", "jgi|Aspnid1|123|est.C_1", "", ""),
    (
        "AT1G01010.1 | Symbols: NAC001 | NAC domain containing protein 1 | chr1:3631-5899 FORWARD LENGTH=429",
        "AT1G01010.1",
        "NAC domain containing protein 1",
        "",
    ),
    (
        'YAL001C TFC3 SGDID:S000000001, Chr I from 151006-147594, Verified ORF, "Subunit of RNA polymerase; part of x"',
        "YAL001C",
        "Subunit of RNA polymerase",
        "",
    ),
    ("YAL001C TFC3 SGDID:S000000001, Chr I", "YAL001C", "TFC3", ""),
    (
        "AFDB:AF-A8H2R3-F1 Ribosome-recycling factor UA=A8H2R3 UI=RRF_SHEPA OS=Shewanella pealeana OX=398579 GN=frr",
        "AFDB:AF-A8H2R3-F1",
        "Ribosome-recycling factor",
        "Shewanella pealeana",
    ),
    ("AF-P12345-F1", "AF-P12345-F1", "", ""),
    ("MGYP000000000001 FL=1 CR=0", "MGYP000000000001", "", ""),
    ("T1024 LmrP, Lactococcus lactis, 408 residues|", "T1024", "LmrP", "Lactococcus lactis"),
    ("T1037 S0A2C3d4, , 404 residues|", "T1037", "S0A2C3d4", ""),
    ("P1;CRAB_ANAPL alpha crystallin B chain - duck", "CRAB_ANAPL", "alpha crystallin B chain", "duck"),
    ("P1;CRAB_ANAPL", "CRAB_ANAPL", "", ""),
    ("c_1_1 # 2 # 181 # 1 # ID=1_1;partial=10", "c_1_1", "", ""),
    ("FBpp0070000 type=polypeptide; loc=X:1..2; name=Nep3-PA; parent=FBgn1;", "FBpp0070000", "Nep3-PA", ""),
    (
        "d1dlwa_ a.1.1.1 (A:) Protozoan hemoglobin {Ciliate (Paramecium caudatum) [TaxId: 5885]}",
        "d1dlwa_",
        "Protozoan hemoglobin",
        "Paramecium caudatum",
    ),
    ("2L52.1a wormpep=CE32090 gene=WBGene00007063 status=Confirmed", "2L52.1a", "", ""),
    ("my_protein\tsecond field", "my_protein", "second field", ""),
    ("x a protein with n=2 subunits", "x", "a protein with n=2 subunits", ""),
    ("ENSP1|ENST1|ENSG1|x|Y-201|Y|326", "ENSP1|ENST1|ENSG1|x|Y-201|Y|326", "", ""),
    ("bare", "bare", "", ""),
    ("", "", "", ""),
]


@pytest.mark.parametrize(("line", "accession", "name", "organism"), DIALECTS)
def test_headers_give_id_name_and_organism(line: str, accession: str, name: str, organism: str) -> None:
    header = parse_header(line)
    assert (header.accession, header.name, header.organism) == (accession, name, organism)


def test_each_rule_has_a_header_that_it_is_the_first_to_fit() -> None:
    used = set()
    for line, *_ in DIALECTS:
        used.add(next((rule.dialect for rule in ID_RULES if rule.pattern.match(line)), ""))
        text = parse_header(line).description.partition("\x01")[0]
        used.add(next((rule.dialect for rule in NAME_RULES if rule.pattern.match(text)), ""))
    assert {rule.dialect for rule in (*ID_RULES, *NAME_RULES)} <= used


def test_chains_of_one_entry_are_proteins_of_their_own_and_names_stand_alone(tmp_path: Path) -> None:
    (tmp_path / "chains.fasta").write_text(
        ">pdb|1ABC|A\nMKTAY\n>pdb|1ABC|B\nMKTAYW\n>4HHB_1|Chains A, C|Hemoglobin|Homo sapiens (9606)\nVLSPAD\n"
        ">UniRef50_Q8WZ42 Titin n=2 Tax=Homo sapiens TaxID=9606 RepID=TITIN_HUMAN\nMTTQAP\n"
    )
    ingest(tmp_path / "chains.fasta", tmp_path / "ds", IngestOptions(modality="protein", captions_from="name"))
    data = open_dataset(tmp_path / "ds")
    ids = [row["id"] for row in data.table("protein", None, ["id"]).to_pylist()]
    assert ids == ["1ABC_A", "1ABC_B", "4HHB_1", "UniRef50_Q8WZ42"]
    captions = {row["group"]: row["text"] for row in data.table("caption", None, ["group", "text"]).to_pylist()}
    assert captions == {"4HHB_1": "Hemoglobin", "UniRef50_Q8WZ42": "Titin"}


def test_two_proteins_of_one_id_give_no_caption_of_one_to_the_other(tmp_path: Path) -> None:
    (tmp_path / "a.fasta").write_text(">gnl|db1|7 first\nMKV\n>gnl|db2|7 second\nGGL\n")
    ingest(tmp_path / "a.fasta", tmp_path / "ds", IngestOptions(modality="protein", captions_from="name"))
    assert open_dataset(tmp_path / "ds").table("caption", None, ["text"]).to_pylist() == [{"text": "first"}]
