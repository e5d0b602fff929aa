"""The options of `setclip ingest`: each option is written here once.

`ReadOptions` are what a reader needs. `SourceSettings` add what decides which rows a source gives; they are part of
dataset.json. `IngestOptions` add what concerns the whole command.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from setclip_cli.dataset.modality import KINDS_OF_NAMES, ROW_KINDS, USUAL_KINDS, Modality, RowKind, why_not_a_name
from setclip_cli.errors import SetClipError, UsageError, argument, nearest
from setclip_cli.files import atomic
from setclip_cli.options import Flag, Options, options_of, path_or_place
from setclip_cli.places import named

if TYPE_CHECKING:
    from collections.abc import Mapping

    from setclip_cli.dataset.schemas import ModalityInfo

LATER_OPTIONS = ("kind", "ids", "vector_column", "id_column", "encoder", "scale", "average", "frames")
# dataset.json has these only where they were given: earlier versions did not know them
SplitBy = Literal["auto", "id", "label", "group", "cluster"]
NearDuplicates = Literal["keep", "flag", "drop"]
IngestEngine = Literal["local", "process", "ray"]


def file_or_count(text: str) -> Path | str | int:
    """A number, or else the path of a file."""
    return int(text) if text.isdecimal() else path_or_place(text)


@dataclass(frozen=True)
class ReadOptions(Options):
    """How a source is read, if its name and its content do not say it."""

    modality: Annotated[
        Modality | None,
        Flag(
            "What the sources hold: protein, image, caption or video, or a name of your own with --kind. A manifest "
            "says it itself.",
            metavar="NAME",
        ),
    ] = None
    kind: Annotated[
        RowKind | None, Flag("Kind of the rows of a modality with a name of your own, such as sar or abstract.")
    ] = None
    text_column: Annotated[str | None, Flag("Captions: the column or field that holds the text.")] = None
    sequence_column: Annotated[str | None, Flag("Proteins: the column that holds the residues.")] = None
    image_column: Annotated[str | None, Flag("Images in Parquet: the column that holds them.")] = None
    layout: Annotated[
        str | None,
        Flag("Format of the files, such as csv, jsonl or fasta, if their suffix does not say it.", name="--format"),
    ] = None
    captions_from: Annotated[
        str | None,
        Flag("Proteins: also write captions, from one or more of name,function,keywords,go,ec.", metavar="PARTS"),
    ] = None
    tile: Annotated[int | None, Flag("GeoTIFF: cut scenes into tiles of this many pixels.", least=1)] = None
    stride: Annotated[
        int | None, Flag("GeoTIFF: pixels from one tile to the next (default: the size of a tile).", least=1)
    ] = None
    bands: Annotated[
        str | None,
        Flag(
            "GeoTIFF: the bands for red,green,blue; the first band is 1. 'all', or another number of bands than 1 or "
            "3: they are kept with all of their bits.",
            metavar="R,G,B|all",
        ),
    ] = None
    stretch: Annotated[
        str | None,
        Flag("GeoTIFF: percentiles that become black and white (default: 2,98 if not 8-bit).", metavar="LOW,HIGH"),
    ] = None

    frames: Annotated[
        int | None,
        Flag("Videos: take this many frames of each, evenly in time (default: 16).", metavar="N", least=1, most=1024),
    ] = None
    ids: Annotated[
        Path | str | None,
        Flag(
            "Vectors: the id of each row: a text file with one id a line; or a table with a column id, and perhaps "
            "group, label and split.",
            metavar="FILE",
            parse=path_or_place,
        ),
    ] = None
    vector_column: Annotated[
        str | None,
        Flag(
            "Vectors: the column, array, tensor or data set that holds them; 'dim_*' for one column a dimension.",
            metavar="NAME",
        ),
    ] = None
    id_column: Annotated[
        str | None, Flag("Vectors: the column or data set of the ids, also in --ids FILE.", metavar="NAME")
    ] = None
    encoder: Annotated[
        str | None, Flag("Vectors: what computed them. A RUN then takes no vectors of another encoder.", metavar="NAME")
    ] = None
    scale: Annotated[float | None, Flag("Vectors as integers of 8 bits: the number that a 1 stands for.")] = None
    average: Annotated[
        bool,
        Flag("Vectors: if an id has several, such as one for each residue, take their mean.", name="--average"),
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale is not None and not (math.isfinite(self.scale) and self.scale != 0):
            shown = argument("scale")
            raise UsageError(f"{shown} {self.scale}: is not a number other than 0", fix=f"{shown} 1, or leave it out")
        if self.modality is not None:
            _check_name(self.modality, self.kind)
        if self.layout is not None:  # csv, .csv and .CSV are the same
            object.__setattr__(self, "layout", f".{self.layout.lower().lstrip('.')}")

    @property
    def row_kind(self) -> RowKind:
        """The kind of the rows.

        Raises:
            SetClipError: exit code 2; neither the name of the modality nor an option says it.
        """
        name = str(self.modality)
        kind = self.kind or KINDS_OF_NAMES.get(name) or USUAL_KINDS.get(name)
        if kind is None:
            shown, flag = argument("kind"), argument("modality")
            raise UsageError(
                f"{flag} {name}: the kind of its rows is not known{nearest(name, [*KINDS_OF_NAMES, *USUAL_KINDS])}",
                fix=f"{shown} {', '.join(ROW_KINDS[:-1])} or {ROW_KINDS[-1]}; or {flag} "
                f"{', '.join([*KINDS_OF_NAMES, *USUAL_KINDS])}, which need none",
            )
        return kind


@dataclass(frozen=True)
class SourceSettings(ReadOptions):
    """All that decides which rows one source gives: if it changes, the source is read again."""

    labels: Annotated[
        Path | str | None,
        Flag("CSV id,label: classes for evaluation. Training never sees them.", metavar="FILE", parse=path_or_place),
    ] = None
    split: Annotated[
        str | None,
        Flag(
            "'auto': as the source says, else train. 'train': all rows. 'as-captions': images take the split of "
            "their captions. 'train=0.8,val=0.1,test=0.1': drawn by hash of the id. (default: auto)"
        ),
    ] = None
    split_by: Annotated[
        SplitBy,
        Flag(
            "What a drawn split keeps together: rows of one group (auto, group), id, label, or cluster (proteins "
            "with similar sequences)."
        ),
    ] = "auto"
    keep_duplicates: Annotated[
        bool, Flag("Keep exact repeats (default: each content is kept once).", name="--keep-duplicates")
    ] = False
    near_duplicates: Annotated[
        NearDuplicates, Flag("Images that look alike: keep them, flag them in a column, or drop them.")
    ] = "keep"

    @staticmethod
    def of_entry(entry: dict[str, Any]) -> SourceSettings:
        """The settings with which a source in dataset.json was read."""
        later = {part.name: part.default for part in fields(SourceSettings) if part.name in LATER_OPTIONS}
        known = later | entry["options"] | {"modality": entry["modality"]}
        return SourceSettings(**{part.name: known[part.name] for part in fields(SourceSettings)})

    def identity(self) -> dict[str, Any]:
        """JSON for dataset.json, with the labels by their content."""
        settings = {part.name: getattr(self, part.name) for part in fields(SourceSettings) if part.name != "modality"}
        if self.ids is not None:
            settings["ids"] = named(Path(self.ids).resolve())
        settings = {name: value for name, value in settings.items() if name not in LATER_OPTIONS or value}
        labels = None if self.labels is None else Path(self.labels)
        return {
            **settings,
            "split": self.split or "auto",
            "labels": None if labels is None else named(labels.resolve()),
            "labels_sha256": None if labels is None else sha256_of(labels),
        }


@dataclass(frozen=True)
class IngestOptions(SourceSettings):
    """Everything that `setclip ingest` takes beside its sources and the DATASET folder."""

    pairs: Annotated[
        Path | str | int | None,
        Flag(
            "The known pairs: a CSV of ids under the names of two modalities (image,caption), or with the columns "
            "left_modality,left_id,right_modality,right_id; or how many to draw from the pairs that the captions' "
            "groups give.",
            metavar="FILE|N",
            parse=file_or_count,
        ),
    ] = None
    pairs_from_group: Annotated[
        bool,
        Flag("Each caption and the image or protein of its group are a known pair.", name="--pairs-from-group"),
    ] = False
    drop_pairs: Annotated[
        Path | str | None,
        Flag(
            "Known pairs that are wrong, a CSV as for --pairs: they are dropped and do not come back.",
            metavar="FILE",
            parse=path_or_place,
        ),
    ] = None
    max_bad_fraction: Annotated[
        float, Flag("Stop if a larger share of a source's records cannot be used.", least=0, most=1)
    ] = 0.5
    seed: Annotated[int, Flag("Random seed for --pairs N.")] = 0
    workers: Annotated[
        int,
        Flag(
            "Threads that read files; with --engine process, processes that read a source each. They do not change "
            "the result.",
            least=1,
        ),
    ] = 2
    engine: Annotated[
        IngestEngine,
        Flag(
            "Read many sources one after the other (local), several at a time in processes of this machine (process), "
            "or on a Ray cluster (ray). It does not change the result."
        ),
    ] = "local"
    from_folder: Annotated[
        Path | str | None,
        Flag(
            "Manifests: take the files from this folder and download nothing.",
            name="--from",
            metavar="FOLDER",
            parse=path_or_place,
        ),
    ] = None
    max_bytes: Annotated[
        int | None,
        Flag(
            "Manifests: download no file of more bytes than this (default: the published size, or 20,000,000,000 if "
            "none is published).",
            metavar="N",
            least=1,
        ),
    ] = None
    croissant: Annotated[
        bool, Flag("Also write croissant.json, which describes the DATASET to other programs.", name="--croissant")
    ] = False


def _check_name(name: Modality, kind: RowKind | None) -> None:
    """Raises SetClipError if a modality cannot have this name, or its name says another kind."""
    shown = argument("modality")
    if reason := why_not_a_name(name):
        lower = name.lower()
        fix = f"{shown} {lower}" if why_not_a_name(lower) is None else f"choose another name, such as {shown} radar"
        raise UsageError(f"{shown} {name!r}: {reason}", fix=fix)
    said = KINDS_OF_NAMES.get(name)
    if said is not None and kind not in (None, said):
        raise UsageError(
            f"{argument('kind')} {kind}: {name} rows are of the kind {said}",
            fix=f"choose another name, such as {shown} {name}_{kind}s, or leave {argument('kind')} out",
        )


def with_known_kind(options: IngestOptions, known: Mapping[Modality, ModalityInfo], out: Path) -> IngestOptions:
    """The options with the kind that the DATASET has for this name.

    Raises:
        SetClipError: exit code 2; the options say another kind.
    """
    info = known.get(str(options.modality))
    if info is None and options.kind is None and options.modality in USUAL_KINDS:
        return replace(options, kind=USUAL_KINDS[options.modality])
    if info is None or info.kind == options.kind:
        return options
    if options.kind is not None:
        shown = argument("kind")
        raise UsageError(
            f"{shown} {options.kind}: {out} has {options.modality} rows of the kind {info.kind}",
            fix=f"{shown} {info.kind}, or choose another name with {argument('modality')}",
        )
    return replace(options, kind=info.kind)


def sha256_of(path: Path) -> str:
    """The hash of a file that the user gave. Raises SetClipError if it cannot be read."""
    try:
        return atomic.sha256_file(path)
    except OSError as error:
        raise SetClipError(f"{path}: {error.strerror}", fix="check the path") from error


_OF_KIND: dict[str, RowKind] = {
    "captions_from": "protein",
    "sequence_column": "protein",
    "text_column": "text",
    "image_column": "image",
    "tile": "image",
    "stride": "image",
    "bands": "image",
    "stretch": "image",
    "near_duplicates": "image",
    "frames": "video",
    **dict.fromkeys(("ids", "vector_column", "id_column", "encoder", "scale", "average"), "vector"),
}


def options_of_other_kinds(options: IngestOptions) -> dict[str, Any]:
    """The options that are given and are for rows of another kind, with their default values."""
    return {
        part.name: part.default
        for part in fields(IngestOptions)
        if part.name in _OF_KIND
        and getattr(options, part.name) != part.default
        and options.modality is not None
        and options.row_kind != _OF_KIND[part.name]
    }


def refuse_unused(options: IngestOptions, paths: list[Path]) -> None:
    """Refuses an option that has no meaning for these sources: it may be a slip, and it would do nothing in silence.

    Raises:
        SetClipError: exit code 2.
    """
    why = {
        name: f"is for {_OF_KIND[name]} rows, and these are {options.modality} rows"
        for name in options_of_other_kinds(options)
    }
    for name in ("from_folder", "max_bytes"):
        if getattr(options, name) is not None:
            why[name] = f"is for manifests, and {paths[0]} is not one"
    folder = next((path for path in paths if path.is_dir()), None)
    if options.ids is not None and len(paths) > 1:
        why.setdefault("ids", f"is for one SOURCE, and there are {len(paths)}; read them one by one, each with its ids")
    if options.layout is not None and folder is not None:
        why["layout"] = f"is for files, and {folder} is a folder"
    for name, reason in why.items():
        shown = argument(name, options_of(IngestOptions)[name][1].names(name))
        raise UsageError(f"{shown}: {reason}", fix=f"leave {shown} out")
