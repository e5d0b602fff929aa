"""How one source becomes rows: the options of an ingest that change what the DATASET holds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from setclip_cli.dataset.modality import Modality
from setclip_cli.errors import SetClipError
from setclip_cli.files import atomic
from setclip_cli.ingest.dedup import NearDuplicates, SplitBy
from setclip_cli.ingest.sources.base import ReadOptions


@dataclass(frozen=True)
class Options:
    """How one source becomes rows; part of what decides whether the DATASET already holds it as asked."""

    modality: Modality
    split: str = "auto"
    split_by: SplitBy = "auto"
    labels: Path | None = None
    keep_duplicates: bool = False
    near_duplicates: NearDuplicates = "keep"
    max_bad_fraction: float = 0.5
    read: ReadOptions = field(default_factory=ReadOptions)

    def identity(self) -> dict[str, Any]:
        """JSON for dataset.json: all that changes the rows (the labels by their content)."""
        return {
            "split": self.split,
            "split_by": self.split_by,
            "labels": None if self.labels is None else str(self.labels.resolve()),
            "labels_sha256": None if self.labels is None else sha256_of(self.labels),
            "keep_duplicates": self.keep_duplicates,
            "near_duplicates": self.near_duplicates,
            **asdict(self.read),
        }


def options_of(entry: dict[str, Any], max_bad_fraction: float) -> Options:
    """The options that a source of a DATASET was read with."""
    known = entry["options"]
    return Options(
        modality=entry["modality"],
        split=known["split"],
        split_by=known["split_by"],
        labels=None if known["labels"] is None else Path(known["labels"]),
        keep_duplicates=known["keep_duplicates"],
        near_duplicates=known["near_duplicates"],
        max_bad_fraction=max_bad_fraction,
        read=ReadOptions(**{part.name: known[part.name] for part in fields(ReadOptions)}),
    )


def sha256_of(path: Path) -> str:
    """The hash of a file the user named. Raises SetClipError when it cannot be read."""
    try:
        return atomic.sha256_file(path)
    except OSError as error:
        raise SetClipError(f"{path}: {error.strerror}", fix="check the path") from error
