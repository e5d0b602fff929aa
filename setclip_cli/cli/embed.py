"""`setclip embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from setclip_cli.cli.flags import with_options
from setclip_cli.cli.output import AsJson, show
from setclip_cli.embedding.options import EmbedOptions
from setclip_cli.errors import ExitCode, SetClipError


@with_options(EmbedOptions)
def embed(
    paths: Annotated[
        list[Path], typer.Argument(metavar="[RUN] DATASET", help="A RUN and a DATASET, or a DATASET with --backbone.")
    ],
    out: Annotated[Path, typer.Option(help="The EMBEDDINGS folder to write.")],
    backbone: Annotated[
        str | None, typer.Option(help="Without a RUN: raw features of this backbone, such as esm:esm2_t6_8M_UR50D.")
    ] = None,
    weights: Annotated[str, typer.Option(help="With --backbone: auto, a path, package:NAME or hub.")] = "auto",
    pooling: Annotated[
        str, typer.Option(help="With --backbone: default; esm: mean or cls; timm: avg or cls; texts: mean or cls.")
    ] = "default",
    *,
    options: EmbedOptions,
    as_json: AsJson = False,
) -> None:
    """Embed a DATASET with a RUN, shard by shard. Run again, it makes only the shards that are missing.

    Examples:

      setclip embed runs/rs data/rs --out embeddings/rs

      setclip embed --backbone esm:esm2_t6_8M_UR50D data/my --out features/my

      RAY_ADDRESS=auto setclip embed runs/rs data/rs --out embeddings/rs --engine ray
    """
    needs, count = ("a DATASET alone with --backbone", 1) if backbone else ("a RUN and a DATASET", 2)
    if len(paths) != count:
        raise SetClipError(
            f"embed: needs {needs}, got {len(paths)} paths",
            fix="see `setclip embed --help`",
            exit_code=ExitCode.USAGE,
        )
    ignored = "--modality" if backbone and options.modality else ""
    if not backbone and (weights, pooling) != ("auto", "default"):
        ignored = "--weights" if weights != "auto" else "--pooling"
    if ignored:
        needs = "a RUN, whose towers it chooses from" if backbone else "--backbone; a RUN has its own"
        raise SetClipError(f"{ignored}: only goes with {needs}", fix=f"leave {ignored} out", exit_code=ExitCode.USAGE)
    from setclip_cli.dataset.dataset import open_dataset

    dataset = open_dataset(paths[-1])
    from setclip_cli.embedding.embed import embed as run
    from setclip_cli.embedding.embed import embed_backbone

    if backbone:
        result = embed_backbone(backbone, dataset, out, weights=weights, pooling=pooling, options=options)
    else:
        result = run(paths[0], dataset, out, options=options)
    show(result, as_json)
