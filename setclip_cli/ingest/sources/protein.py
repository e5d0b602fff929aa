"""Proteins from FASTA and PIR; `fasta_headers` reads their headers, `fasta_content` tells what is not protein FASTA.

Changed and counted: lower-case residues become upper case; one ``*`` at the end (a stop codon) is dropped; lines that
begin with ``;`` or ``#`` are comments. White space inside a sequence is dropped. Line ends may be LF, CRLF or CR, also
mixed; the last line may have none. A byte-order mark is skipped.
These are rejects: an empty sequence, nucleotides, an aligned sequence with gaps, a residue that is not a letter (an
inner ``*``, a digit; all 26 letters are IUPAC codes), a header without an id, and a record over ``MAX_RECORD_BYTES``.
"""

from __future__ import annotations

import codecs
import hashlib
from string import ascii_letters
from typing import TYPE_CHECKING

from setclip_cli.ingest.sources import rows
from setclip_cli.ingest.sources.base import Item, Record, Reject, Walk, usable_id
from setclip_cli.ingest.sources.counts import FastaCount, watched
from setclip_cli.ingest.sources.fasta_content import (
    NUCLEOTIDE_SUFFIXES,
    are_nucleotides,
    refuse_other_content,
    without_comments,
)
from setclip_cli.ingest.sources.fasta_headers import identify, is_nucleic, is_pir
from setclip_cli.ingest.sources.reader import Reader
from setclip_cli.ingest.sources.streams import blocks, inner_suffix, open_bytes, read_up_to

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FASTA_SUFFIXES = (".fasta", ".fa", ".faa", ".fas", ".pep", ".mfa", ".pir", ".a3m", ".a2m", *NUCLEOTIDE_SUFFIXES)
MAX_RECORD_BYTES = 4 << 20  # the longest known proteins have some 45,000 residues
_LETTERS = ascii_letters.encode()
_SPACE = b" \t\n\r\v\f"
_HEAD_BYTES = 1 << 18  # of the start, which says what a file holds


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
        return Reject(location, _unusable(sequence.translate(None, _LETTERS)))
    if are_nucleotides(sequence):
        return Reject(location, f"nucleotides, not amino acids: {sequence[:20].decode('ascii')}...")
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


def _unusable(unknown: bytes) -> str:
    """Why a sequence with these bytes beside its letters cannot be used."""
    if not unknown:
        return "empty sequence"
    if not unknown.translate(None, b"-."):
        return f"an aligned sequence with gaps: {unknown[:1].decode()!r}"
    if unknown.startswith(b":"):
        return "several chains in one sequence: ':'"
    return f"holds what is no amino-acid code: {unknown[:1].decode('latin-1')!r}"


class Fasta(Reader):
    """A FASTA file, plain or compressed. It takes the memory of a few blocks, however large the file is."""

    def walk(self) -> Walk:
        """Its records.

        Raises:
            SetClipError: its start is not that of protein FASTA, see `fasta_content`.
        """
        with open_bytes(self.path) as file:
            head = read_up_to(file, _HEAD_BYTES)
        rows.refuse_utf16(self.path, head)
        plain = head.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        refuse_other_content(self.path, plain, inner_suffix(self.path))
        count = FastaCount()
        items = (Item(f"record {number}", entry) for number, entry in enumerate(_entries(self.path, count), 1))
        return Walk(items, lambda item: (self.read(item.content, item.location)[1],), lambda: count.total)

    def read(self, entry: bytes | None, location: str) -> tuple[str, Record | Reject]:
        """The header of an entry without its ``>`` (with the title of a PIR record), and its record."""
        if entry is None:
            return "", Reject(location, f"record longer than {MAX_RECORD_BYTES:,} bytes")
        line, _, residues = entry.partition(b"\n")
        if not line.startswith(b">"):
            comments = not without_comments(entry).strip()
            reason = f"{'comments' if comments else 'text'} before the first '>'"
            return "", Reject(location, reason, bad=not comments)
        try:
            header = line[1:].decode()
        except UnicodeDecodeError:
            return "", Reject(location, "header is not UTF-8")
        if ";" in header[:3] or "mol:" in header:
            if is_nucleic(header):
                return "", Reject(location, "nucleotides, not amino acids: as its header says")
            if is_pir(header):
                title, _, residues = residues.partition(b"\n")
                if not without_comments(residues).rstrip().endswith(b"*"):
                    return "", Reject(location, "PIR record without '*' at its end, so that its title may be residues")
                header = f"{header.rstrip()} {title.decode('utf-8', 'replace')}"
        accession, description = identify(header)
        record = protein_record(accession, residues, description, location)
        if isinstance(record, Reject) and (b";" in residues or b"#" in residues):
            record = protein_record(accession, without_comments(residues), description, location)
            if isinstance(record, Record):
                record = record._replace(repairs=(*record.repairs, "lines of comments dropped"))
        return header, record


def _entries(path: Path, count: FastaCount) -> Iterator[bytes | None]:
    """Cuts a FASTA stream into records with their header lines; None means that a record is over the limit."""
    rest = b""
    overflowing = False
    first = True
    with open_bytes(path) as file:
        for raw in blocks(watched(file, count)):
            if first and not rest and not overflowing:
                raw = raw.removeprefix(codecs.BOM_UTF8)
            # a CRLF in two blocks becomes an empty line, which does not change a sequence
            block = raw.replace(b"\r", b"\n") if b"\r" in raw else raw
            pieces = (rest + block).split(b"\n>")
            rest = pieces.pop()
            for piece in pieces:
                entry = piece if first else b">" + piece
                if not first or overflowing or entry.strip():
                    yield None if overflowing or len(entry) > MAX_RECORD_BYTES else entry
                overflowing = first = False
            if len(rest) > MAX_RECORD_BYTES:
                overflowing |= not first or bool(rest.strip())
                rest = rest[-1:]  # it may be the line end before the next ">"
    entry = rest if first else b">" + rest
    if overflowing or entry.strip():
        yield None if overflowing else entry
