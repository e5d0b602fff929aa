"""What a file given as FASTA really holds: nucleotides, an alignment, a flat file of another kind.

The rule for nucleotides. A record reads as nucleotides if it has at least ``LEAST_LETTERS`` letters, 95% of them are
among A C G T U N, and A, C, G and T (or U) all occur. No protein does: cysteine is rare, and repeats such as GAGAGA
lack two of the letters. A file is refused at its start if nine tenths of the letters of its first records are in such
records, or if all its first records together (``LEAST_TOGETHER`` letters or more) read as nucleotides, as primers do.
A few short peptides such as CAT or GATTACA are therefore taken. In other files, each record that reads as nucleotides
is a reject.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from setclip_cli.errors import SetClipError, argument

if TYPE_CHECKING:
    from pathlib import Path

NUCLEOTIDE_SUFFIXES = (".fna", ".ffn", ".frn")
LEAST_LETTERS = 30
LEAST_TOGETHER = 300
TRANSLATE = "translate the coding regions first, for example with `seqkit translate` or EMBOSS transeq"
NO_GAPS = "remove the gaps, for example with `seqkit seq --remove-gaps`, or give the sequences before their alignment"
_NUCLEOTIDES = b"ACGTUNacgtun"
_SPACE = b" \t\n\r\v\f*-."

_FROM_PDB = "download the FASTA file of these entries from the PDB"
_OTHER_FORMATS: tuple[tuple[re.Pattern[bytes], str, str], ...] = tuple(
    (re.compile(pattern), what, fix)
    for pattern, what, fix in (
        (rb"# STOCKHOLM", "a Stockholm alignment", f"convert it with `esl-reformat fasta`, then {NO_GAPS}"),
        (rb"CLUSTAL|MUSCLE \(", "a Clustal alignment", f"convert it to FASTA, then {NO_GAPS}"),
        (rb"#NEXUS", "a NEXUS file", f"convert it to FASTA, then {NO_GAPS}"),
        (rb"\s*\d+\s+\d+\s*\n\S", "a PHYLIP alignment", f"convert it to FASTA, then {NO_GAPS}"),
        (
            rb"LOCUS {5,}",
            "a GenBank flat file",
            "download the proteins as FASTA, or write the /translation of each CDS",
        ),
        (
            rb"ID {3}[^\n]*(?:; SV |\bBP\.)",
            "an EMBL flat file of nucleotides",
            "download the proteins as FASTA, or write the /translation of each CDS",
        ),
        (
            rb"ID {3}\S+\s+(?:Reviewed|Unreviewed|STANDARD|PRELIMINARY);",
            "a UniProtKB flat file",
            f"{argument('layout', '--format')} dat",
        ),
        (rb"data_\S*\s*\n", "an mmCIF file", _FROM_PDB),
        (rb"(?:HEADER|ATOM|HETATM|REMARK|CRYST1|MODEL|TITLE|EXPDTA) {2,}", "a PDB file of atoms", _FROM_PDB),
        (rb"@\S[^\n]*\n[A-Za-z.*]+\r?\n\+", "a FASTQ file of nucleotide reads", TRANSLATE),
        (rb"##gff-version", "a GFF file", "give the FASTA file of its proteins"),
        (rb"##fileformat=VCF", "a VCF file", "give a FASTA file of proteins"),
        (rb"HMMER3/", "a HMMER profile", "give the sequences that it was built from"),
        (rb"<\?xml", "an XML file", "download the same proteins as FASTA"),
        (rb"\s*[\[{]\s*[\"{\[]", "a JSON file", f"write one record a line, and {argument('layout', '--format')} jsonl"),
        (
            rb";(?![^>]*\n>)",
            "FASTA of the old form, whose headers begin with ';'",
            "write '>' in place of the first ';' of each record",
        ),
    )
)


def other_format(head: bytes) -> tuple[str, str] | None:
    """(what it is, what helps) if the start of a file is that of another known format of biology."""
    return next(((what, fix) for pattern, what, fix in _OTHER_FORMATS if pattern.match(head)), None)


def refuse_other_content(path: Path, head: bytes, suffix: str) -> None:
    """Refuses a file whose start is not that of protein FASTA.

    Args:
        path: For the message.
        head: Its decompressed start, the first records whole.
        suffix: That of the file: one of ``NUCLEOTIDE_SUFFIXES`` says that short records are nucleotides too.

    Raises:
        SetClipError: it holds nucleotides, or is of another format.
    """
    if found := other_format(head):
        raise SetClipError(f"{path}: is {found[0]}, not a FASTA file", fix=found[1])
    records = [letters_of(entry.partition(b"\n")[2]) for entry in head.split(b">")[1:]]
    together = b"".join(records)
    in_nucleotides = sum(len(letters) for letters in records if are_nucleotides(letters))
    if not together:
        return
    least = 1 if suffix in NUCLEOTIDE_SUFFIXES else LEAST_TOGETHER
    if in_nucleotides >= 0.9 * len(together) or _are_together(together, least):
        raise SetClipError(
            f"{path}: holds nucleotides, not amino acids: {_share(together):.0%} of the letters of its first "
            f"{len(records):,} records are A, C, G, T, U or N",
            fix=TRANSLATE,
        )


def letters_of(residues: bytes) -> bytes:
    """Residues without white space, gaps, stops, and the lines of comments."""
    if b";" in residues or b"#" in residues:
        residues = without_comments(residues)
    return residues.translate(None, _SPACE)


def without_comments(residues: bytes) -> bytes:
    """The lines that do not begin with ``;`` or ``#``."""
    return b"\n".join(line for line in residues.split(b"\n") if not line.startswith((b";", b"#")))


def are_nucleotides(letters: bytes) -> bool:
    """Whether the letters of one record read as nucleotides (see the rule above)."""
    start = letters[: max(64, len(letters) // 8)]  # of nearly every protein, this says enough
    if len(letters) < LEAST_LETTERS or len(start.translate(None, _NUCLEOTIDES)) > 0.05 * len(letters):
        return False
    return _share(letters) >= 0.95 and _has_all_bases(letters.upper(), 1)


def _are_together(letters: bytes, least: int) -> bool:
    if len(letters) < least or _share(letters) < 0.95:
        return False
    return least == 1 or _has_all_bases(letters.upper(), len(letters) // 20)


def _share(letters: bytes) -> float:
    return 1 - len(letters.translate(None, _NUCLEOTIDES)) / max(len(letters), 1)


def _has_all_bases(letters: bytes, least: int) -> bool:
    return min(*map(letters.count, (b"A", b"C", b"G")), letters.count(b"T") + letters.count(b"U")) >= least
