"""The options of `setclip embed`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from setclip_cli.dataset.modality import Modality
from setclip_cli.options import Flag, Options

Dtype = Literal["float32", "float16"]
Precision = Literal["float32", "bfloat16", "float16"]
Engine = Literal["local", "ray"]


def count_or_auto(text: str) -> int | None:
    """A positive count; ``auto`` is None."""
    if text == "auto":
        return None
    if not text.isdigit() or int(text) == 0:
        raise ValueError(f"{text!r} is neither a positive number nor auto")
    return int(text)


@dataclass(frozen=True)
class EmbedOptions(Options):
    """What to embed, and how; only ``dtype`` and ``precision`` change the values."""

    modality: Annotated[Modality | None, Flag("Embed only this modality (default: those of both towers).")] = None
    split: Annotated[str | None, Flag("Embed only this split (default: all).")] = None
    dtype: Annotated[Dtype, Flag("Type of the written values.")] = "float32"
    precision: Annotated[
        Precision, Flag("Type of the backbone's matrix products; the two half types are for GPUs.")
    ] = "float32"
    device: Annotated[str, Flag("Where to compute: auto, cpu, cuda, cuda:1 or mps.")] = "auto"
    tokens_per_batch: Annotated[
        int | None,
        Flag("Padded tokens of proteins or texts in one forward pass.", metavar="N|auto", parse=count_or_auto),
    ] = None
    rows_per_batch: Annotated[
        int | None, Flag("Rows in one forward pass.", name="--batch-size", metavar="N|auto", parse=count_or_auto)
    ] = None
    compile: Annotated[
        bool, Flag("Compile the backbone first: the start takes minutes, the rest is faster.", name="--compile")
    ] = False
    max_bad_fraction: Annotated[
        float,
        Flag("Share of rows that may be unreadable (listed and left out) before the run stops.", least=0, most=1),
    ] = 0.01
    engine: Annotated[Engine, Flag("local: processes and GPUs of this machine; ray: a Ray cluster.")] = "local"
    workers: Annotated[int, Flag("Processes of the local engine; 0 takes one for each GPU, or one.", least=0)] = 0
    faiss: Annotated[
        bool,
        Flag("Also write a FAISS index of each modality and split (needs the search extra).", name="--faiss"),
    ] = False
