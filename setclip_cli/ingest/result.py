"""What an ingest did, counted: for dataset.json, for ``--json`` and for the summary in the terminal."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from setclip_cli.console import text_of_lines
from setclip_cli.dataset.band_scale import BandSums, add_band_sums, band_sums, scale_of_sums
from setclip_cli.dataset.modality import KINDS_OF_NAMES, RowKind
from setclip_cli.errors import AccountingError
from setclip_cli.ingest.vector_norms import add_norms, norm_counts, norm_line

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from setclip_cli.dataset.dataset import DatasetIndex
    from setclip_cli.joins import Join

MAX_LABELS_LISTED = 200
_SIZE_COLUMN = {"sequence": "length", "image": "width", "text": "text", "frames": "frames"}
_SIZE_UNIT: dict[RowKind, str] = {"protein": "residues", "image": "px wide", "text": "characters", "video": "frames"}


def count_rows(table: pa.Table) -> dict[str, Any]:
    """Counts of one shard that add up over shards: rows, labels, and a histogram of sizes.

    The histogram's key is the lower edge of a bin from one power of two to the next, in residues, pixels of width,
    characters, or frames.
    """
    import pyarrow as pa
    import pyarrow.compute as pc  # it takes 0.1 s, which a run without new rows saves

    payload = table.column_names[5]
    sizes = table[_SIZE_COLUMN[payload]] if payload in _SIZE_COLUMN else pa.array([], pa.int32())
    if payload == "text":
        sizes = pc.utf8_length(sizes)
    elif payload == "frames":
        sizes = pc.list_value_length(sizes)
    flagged = "near_duplicate_of" in table.column_names
    labels = {count["values"]: count["counts"] for count in pc.value_counts(table["label"].drop_null()).to_pylist()}
    edges = pc.power(2, pc.floor(pc.log2(pc.max_element_wise(sizes.cast("double"), 1.0)))).cast("int64")
    return {
        "rows": table.num_rows,
        "labels": labels,
        "near_duplicates": table.num_rows - table["near_duplicate_of"].null_count if flagged else 0,
        "sizes": {str(count["values"]): count["counts"] for count in pc.value_counts(edges).to_pylist()},
        **({"bands": sums} if (sums := band_sums(table)) else {}),
        **({"norms": norms} if (norms := norm_counts(table)) else {}),
    }


def add_counts(batches: list[dict[str, Any]]) -> dict[str, Any]:
    """Adds up the counts of a source's batches for its entry in dataset.json."""
    rejects: Counter[str] = Counter()
    repairs: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    rows: dict[str, dict[str, int]] = {}
    labels: dict[str, Counter[str]] = {}
    sizes: dict[str, Counter[str]] = {}
    bands: BandSums = {}
    norms: list[dict[str, Any]] = []
    near_duplicates = 0
    for batch in batches:
        rejects.update(batch["rejects"])
        repairs.update(batch["repairs"])
        left_out.update(batch.get("left_out", {}))  # a batch that an earlier version wrote has none
        for modality, splits in batch["rows"].items():
            for split, counts in splits.items():
                of_modality = rows.setdefault(modality, {})
                of_modality[split] = of_modality.get(split, 0) + counts["rows"]
                near_duplicates += counts["near_duplicates"]
                labels.setdefault(modality, Counter()).update(counts["labels"])
                if counts["sizes"]:
                    sizes.setdefault(modality, Counter()).update(counts["sizes"])
                add_band_sums(bands, counts.get("bands", {}))
                norms += [counts["norms"]] if "norms" in counts else []
    return {
        "read": sum(batch["read"] for batch in batches),
        "bad": sum(batch["bad"] for batch in batches),
        "distinct": sum(batch["distinct"] for batch in batches),
        "crossing": sum(batch["crossing"] for batch in batches),
        "near_duplicates": near_duplicates,
        **batches[-1]["about"],
        "rows": {modality: dict(sorted(splits.items())) for modality, splits in sorted(rows.items())},
        "rejects": dict(sorted(rejects.items())),
        "left_out": dict(sorted(left_out.items())),
        "repairs": dict(sorted(repairs.items())),
        "labels": {modality: _listed(counts) for modality, counts in sorted(labels.items()) if counts},
        "sizes": {modality: dict(sorted(counts.items(), key=_edge)) for modality, counts in sorted(sizes.items())},
        **({"bands": [_band_entry(sums) for sums in bands.values()]} if bands else {}),
        **({"vectors": add_norms(norms)} if norms else {}),
    }


def check_sum(path: Path, entry: dict[str, Any], records: int) -> None:
    """Makes sure that the counts of a source's entry add up: read = taken + rejects + left out.

    Args:
        path: The source.
        entry: Its entry for dataset.json.
        records: What the source gave: all its answers, counted as they came.

    Raises:
        AccountingError: they do not.
    """
    taken = sum(sum(splits.values()) for splits in entry["rows"].values())
    rejected, left_out = sum(entry["rejects"].values()), sum(entry["left_out"].values())
    if not entry["read"] == records == taken + rejected + left_out:
        raise AccountingError(
            f"{path}: gave {records:,} records, of which {entry['read']:,} are counted as read: "
            f"{taken:,} taken, {rejected:,} rejected and {left_out:,} left out"
        )


def _band_entry(sums: dict[str, Any]) -> dict[str, Any]:
    scale = scale_of_sums(sums)
    return {"bands": len(scale.mean), "rows": sums["rows"], "mean": list(scale.mean), "std": list(scale.std)}


def _edge(item: tuple[str, int]) -> int:
    return int(item[0])


