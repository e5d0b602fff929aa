"""UniProtKB flat files (.dat) and tables of proteins (UniProt TSV, CSV, jsonl, Parquet), with captions if asked.

A caption of a protein is one of ``ASPECTS`` as plain text; its group is the protein's accession, so that
``--pairs-from-group`` or ``--pairs N`` can pair the two. Captions have no evidence codes (``{ECO:...}``) and no
literature references (``(PubMed:...)``), because people do not write them in a text.
Field codes: UniProtKB user manual, https://web.expasy.org/docs/userman.html
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from setclip_cli.errors import SetClipError, UsageError, argument, nearest
from setclip_cli.ingest.sources import rows
from setclip_cli.ingest.sources.base import Item, Record, Reject, Walk
from setclip_cli.ingest.sources.caption_record import caption_record
from setclip_cli.ingest.sources.counts import FlatFileCount, watched
from setclip_cli.ingest.sources.fasta_headers import parse_header
from setclip_cli.ingest.sources.fields import Fields, first_named, id_of, label_of, split_of, text_of
from setclip_cli.ingest.sources.protein import Fasta, protein_record
from setclip_cli.ingest.sources.reader import Reader
from setclip_cli.ingest.sources.streams import inner_suffix, lines, open_bytes
from setclip_cli.ingest.sources.tables import Names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

Aspect = Literal["name", "function", "keywords", "go", "ec"]
ASPECTS: tuple[Aspect, ...] = get_args(Aspect)
FLAT_SUFFIXES = (".dat", ".swiss")
MAX_LINE_BYTES = 1 << 20
MAX_ENTRY_BYTES = 16 << 20
ID_FIELDS = ("id", "accession", "Entry", "entry", "EntryName", "primaryAccession", "protein_id", "uniprot_id")
SEQUENCE_FIELDS = ("sequence", "Sequence", "seq", "protein_sequence", "primary", "aa_seq")
DESCRIPTION_FIELDS = ("description", "Protein names", "name")
_ASPECT_FIELDS: dict[Aspect, tuple[str, ...]] = {
    "name": ("name", "Protein names", "ProteinName"),
    "function": ("function", "Function [CC]", "Function"),
    "keywords": ("keywords", "Keywords"),
    "go": ("go", "Gene Ontology (GO)"),
    "ec": ("ec", "EC number"),
}
_SPACE = " \t\n\r\v\f"  # as that of bytes
_EVIDENCE = re.compile(r"\s*\{(?:ECO|EC:ECO)[^{}]*\}")
_REFERENCE = re.compile(r"\s*\((?:PubMed:\d+(?:, )?)+\)")
_TWO_STOPS = re.compile(r"(?<!\.)\.\.(?!\.)")  # what remains of "text. {ECO:...}."
_GO_ID = re.compile(r"\s*\[GO:\d+\]")


class Entry(NamedTuple):
    """What a flat-file entry says of one protein."""

    accession: str
    name: str
    organism: str
    residues: bytes
    aspects: Mapping[Aspect, str]
    enzymes: tuple[str, ...]  # EC numbers
    reviewed: bool  # of Swiss-Prot, not of TrEMBL

    @property
    def description(self) -> str:
        """Name, organism and enzyme numbers, as `dataset.descriptions` reads them."""
        organism = f" OS={self.organism}" if self.organism else ""
        enzymes = f" EC={','.join(self.enzymes)}" if self.enzymes else ""
        return f"{self.name}{organism}{enzymes}"


def parse_aspects(text: str | None) -> tuple[Aspect, ...]:
    """Parses ``--captions-from name,function``.

    Raises:
        SetClipError: a word is not one of ``ASPECTS``.
    """
    chosen: list[Aspect] = []
    for word in (text or "").split(","):
        if not word.strip():
            continue
        known = next((aspect for aspect in ASPECTS if aspect == word.strip()), None)
        if known is None:
            raise UsageError(
                f"{argument('captions_from')} {word.strip()}: is not known{nearest(word.strip(), ASPECTS)}",
                fix=f"give one or more of: {','.join(ASPECTS)}",
            )
        chosen.append(known)
    return tuple(chosen)


def caption_records(
    protein: Record, aspects: Mapping[Aspect, str], chosen: Sequence[Aspect], location: str
) -> Iterator[Record | Reject]:
    """One caption for each chosen aspect of a protein that the entry has, or the reason why it cannot be used."""
    number = 0
    for aspect in chosen:
        if text := plain_text(aspects.get(aspect, "")):
            yield caption_record(
                text,
                location,
                f"{protein.id}#{number}",
                made_up=protein.made_up,
                group=protein.id,
                made_up_group=protein.made_up,
            )
            number += 1


def _aspect(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value or "")


def plain_text(text: str) -> str:
    """Drops evidence codes, literature references and GO numbers."""
    without = _GO_ID.sub("", _REFERENCE.sub("", _EVIDENCE.sub("", text)))
    return _TWO_STOPS.sub(".", without).removeprefix("FUNCTION: ").strip()


class NamedFasta(Fasta):
    """A FASTA file whose headers also give captions: the protein's name."""

    def __init__(self, path: Path, chosen: Sequence[Aspect]) -> None:
        super().__init__(path)
        self._chosen = chosen
        if other := [aspect for aspect in chosen if aspect != "name"]:
            raise SetClipError(
                f"{path}: FASTA headers do not hold the {other[0]} of a protein",
                fix=f"{argument('captions_from')} name, or ingest their UniProtKB flat file (.dat.gz)",
            )

    def walk(self) -> Walk:
        return super().walk()._replace(answers=self._both)

    def _both(self, item: Item) -> Iterator[Record | Reject]:
        header, record = self.read(item.content, item.location)
        yield record
        if isinstance(record, Record):
            yield from caption_records(record, {"name": parse_header(header).name}, self._chosen, record.id)


