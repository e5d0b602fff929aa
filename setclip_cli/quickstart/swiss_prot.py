"""The protein quickstart's source files: a subset of Swiss-Prot, chosen by stated rules.

    SOURCE/proteins.jsonl    id, sequence, description, split
    SOURCE/functions.jsonl   id, text, split: what the protein does
    SOURCE/pairs.csv         the known pairs of train, and the true pairs of val and test, which are for scoring
    SOURCE/source.json       written last: what was chosen, by which rules, and the hash of each file

**The subset.** Of the reviewed entries with a text about their function and with `SHORTEST` to `LONGEST` residues, the
`PROTEINS` with the least hash of their accession. A text counts once, and so does a sequence.

**The split.** Similar sequences (`ingest.protein_clusters`) are in one split, so no test protein is like one that
training uses.

**There are no hidden pairs.** `PAIRS` proteins of train have their sequence and their text in the data. Every other
protein of train has only one of the two: half of them their sequence, half of them their text.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from setclip_cli.errors import SetClipError
from setclip_cli.files import atomic
from setclip_cli.ingest.protein_clusters import cluster_sequences
from setclip_cli.ingest.sources.base import Record
from setclip_cli.ingest.sources.protein import protein_record
from setclip_cli.ingest.sources.uniprot import flat_file_entries, parse_entry, plain_text
from setclip_cli.ingest.splits import parse_split
from setclip_cli.quickstart import source_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

PROTEINS = 3000
PAIRS = 200
FEWEST = 40  # proteins
FEWEST_OF_SPLIT = 2  # proteins in each split: one of similar sequences can leave a split without any
SHORTEST, LONGEST = 30, 600  # residues
SHARES = "train=0.8,val=0.1,test=0.1"
# Marks what these rules write. Choose another mark when that changes; a test compares the files.
RULES = "swiss-prot-1"
_WHOLE = "give the whole of Swiss-Prot (uniprot_sprot.dat.gz)"


@dataclass(frozen=True)
class Described:
    """A protein with what Swiss-Prot says that it does."""

    accession: str
    sequence: str
    description: str
    text: str


def choose_proteins(swiss_prot: Path, count: int) -> tuple[list[Described], Counter[str]]:
    """The proteins of the subset by the hash of their accession, and how many entries were read, and not used for what.

    The file is read once as a stream. The proteins do not depend on the order of its entries. Once
    ``count`` are chosen, an entry is judged by its hash first: so why entries were not used is then not counted of all.

    Raises:
        SetClipError: the file cannot be read, or too few of its entries can be used.
    """
    chosen: dict[str, tuple[int, Described]] = {}  # by text
    last: list[tuple[int, str]] = []  # a heap of (minus the hash, text); it may hold more than `chosen`
    counts: Counter[str] = Counter()
    for entry in flat_file_entries(swiss_prot):
        counts["entries"] += 1
        if isinstance(entry, str):
            counts[entry] += 1
            continue
        place = _place(next((line[5:].partition(";")[0].strip() for line in entry if line.startswith("AC ")), ""))
        if len(chosen) == count and place > -last[0][0]:
            continue
        found = _described(entry)
        if isinstance(found, str):
            counts[found] += 1
        elif found.text not in chosen or place < chosen[found.text][0]:
            chosen[found.text] = (place, found)
            heapq.heappush(last, (-place, found.text))
        while len(chosen) > count:
            minus, text = heapq.heappop(last)
            if chosen[text][0] == -minus:
                del chosen[text]
    by_sequence: dict[str, Described] = {}
    for _, protein in sorted(chosen.values(), key=lambda one: (one[0], one[1].accession)):
        by_sequence.setdefault(protein.sequence, protein)
    if len(by_sequence) < FEWEST:
        why = "; ".join(f"{number:,} {reason}" for reason, number in counts.most_common() if reason != "entries")
        raise SetClipError(
            f"{swiss_prot}: {len(by_sequence):,} of its {counts['entries']:,} entries can be used ({why}), and the "
            f"quickstart needs {FEWEST}",
            fix=f"{_WHOLE}, which has texts about the function of proteins",
        )
    return list(by_sequence.values()), counts


def _place(accession: str) -> int:
    """Another hash than that of `SplitRule.draw`: the least ones of that would all be in one split."""
    return int.from_bytes(hashlib.sha256(f"quickstart {accession}".encode()).digest()[:8])


def _described(entry: Sequence[str]) -> Described | str:
    """What is used of an entry, or why it is not used."""
    parsed = parse_entry(entry)
    if not parsed.reviewed:
        return "not reviewed"
    text = plain_text(parsed.aspects["function"])
    if not text:
        return "without a text about their function"
    record = protein_record(parsed.accession, parsed.residues, parsed.description, "")
    if not isinstance(record, Record) or not isinstance(record.payload, str):
        return "with a sequence that cannot be used"
    if not SHORTEST <= len(record.payload) <= LONGEST:
        return f"with fewer than {SHORTEST} or more than {LONGEST:,} residues"
    return Described(parsed.accession, record.payload, parsed.description, text)


def write_source(folder: Path, swiss_prot: Path) -> dict[str, Any]:
    """Writes the source folder. Returns the content of source.json.

    Raises:
        SetClipError: as `choose_proteins`; or the folder cannot be written.
    """
    proteins, counts = choose_proteins(swiss_prot, PROTEINS)
    atomic.make_folder(folder)
    clusters, how = cluster_sequences(((one.accession, one.sequence) for one in proteins), work=folder)
    rule = parse_split(SHARES)
    split = {one.accession: rule.draw(clusters[one.accession]) for one in proteins}
    sizes = {name: list(split.values()).count(name) for name, _ in rule.shares}
    if small := [f"{name} {size}" for name, size in sizes.items() if size < FEWEST_OF_SPLIT]:
        raise SetClipError(
            f"{swiss_prot}: its {len(proteins):,} proteins that can be used are in {len(set(clusters.values())):,} "
            f"clusters of similar sequences, which stay together, and these splits have too few: {', '.join(small)}",
            fix=f"{_WHOLE}, which has many kinds of proteins",
        )
    train = [one.accession for one in proteins if split[one.accession] == "train"]
    known = train[: min(PAIRS, len(train) // 4)]
    rest = train[len(known) :]
    hidden_texts, hidden_sequences = set(rest[::2]), set(rest[1::2])
    sequences = [one for one in proteins if one.accession not in hidden_sequences]
    texts = [one for one in proteins if one.accession not in hidden_texts]
    _write_lines(
        folder / "proteins.jsonl",
        (
            {
                "id": one.accession,
                "sequence": one.sequence,
                "description": one.description,
                "split": split[one.accession],
            }
            for one in sequences
        ),
    )
    _write_lines(
        folder / "functions.jsonl",
        ({"id": one.accession, "text": one.text, "split": split[one.accession]} for one in texts),
    )
    paired = [one.accession for one in proteins if one.accession not in hidden_texts | hidden_sequences]
    source_folder.write_csv(
        folder / "pairs.csv",
        ("left_modality", "left_id", "right_modality", "right_id"),
        (("protein", name, "caption", name) for name in paired),
    )
    content = {
        "domain": "proteins",
        "rules": RULES,
        "file": swiss_prot.name,
        "entries": counts["entries"],
        "proteins": len(sequences),
        "texts": len(texts),
        "pairs": len(known),
        "splits": dict(sorted(sizes.items())),
        "clusters": len(set(clusters.values())),
        "clusters_by": how,
    }
    return source_folder.finish(folder, content)


def _write_lines(path: Path, lines: Iterable[dict[str, str]]) -> None:
    text = "".join(json.dumps(line, sort_keys=True, ensure_ascii=False) + "\n" for line in lines)
    atomic.write_text(path, text)
