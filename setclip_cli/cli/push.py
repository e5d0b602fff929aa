"""`setclip push` and `setclip pull`."""

from __future__ import annotations

from typing import Annotated

import typer

from setclip_cli.cli.flags import with_options
from setclip_cli.cli.output import AsJson, show
from setclip_cli.hub.options import PushOptions


@with_options(PushOptions)
def push(
    run: Annotated[
        str,
        typer.Argument(path_type=str, metavar="RUN", help="A folder that `setclip align` wrote, or hub:OWNER/NAME."),
    ],
    repo: Annotated[str, typer.Option(metavar="OWNER/NAME", help="The repository on the hub.")],
    *,
    options: PushOptions,
    as_json: AsJson = False,
) -> None:
    """Send a RUN to a model hub: its heads, its recipe and its card, in one commit. Data is never sent.

    A new repository is private. Every command then takes hub:OWNER/NAME for the RUN.

    Examples:

      setclip push runs/rs --repo me/scenes

      setclip push runs/rs --repo me/scenes --public --report reports/rs
    """
    from setclip_cli.hub.push import push as run_push

    show(run_push(run, repo, options), as_json)


def pull(
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME[@REVISION]", help="The repository on the hub.")],
    out: Annotated[str, typer.Option(path_type=str, metavar="RUN", help="The RUN folder to write.")],
    as_json: AsJson = False,
) -> None:
    """Copy a RUN from a model hub to this machine, and check every byte.

    Examples:

      setclip pull me/scenes --out runs/scenes

      setclip pull me/scenes@v1 --out runs/scenes-v1
    """
    from setclip_cli.hub.pull import pull as run_pull

    show(run_pull(name, out), as_json)
