"""Proteins from FASTA: UniProt, NCBI and bare headers.

Changed and counted: lower-case residues become upper case; one ``*`` at the end (a stop codon) is dropped.
White space inside a sequence is dropped. Line ends may be LF, CRLF or CR, also mixed; the last line may have none.
These are rejects: an empty sequence, a residue that is not a letter (an inner ``*``, a gap, a digit; all 26 letters are
IUPAC codes), a header without an id, and a record over ``MAX_RECORD_BYTES``.
"""

from __future__ import annotations

import hashlib
import re
from string import ascii_letters
from typing import TYPE_CHECKING, NamedTuple

from setclip_cli.ingest.sources.base import Item, Record, Reject, Walk, usable_id
from setclip_cli.ingest.sources.reader import Reader
from setclip_cli.ingest.sources.streams import blocks, open_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FASTA_SUFFIXES = (".fasta", ".fa", ".faa", ".fas", ".pep", ".mfa")
MAX_RECORD_BYTES = 4 << 20  # the longest known proteins have some 45,000 residues
_LETTERS = ascii_letters.encode()
_SPACE = b" \t\n\r\v\f"
_UNIPROT_DATABASES = ("sp", "tr", "up")
_NCBI_ID = re.compile(r"(?:gi\|\d+\|)?(?:ref|gb|emb|dbj|pir|prf|pdb|pat|lcl|gnl\|[^|\s]+|tpg|tpe|tpd)\|([^|\s]+)")
_NEXT_FIELD = re.compile(r" (?:OS|OX|GN|PE|SV)=")
_NCBI_ORGANISM = re.compile(r"\[([^\[\]]+)\]\s*$")


class Header(NamedTuple):
    """What a FASTA header line says."""

    accession: str
    name: str  # the protein's name, "" when the header has none
    organism: str
    description: str  # all after the id, as written


def identify(line: str) -> tuple[str, str]:
    """(accession, description) of a header line without its ``>``.

    ``sp|P69905|HBA_HUMAN Hemoglobin``, ``NP_000508.1 hemoglobin`` and ``gi|4504345|ref|NP_000508.1| ...`` give the
    accession; of anything else the first word is the id. The description is all after the first word, as written.
    """
    words = line.split(None, 1)
    if not words:
        return "", ""
    first = words[0]
    if "|" in first:
        parts = first.split("|")
        if len(parts) == 3 and parts[0] in _UNIPROT_DATABASES:
            first = parts[1]
        elif found := _NCBI_ID.match(first):
            first = found[1]
    return first, words[1].rstrip() if len(words) == 2 else ""


def parse_header(line: str) -> Header:
    """All that a header line without its ``>`` says: ``... OS=Homo sapiens OX=9606``, ``... [Homo sapiens]``."""
    accession, description = identify(line)
    name, mark, rest = description.partition(" OS=")
    if mark:
        return Header(accession, name, _NEXT_FIELD.split(rest, maxsplit=1)[0], description)
    if found := _NCBI_ORGANISM.search(description):
        return Header(accession, description[: found.start()].strip(), found[1], description)
    return Header(accession, description, "", description)


def protein_record(identifier: str, residues: bytes, description: str, location: str) -> Record | Reject:
    """Makes a record from residues as they are in a file, or says why it cannot."""
    if unusable := usable_id(identifier):
        return Reject(location, unusable)
    sequence = residues.translate(None, _SPACE)
    repairs: tuple[str, ...] = ()
    if sequence.endswith(b"*"):
        sequence = sequence[:-1]
        repairs = ("trailing * stripped",)
    if not sequence.isalpha():  # of bytes: A to Z and a to z, and at least one
        unknown = sequence.translate(None, _LETTERS)
        found = f"holds what is no amino-acid code: {unknown[:1].decode('latin-1')!r}" if unknown else "empty sequence"
        return Reject(location, found)
    if not sequence.isupper():
        sequence = sequence.upper()
        repairs = (*repairs, "lower case made upper case")
    return Record(
        "protein",
        identifier,
        sequence.decode("ascii"),
        hashlib.sha256(sequence).hexdigest(),
        columns=(len(sequence), description or None),
        repairs=repairs,
    )


class Fasta(Reader):
    """A FASTA file, plain or compressed. It takes the memory of a few blocks, however large the file is."""

    def walk(self) -> Walk:
        items = (Item(f"record {number}", entry) for number, entry in enumerate(_entries(self.path), 1))
        return Walk(items, lambda item: (self._record(item.content, item.location),))

    def _record(self, entry: bytes | None, location: str) -> Record | Reject:
        if entry is None:
            return Reject(location, f"record longer than {MAX_RECORD_BYTES:,} bytes")
        line, _, residues = entry.partition(b"\n")
        if not line.startswith(b">"):
            return Reject(location, "text before the first '>'")
        try:
            accession, description = identify(line[1:].decode())
        except UnicodeDecodeError:
            return Reject(location, "header is not UTF-8")
        return protein_record(accession, residues, description, location)


def _entries(path: Path) -> Iterator[bytes | None]:
    """Cuts a FASTA stream into records with their header lines; None means that a record is over the limit."""
    rest = b""
    overflowing = False
    first = True
    with open_bytes(path) as file:
        for raw in blocks(file):
            # a CRLF in two blocks becomes an empty line, which does not change a sequence
            block = raw.replace(b"\r", b"\n") if b"\r" in raw else raw
            pieces = (rest + block).split(b"\n>")
            rest = pieces.pop()
            for piece in pieces:
                entry = piece if first else b">" + piece
                if not first or entry.strip():
                    yield None if overflowing or len(entry) > MAX_RECORD_BYTES else entry
                overflowing = first = False
            if len(rest) > MAX_RECORD_BYTES:
                rest, overflowing = rest[-1:], True  # the last byte may be the line end before the next ">"
    entry = rest if first else b">" + rest
    if overflowing or entry.strip():
        yield None if overflowing else entry
