"""What FASTA header lines say: one table of rules, one for each dialect.

A rule gives the id where the first word alone would be wrong, or the name and the organism, or both. A header that no
rule fits has its first word as its id, and all after it as its name.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Header(NamedTuple):
    """What a FASTA header line says."""

    accession: str
    name: str  # the protein's name alone, "" when the header has none
    organism: str
    description: str  # all after the id, as written


class Rule(NamedTuple):
    """A dialect: its pattern, which may have the groups id, chain, name and organism.

    With both ``id`` and ``chain``, the id of the record is ``<id>_<chain>``.
    """

    dialect: str
    pattern: re.Pattern[str]


_PDB = r"(?:pdb_[0-9]{4})?[0-9][0-9A-Za-z]{3}"  # 1abc, pdb_00001abc
_NAME_AND_ORGANISM = r"(?P<name>.*?)\s*(?:\[(?P<organism>[^\[\]=]+)\])?\s*$"

# Matched with the whole line. The first rule that fits gives the id; if it has a name, it gives name and organism too.
ID_RULES = tuple(
    Rule(dialect, re.compile(pattern))
    for dialect, pattern in (
        ("UniProt", r"(?:sp|tr|up)\|(?P<id>[^|\s]*)\|[^|\s]*(?=\s|$)"),
        ("RCSB", rf"(?P<id>{_PDB}_\w+)\|Chains?\s[^|]*(?:\|(?P<name>[^|]*))?(?:\|(?P<organism>[^|(]*))?"),
        ("PDB before 2020", rf"(?P<id>{_PDB}):(?P<chain>\w+)\|PDBID\|CHAIN\|SEQUENCE(?P<name>)"),
        ("PDB entry and chain", rf"(?P<id>{_PDB})\s+[Cc]hain[\s:]\s*(?P<chain>\w+)\b[,:]?\s*{_NAME_AND_ORGANISM}"),
        ("PDB in NCBI form", rf"(?:gi\|\d+\|)?pdb\|(?P<id>{_PDB})\|(?P<chain>\w+)"),
        ("UniProt in NCBI form", r"gi\|\d+\|(?:sp|tr)\|(?P<id>[^|\s]+)\|"),
        ("NCBI", r"(?:gi\|\d+\|)?(?:ref|gb|emb|dbj|pir|prf|pdb|pat|lcl|tpg|tpe|tpd|gnl\|[^|\s]+)\|(?P<id>[^|\s]+)"),
        ("PIR", r"(?:P1|F1);(?P<id>\S+)(?:\s+(?P<name>.*?)(?:\s+-\s+(?P<organism>[^-]*))?)?$"),
    )
)

# Matched with the text after the first word. The first rule that fits gives the name and the organism.
NAME_RULES = tuple(
    Rule(dialect, re.compile(pattern))
    for dialect, pattern in (
        ("UniRef", r"(?P<name>.*?)\s*\bn=\d+\s+Tax=(?P<organism>.*?)(?:\s+(?:TaxID|RepID)=.*)?$"),
        ("AlphaFold", r"(?P<name>.*?)\s*\bU[AI]=\S+(?:.*?\bOS=(?P<organism>.*?))?(?:\s+(?:OX|GN)=.*)?$"),
        ("UniProt", r"(?P<name>.*?)\s+OS=(?P<organism>.*?)(?:\s+(?:OS|OX|GN|PE|SV)=.*)?$"),
        ("PDB seqres", r"mol:\S+\s+length:\d+\s*(?P<name>.*)$"),
        ("Ensembl", r"pep(?::\S+)?\s.*?\bdescription:(?P<name>.*?)(?:\s*\[Source:.*)?$"),
        ("Ensembl without description", r"pep(?::\S+)?\s+\S+:\S+(?:.*\bgene_symbol:(?P<name>\S+))?"),
        ("NCBI coding regions", r"\[\w+=.*\[protein=(?P<name>.*?)\](?:\s+\[\w+=|$)"),
        ("NCBI organism field", r"(?P<name>[^\[]*?)\s*(?:\[\w+=[^\]]*\]\s*)*\[organism=(?P<organism>[^\]]+)\]"),
        ("NCBI other fields", r"(?P<name>[^\[]*?)\s*\[\w+=[^\]]*\]"),
        ("SGD", r"(?:\S+\s+)?SGDID:.*?\"(?P<name>[^\";]*)"),
        ("SGD without description", r"(?P<name>\S+)?\s*SGDID:"),
        ("TAIR", r"\|\s*(?:Symbols:[^|]*\|)?\s*(?P<name>[^|]*?)\s*\|\s*[Cc]hr"),
        ("SCOP", r"[a-l]\.\d+\.\d+\.\d+\s+\([^)]*\)\s+(?P<name>.*?)\s*\{(?:.*?\((?P<organism>[^)]*)\))?.*\}$"),
        ("FlyBase", r"type=\w+;(?:.*?\bname=(?P<name>[^;]*);)?"),
        ("Prodigal", r"#\s\d+\s#\s\d+\s#\s-?1\s#"),
        ("CASP", r"(?P<name>[^,|]*),\s*(?P<organism>[^,|]*),\s*\d+\s+residues\s*\|?\s*$"),
        ("PDB chain with name", rf"[Cc]hain\s\w+,\s{_NAME_AND_ORGANISM}"),
        ("NCBI", r"(?P<name>.*?)\s*\[(?P<organism>[^\[\]]+)\]\s*$"),
        ("two fields or more", r"(?P<name>.*?)\s*(?:(?<!\S)[A-Za-z_]+=\S*\s+){1,}[A-Za-z_]+=\S*"),
    )
)
_NUCLEIC = re.compile(r"\S+\s+mol:na\b|(?:DL|DC|RL|RC|N1|N3);")


def identify(line: str) -> tuple[str, str]:
    """(id, description) of a header line without its ``>``; the description is all after the id, as written."""
    words = line.split(None, 1)
    if not words:
        return "", ""
    first = words[0]
    if "\x01" in first:  # NCBI joins the headers of equal proteins with this character
        first = first.partition("\x01")[0]
    if "|" in first or ":" in first or ";" in first or (first[:1].isdigit() and "hain" in line):  # else no rule fits
        parts = first.split("|")
        if len(parts) == 3 and parts[0] in ("sp", "tr"):  # as the rule for UniProt says; most headers are of this form
            return parts[1], words[1].rstrip() if len(words) == 2 else ""
        for _, pattern in ID_RULES:
            if found := pattern.match(line):
                return _joined(found), _after(found, words)
    return first, words[1].rstrip() if len(words) == 2 else ""


def _joined(found: re.Match[str]) -> str:
    return f"{found['id']}_{found['chain']}" if "chain" in found.re.groupindex else found["id"]


def _after(found: re.Match[str], words: list[str]) -> str:
    if words[0].startswith(f"{found['id']}|"):  # RCSB: the names after the bar have spaces
        return found.string[found.end("id") + 1 :].rstrip()
    return words[1].rstrip() if len(words) == 2 else ""


def parse_header(line: str) -> Header:
    """All that a header line without its ``>`` says."""
    accession, description = identify(line)
    for _, pattern in ID_RULES:
        if "name" in pattern.groupindex and (found := pattern.match(line)):
            return _header(accession, found, description)
    text = description.partition("\x01")[0]
    for _, pattern in NAME_RULES:
        if found := pattern.match(text):
            return _header(accession, found, description)
    return Header(accession, text, "", description)


def _header(accession: str, found: re.Match[str], description: str) -> Header:
    groups = found.groupdict()
    name, organism = ((groups.get(part) or "").strip() for part in ("name", "organism"))
    return Header(accession, name, organism, description)


def is_nucleic(line: str) -> bool:
    """Whether a header says that its record is DNA or RNA: ``mol:na`` of the PDB, ``DL;`` and others of PIR."""
    return _NUCLEIC.match(line) is not None


def is_pir(line: str) -> bool:
    """Whether a header is that of PIR, whose next line is a title: ``P1;CRAB_ANAPL``."""
    return line.startswith(("P1;", "F1;"))
