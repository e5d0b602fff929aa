"""The options of `setclip serve`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from setclip_cli.errors import UsageError, argument
from setclip_cli.options import Flag, Options, path_or_place

LOOPBACK = "127.0.0.1"
LOCAL_HOSTS = (LOOPBACK, "localhost")


@dataclass(frozen=True)
class ServeOptions(Options):
    """What is served, where, and to whom."""

    split: Annotated[str | None, Flag("Search only this split (default: all splits).")] = None
    data: Annotated[
        str | Path | None,
        Flag("Path of the DATASET (default: where it was at embedding).", metavar="DATASET", parse=path_or_place),
    ] = None
    port: Annotated[int, Flag("Port of the service; 0 takes any free one.", least=0, most=65_535)] = 0
    host: Annotated[
        str, Flag("Answer on this address. The default is this computer alone; 0.0.0.0 is all its addresses.")
    ] = LOOPBACK
    token_file: Annotated[
        str | Path | None,
        Flag("Read the token from this file (default: a new token at each start).", metavar="FILE", parse=Path),
    ] = None
    no_token: Annotated[bool, Flag("Answer every program of this computer without a token.")] = False
    body_mib: Annotated[
        int, Flag("Refuse a request of more than this many MiB. A picture takes a third more than its file.", least=1,
                  most=1024)
    ] = 8  # fmt: skip
    timeout: Annotated[
        float, Flag("Refuse a request that is not answered within this many seconds.", least=0.1, most=3600)
    ] = 30.0

    def __post_init__(self) -> None:
        super().__post_init__()
        shown = argument("no_token")
        if self.no_token and self.host not in LOCAL_HOSTS:
            raise UsageError(
                f"{argument('host')} {self.host}: other computers can ask there, and {shown} would let in all of them",
                fix=f"leave {shown} out, or {argument('host')}",
            )
        if self.no_token and self.token_file is not None:
            raise UsageError(
                f"{shown} and {argument('token_file')}: are both given", fix=f"leave {shown} out to ask for the token"
            )
