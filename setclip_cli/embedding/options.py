"""The options of `setclip embed` and `setclip search`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from setclip_cli.dataset.modality import KINDS_OF_NAMES, Modality, plural
from setclip_cli.errors import SetClipError, UsageError, argument, nearest
from setclip_cli.options import Flag, Options, path_or_place

if TYPE_CHECKING:
    from setclip_cli.dataset.dataset import Dataset

Dtype = Literal["float32", "float16", "int8", "ubinary"]
Precision = Literal["float32", "bfloat16", "float16"]
Engine = Literal["local", "ray"]


def count_or_auto(text: str) -> int | None:
    """A positive count; None for ``auto``."""
    if text == "auto":
        return None
    if not text.isdigit() or int(text) == 0:
        raise ValueError(f"{text!r} is neither a positive number nor auto")
    return int(text)


def check_raw_features(backbone: str, pooling: str, modality: Modality | None = None) -> None:
    """Checks what can be checked of a backbone whose raw features are asked for, before the DATASET is opened.

    Raises:
        SetClipError: exit code 2; there is no such backbone, without training it has no such pooling, or it does not
            read what is asked for.
    """
    from setclip_cli.backbones import FRAME_POOLINGS, POOLINGS, ROWS_READ_BY
    from setclip_cli.backbones.weights import parse_spec

    kind = parse_spec(backbone).kind
    choices = [choice for choice in dict.fromkeys(("default", *POOLINGS[kind])) if choice != "attention"]
    may_read_videos = "video" in ROWS_READ_BY[kind] and modality not in KINDS_OF_NAMES  # then the DATASET decides
    if pooling not in choices and not (may_read_videos and pooling in FRAME_POOLINGS):
        learned = "is learned, and this backbone is not trained"
        absent = f"{kind} backbones do not have it{nearest(pooling, choices)}"
        raise UsageError(
            f"{argument('pooling')} {pooling!r}: {learned if pooling == 'attention' else absent}",
            fix=f"choose one of: {', '.join(choices)}",
        )
    if kind == "vector":
        raise UsageError(
            f"{argument('backbone')} vector: the vectors of a DATASET are features already",
            fix="give a RUN that was aligned with them",
        )
    reads = ROWS_READ_BY[kind]
    if modality is not None and KINDS_OF_NAMES.get(modality, reads[0]) not in reads:
        raise UsageError(
            f"{argument('modality')} {modality}: {kind} backbones read {' or '.join(map(plural, reads))}",
            fix=f"give a modality of such rows, or leave {argument('modality')} out",
        )


def modality_for_backbone(backbone: str, dataset: Dataset, modality: Modality | None) -> Modality:
    """The modality of a DATASET that a backbone reads: the one that is asked for, else the only one of its kind.

    Raises:
        SetClipError: the DATASET has no such rows, several modalities of them, or what is asked for is of another kind.
    """
    from setclip_cli.backbones import ROWS_READ_BY
    from setclip_cli.backbones.weights import parse_spec

    reads, shown = ROWS_READ_BY[parse_spec(backbone).kind], argument("modality")
    if modality is not None:
        if (kind := dataset.kind(modality)) not in reads:
            raise UsageError(
                f"{shown} {modality}: {backbone} reads {' or '.join(map(plural, reads))}, not {plural(kind)}",
                fix=f"choose one of: {', '.join(dataset.of_kind(*reads)) or 'another backbone'}",
            )
        return modality
    found = next((names for kind in reads if (names := dataset.of_kind(kind))), [])
    if len(found) > 1:
        raise UsageError(
            f"{dataset.root}: {backbone} could read its rows of {' and of '.join(found)}",
            fix=f"say which with {shown}",
        )
    if not found:
        raise SetClipError(
            f"{dataset.root}: holds no {' or '.join(map(plural, reads))}, which {backbone} reads, only "
            f"{', '.join(dataset.modalities()) or 'nothing'}",
            fix="give another DATASET, or another backbone",
        )
    return found[0]


@dataclass(frozen=True)
class EmbedOptions(Options):
    """What to embed, and how. Of these, only ``dtype``, ``width`` and ``precision`` change the values."""

    modality: Annotated[
        Modality | None, Flag("Embed only this modality of a RUN (default: each one that has a tower and rows).")
    ] = None
    split: Annotated[str | None, Flag("Embed only this split (default: all splits).")] = None
    dtype: Annotated[
        Dtype, Flag("Write the values in this type. int8 takes a quarter of the bytes, ubinary one bit a value.")
    ] = "float32"
    width: Annotated[
        int | None,
        Flag(
            "Write this many values of each embedding (default: all). The RUN needs them in projection.nested.",
            metavar="N",
            least=1,
        ),
    ] = None
    precision: Annotated[
        Precision, Flag("Compute the backbone's matrix products in this type. bfloat16 and float16 are for GPUs.")
    ] = "float32"
    device: Annotated[str, Flag("Compute on this device: auto, cpu, cuda, cuda:1 or mps.")] = "auto"
    tokens_per_batch: Annotated[
        int | None,
        Flag(
            "Put at most this many tokens, padding included, of proteins or texts in a batch (default: auto).",
            metavar="N|auto",
            parse=count_or_auto,
        ),
    ] = None
    rows_per_batch: Annotated[
        int | None,
        Flag(
            "Put at most this many rows in a batch (default: auto).",
            name="--batch-size",
            metavar="N|auto",
            parse=count_or_auto,
        ),
    ] = None
    compile: Annotated[
        bool, Flag("Compile the backbone first. The start takes minutes; the rest is faster.", name="--compile")
    ] = False
    max_bad_fraction: Annotated[
        float,
        Flag(
            "Stop if more than this share of the rows cannot be read; fewer are listed and left out.", least=0, most=1
        ),
    ] = 0.01
    engine: Annotated[Engine, Flag("Work in processes of this machine (local) or on a Ray cluster (ray).")] = "local"
    workers: Annotated[
        int, Flag("Use this many processes of this machine; 0 is one for each GPU, or one without GPUs.", least=0)
    ] = 0
    faiss: Annotated[
        bool, Flag("Also write a FAISS index of each modality and split. It needs the search extra.", name="--faiss")
    ] = False
    map: Annotated[
        bool,
        Flag("Also write a map of all rows, for `setclip view`: UMAP with the maps extra, else PCA.", name="--map"),
    ] = False


@dataclass(frozen=True)
class SearchOptions(Options):
    """What to search, and what to show of the rows found."""

    top: Annotated[int, Flag("Show this many rows.", least=1)] = 10
    query_modality: Annotated[
        Modality | None, Flag("Type of the query (default: detected from the query).", name="--as")
    ] = None
    modality: Annotated[
        Modality | None, Flag("Search rows of this modality (default: another one than the query's).", name="--in")
    ] = None
    split: Annotated[str | None, Flag("Search only this split (default: all splits).")] = None
    run: Annotated[
        str | Path | None,
        Flag("Path of the RUN (default: where it was at embedding).", metavar="RUN", parse=path_or_place),
    ] = None
    data: Annotated[
        str | Path | None,
        Flag("Path of the DATASET (default: where it was at embedding).", metavar="DATASET", parse=path_or_place),
    ] = None
    sheet: Annotated[
        str | Path | None, Flag("Write the images found to this PNG file.", metavar="FILE", parse=path_or_place)
    ] = None