class FlatFile(Reader):
    """A UniProtKB flat file, plain or compressed, entry by entry."""

    def __init__(self, path: Path, chosen: Sequence[Aspect]) -> None:
        super().__init__(path)
        self._chosen = chosen

    def walk(self) -> Walk:
        count = FlatFileCount()
        items = (Item(f"entry {number}", entry) for number, entry in enumerate(_entries(self.path, count), 1))
        return Walk(items, self._answers, lambda: count.total)

    def _answers(self, item: Item) -> Iterator[Record | Reject]:
        if isinstance(item.content, str):
            yield Reject(item.location, item.content)
            return
        parsed = parse_entry(item.content)
        record = protein_record(parsed.accession, parsed.residues, parsed.description, item.location)
        yield record
        if isinstance(record, Record):
            yield from caption_records(record, parsed.aspects, self._chosen, item.location)


def parse_entry(entry: Sequence[str]) -> Entry:
    """Parses the lines of one entry, without its closing ``//``. What is missing is empty."""
    accession = name = ""
    reviewed = False
    organism: list[str] = []
    comments: list[str] = []
    keywords: list[str] = []
    go_terms: list[str] = []
    numbers: list[str] = []
    residues: list[str] = []
    for line in entry:
        code, text = line[:2], line[5:].strip()
        if code == "AC" and not accession:
            accession = text.partition(";")[0].strip()
        elif code == "ID":
            reviewed = " Reviewed;" in line
        elif code == "DE":
            if not name and (found := re.match(r"(?:RecName|SubName): Full=([^;]+)", text)):
                name = found[1]
            numbers += re.findall(r"EC=([\d.\-n]+)", text)
        elif code == "OS":
            organism.append(text)
        elif code == "CC":
            comments.append(text)
        elif code == "KW":
            keywords.append(text)
        elif code == "DR" and text.startswith("GO;"):
            go_terms.append(text.split(";")[2].strip().partition(":")[2] if text.count(";") >= 2 else "")
        elif code == "  ":
            residues.append(text)
    enzymes = tuple(dict.fromkeys(numbers))
    return Entry(
        accession,
        plain_text(name),
        " ".join(organism).partition(" (")[0].rstrip("."),
        "".join(residues).encode(),
        {
            "name": name,
            "function": _comment(comments, "FUNCTION"),
            "keywords": " ".join(keywords).rstrip(".").replace(";", ","),
            "go": ", ".join(filter(None, go_terms)),
            "ec": ", ".join(f"EC {number}" for number in enzymes),
        },
        enzymes,
        reviewed,
    )


