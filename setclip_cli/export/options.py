"""Options of `setclip export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from setclip_cli.errors import UsageError, argument
from setclip_cli.options import Flag, Options, path_or_place

Target = Literal["sentence-transformers", "onnx", "safetensors"]
OPSET = 18
Form = Literal["full", "plain"]


@dataclass(frozen=True)
class ExportOptions(Options):
    """For which library a RUN is written, and how much of it."""

    to: Annotated[
        Target,
        Flag("Write for this library; safetensors holds the heads alone, for features that you make elsewhere."),
    ] = "sentence-transformers"
    form: Annotated[
        Form,
        Flag(
            "full gives the embeddings of `setclip embed`; plain needs no trust_remote_code: it has the trained heads "
            "alone, and reads RGB pictures only."
        ),
    ] = "full"
    data: Annotated[
        str | Path | None,
        Flag(
            "Check the result on rows of this DATASET (default: on made-up rows).",
            metavar="DATASET",
            parse=path_or_place,
        ),
    ] = None
    opset: Annotated[int, Flag("With --to onnx: the version of the operators.", least=17, most=23)] = OPSET

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.opset != OPSET and self.to != "onnx":
            raise UsageError(f"{argument('opset')}: works only with --to onnx", fix=f"leave {argument('opset')} out")
        if self.data is not None and self.to == "safetensors":
            raise UsageError(
                f"{argument('data')}: works with whole towers; heads are checked on made-up features",
                fix=f"leave {argument('data')} out",
            )
