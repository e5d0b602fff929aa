"""Reads the description of a protein as UniProt writes it: ``Name OS=Organism EC=1.2.3.4``, or with more."""

from __future__ import annotations

import re
from typing import NamedTuple

_UNIPROT = re.compile(
    r"(?P<name>.*?)(?: OS=(?P<organism>.*?))?(?: EC=(?P<enzymes>[0-9n.,-]+))?(?: [A-Z]{2}=.*)?", re.DOTALL
)
_MARK = re.compile(r" (?:OS|EC)=")
_ACCESSION = re.compile(r"[OPQ][0-9][A-Z0-9]{3}[0-9]|[A-NR-Z][0-9](?:[A-Z][A-Z0-9]{2}[0-9]){1,2}")  # as UniProt has it
ENZYME_CLASSES = {
    "1": "an oxidoreductase",
    "2": "a transferase",
    "3": "a hydrolase",
    "4": "a lyase",
    "5": "an isomerase",
    "6": "a ligase",
    "7": "a translocase",
}


class Description(NamedTuple):
    """What a description says; a part that is not there is empty."""

    name: str
    organism: str
    enzyme: str  # EC numbers, with their classes in words

    def in_words(self) -> str:
        """One line: ``Cholinesterase · Homo sapiens · EC 3.1.1.7 (a hydrolase)``."""
        return " · ".join(filter(None, self))


def read_description(text: str) -> Description:
    """The parts of a description; one that is not of UniProt is all name."""
    found = _UNIPROT.fullmatch(text) if _MARK.search(text) else None
    if found is None:
        return Description(text, "", "")
    return Description(found["name"], found["organism"] or "", _enzyme(found["enzymes"] or ""))


def uniprot_page(identifier: str, description: str) -> str:
    """The address of a protein's entry; empty unless its id and its description are as UniProt writes them."""
    ours = _MARK.search(description) and _ACCESSION.fullmatch(identifier)
    return f"https://www.uniprot.org/uniprotkb/{identifier}" if ours else ""


def _enzyme(numbers: str) -> str:
    """``EC 3.1.1.7 (a hydrolase)``; several numbers may be of several classes."""
    if not numbers:
        return ""
    parts = [number for number in numbers.split(",") if number]
    classes = [ENZYME_CLASSES[one] for one in dict.fromkeys(number[0] for number in parts) if one in ENZYME_CLASSES]
    told = f" ({' and '.join(classes)})" if classes else ""
    return f"EC {', '.join(parts)}{told}"