def _listed(counts: Counter[str]) -> dict[str, Any]:
    listed: dict[str, Any] = {"rows": counts.total(), "distinct": len(counts)}
    if len(counts) <= MAX_LABELS_LISTED:
        listed["classes"] = dict(sorted(counts.items()))
    return listed


@dataclass(frozen=True)
class IngestResult:
    """What one ingest command did."""

    out: Path
    new: list[dict[str, Any]]  # entries of dataset.json for the sources that were read
    unchanged: list[dict[str, Any]]  # entries for the sources that were there and were not read again
    index: DatasetIndex
    pair_rejects: dict[str, int]
    pairs: int
    pair_examples: dict[str, str] = field(default_factory=dict)  # reason -> the first pair that was left out for it
    pairs_unanswered: int = 0  # lines of the file of pairs in which nobody has filled in a partner
    pairs_without_partner: int = 0  # lines of it that say that an item has no partner
    pairs_dropped: int = 0  # known pairs that the user called wrong
    joins: list[Join] = field(default_factory=list)  # labels, splits of captions and pairs with the rows

    @property
    def rows(self) -> dict[str, dict[str, int]]:
        """Rows of the whole DATASET: modality -> split -> count."""
        rows: dict[str, dict[str, int]] = {}
        for shard in self.index.shards:
            splits = rows.setdefault(shard.modality, {})
            splits[shard.split] = splits.get(shard.split, 0) + shard.rows
        return rows

    def as_json(self) -> dict[str, Any]:
        return {
            "out": str(self.out),
            "rows": self.rows,
            "bytes": sum(shard.bytes for shard in self.index.shards),
            "new": self.new,
            "unchanged": self.unchanged,
            "pairs": self.pairs,
            "pair_rejects": self.pair_rejects,
            "pairs_unanswered": self.pairs_unanswered,
            "pairs_without_partner": self.pairs_without_partner,
            "pairs_dropped": self.pairs_dropped,
            "joins": [join.as_json() for join in self.joins],
        }

    def summary(self) -> str:
        """Text for a person: what was taken, changed and left out of each source, then the totals of the DATASET."""
        lines = [f"{entry['path']}: unchanged, not read again" for entry in self.unchanged]
        for entry in self.new:
            lines += _entry_lines(entry)
        lines += [f"  {join.sentence()}" for join in self.joins]
        for reason, count in self.pair_rejects.items():
            example = self.pair_examples.get(reason)
            lines.append(f"  {count:,} pairs left out: {reason}{f' (first {example})' if example else ''}")
        if self.pairs_unanswered:
            lines.append(f"  {_rows(self.pairs_unanswered, 'has', 'have')} no partner filled in")
        if self.pairs_without_partner:
            lines.append(f"  {_rows(self.pairs_without_partner, 'says', 'say')} that an item has no partner")
        if self.pairs_dropped:
            lines.append(f"  {self.pairs_dropped:,} known pair{'' if self.pairs_dropped == 1 else 's'} dropped")
        lines.append(f"{self.out}: {sum(shard.bytes for shard in self.index.shards) / 1e6:,.1f} MB")
        for modality, splits in self.rows.items():
            total = sum(splits.values())
            lines.append(f"  {total:,} {modality} rows ({', '.join(f'{s} {n:,}' for s, n in sorted(splits.items()))})")
        if self.pairs:
            lines.append(f"  {self.pairs:,} known pairs")
        return text_of_lines(lines)


def _rows(count: int, one: str, several: str) -> str:
    return f"{count:,} row{'' if count == 1 else 's'} of the pairs {one if count == 1 else several}"


def _entry_lines(entry: dict[str, Any]) -> list[str]:
    taken = sum(sum(splits.values()) for splits in entry["rows"].values())
    lines = [f"{entry['path']}: {entry['read']:,} read, {taken:,} taken"]
    lines += [f"  {note}" for note in entry.get("notes", [])]
    lines += [f"  {count:,} changed: {what}" for what, count in entry["repairs"].items()]
    lines += [
        f"  {count:,} left out: {reason}" for reason, count in [*entry["rejects"].items(), *entry["left_out"].items()]
    ]
    if entry["distinct"] < taken:
        lines.append(f"  {entry['distinct']:,} distinct contents among those taken")
    if entry["crossing"]:
        lines.append(f"  {entry['crossing']:,} taken with a content that, as the source says, is also in another split")
    if entry["near_duplicates"]:
        lines.append(f"  {entry['near_duplicates']:,} flagged, because they look like an earlier image")
    if "clusters" in entry:
        lines.append(f"  split by {entry['clusters']:,} clusters ({entry['clustered_by']})")
    for labels in entry["labels"].values():
        lines.append(f"  {labels['rows']:,} labelled, {labels['distinct']:,} labels")
    for bands in entry.get("bands", []):
        noun = "band" if bands["bands"] == 1 else "bands"
        lines.append(f"  {bands['rows']:,} with {bands['bands']} {noun}, whose numbers are kept; scale of the source:")
        lines += [f"    {name} {', '.join(f'{value:.4g}' for value in bands[name])}" for name in ("mean", "std")]
    if "vectors" in entry:
        lines.append(f"  {norm_line(entry['vectors'])}")
    for modality, sizes in entry["sizes"].items():
        kind = entry["about"]["kind"] if modality not in KINDS_OF_NAMES else KINDS_OF_NAMES[modality]
        lines.append(f"  {_SIZE_UNIT[kind]}: " + ", ".join(f"{_bin(edge)} {count:,}" for edge, count in sizes.items()))
    return lines


def _bin(edge: str) -> str:
    low = int(edge)
    return f"{low}-{2 * low - 1}" if low > 1 else "1"