def _comment(comments: Sequence[str], topic: str) -> str:
    """The text of a comment block: from its ``-!- TOPIC:`` to the next block or the licence's rule of dashes."""
    words: list[str] = []
    inside = False
    for text in comments:
        if text.startswith(("-!-", "---")):
            inside = text.startswith(f"-!- {topic}:")
            if inside:
                words.append(text.partition(":")[2].strip())
        elif inside:
            words.append(text)
    return " ".join(words)


def flat_file_entries(path: Path) -> Iterator[list[str] | str]:
    """The lines of each entry of a flat file, or the reason why an entry cannot be used; the file is read as a stream.

    Raises:
        SetClipError: the file cannot be read, is cut short, or is not what its name says.
    """
    return _entries(path, FlatFileCount())


def _entries(path: Path, count: FlatFileCount) -> Iterator[list[str] | str]:
    """Cuts a flat file at its ``//`` lines; yields the lines of each entry, or the reason why there are none."""
    entry: list[str] = []
    size = 0
    trouble: str | None = None
    with open_bytes(path) as file:
        for line in lines(watched(file, count), MAX_LINE_BYTES):
            if line == b"//":
                yield trouble or entry
                entry, size, trouble = [], 0, None
                continue
            size += 0 if line is None else len(line)
            if line is None or size > MAX_ENTRY_BYTES:
                trouble, entry = f"entry longer than {MAX_ENTRY_BYTES:,} bytes", []
            elif trouble is None:
                try:
                    entry.append(line.decode())
                except UnicodeDecodeError:
                    trouble, entry = "not UTF-8", []
    if trouble or any(line.strip(_SPACE) for line in entry):
        yield trouble or "entry cut short: no // at its end"


class ProteinTable(Reader):
    """Proteins as rows with named columns: UniProt TSV, CSV, jsonl, Parquet."""

    def __init__(
        self,
        path: Path,
        chosen: Sequence[Aspect] = (),
        *,
        sequence_column: str | None = None,
        layout: str | None = None,
    ) -> None:
        super().__init__(path)
        self._chosen = chosen
        self._layout = layout or inner_suffix(path)
        self._sequence_fields = (sequence_column,) if sequence_column else SEQUENCE_FIELDS

    def walk(self) -> Walk:
        return self._table().walk(self._answers)

    def notes(self) -> list[str]:
        return self._table().notes()

    def _table(self) -> rows.Table:
        aspects = [name for aspect in self._chosen for name in _ASPECT_FIELDS[aspect]]
        used = {*self._sequence_fields, *ID_FIELDS, *DESCRIPTION_FIELDS, *aspects, "label", "split"}
        chosen = self._sequence_fields[0] if len(self._sequence_fields) == 1 else None
        return rows.Table(
            self.path, self._layout, Names(frozenset(used), self._sequence_fields, "sequence_column", chosen)
        )

    def _answers(self, item: Item) -> Iterator[Record | Reject]:
        fields, location = item.content, item.location
        record = fields if isinstance(fields, Reject) else self._protein(fields, location)
        yield record
        if isinstance(record, Record):
            texts = {aspect: _aspect(first_named(fields, _ASPECT_FIELDS[aspect])) for aspect in self._chosen}
            yield from caption_records(record, texts, self._chosen, location)

    def _protein(self, fields: Mapping[str, Any], location: str) -> Record | Reject:
        sequence = first_named(fields, self._sequence_fields)
        if sequence is None:
            return Reject(location, "empty sequence")
        if not isinstance(sequence, str):
            return Reject(location, f"sequence is no string: {type(sequence).__name__}")
        given, problem = id_of(first_named(fields, ID_FIELDS))
        if problem:
            return Reject(location, problem)
        identifier = given or f"{self.path.name}:{location.split()[-1]}"
        description = text_of(first_named(fields, DESCRIPTION_FIELDS)) or ""
        record = protein_record(identifier, sequence.encode("utf-8", "replace"), description, location)
        if isinstance(record, Reject):
            return record
        label, notes = label_of(fields.get("label"))
        split = split_of(fields.get("split"))
        changed = fields.repairs if isinstance(fields, Fields) else ()
        repairs = (*record.repairs, *notes, *changed)
        return record._replace(label=label, split=split, made_up=not given, repairs=repairs)
