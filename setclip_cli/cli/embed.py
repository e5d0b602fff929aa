"""`setclip embed`."""

from __future__ import annotations

from typing import Annotated

import typer

from setclip_cli.cli.flags import with_options
from setclip_cli.cli.output import AsJson, show
from setclip_cli.embedding.options import EmbedOptions, check_raw_features
from setclip_cli.errors import UsageError


@with_options(EmbedOptions)
def embed(
    paths: Annotated[
        list[str],
        typer.Argument(
            path_type=str, metavar="[RUN] DATASET", help="A RUN and a DATASET, or a DATASET with --backbone."
        ),
    ],
    out: Annotated[str, typer.Option(path_type=str, help="Write the EMBEDDINGS to this folder.")],
    backbone: Annotated[
        str | None,
        typer.Option(help="Write the raw features of this backbone, such as esm:esm2_t6_8M_UR50D, without a RUN."),
    ] = None,
    weights: Annotated[
        str, typer.Option(help="With --backbone: load its weights from auto, a path, package:NAME or hub.")
    ] = "auto",
    pooling: Annotated[
        str,
        typer.Option(
            help="With --backbone: make one vector of its tokens by default, mean (esm, texts), avg (timm) or cls; "
            "of the frames of a video by mean (the default) or attention."
        ),
    ] = "default",
    *,
    options: EmbedOptions,
    as_json: AsJson = False,
) -> None:
    """Embed a DATASET with a RUN, shard by shard. Run it again to make only the shards that are missing.

    Examples:

      setclip embed runs/rs data/rs --out embeddings/rs

      setclip embed --backbone esm:esm2_t6_8M_UR50D data/my --out features/my

      RAY_ADDRESS=auto setclip embed runs/rs data/rs --out embeddings/rs --engine ray
    """
    if backbone:
        needs, count = "a DATASET alone with --backbone", 1
    else:
        needs, count = "a RUN and a DATASET", 2
    if len(paths) != count:
        raise UsageError(f"embed: needs {needs}, got {len(paths)} paths", fix="see `setclip embed --help`")
    for flag, given in {"--weights": weights != "auto", "--pooling": pooling != "default"}.items():
        if given and not backbone:
            raise UsageError(f"{flag}: works only with --backbone; a RUN has its own", fix=f"leave {flag} out")
    if backbone:
        check_raw_features(backbone, pooling, options.modality)  # a slip in a name fails before torch is imported
    from setclip_cli.embedding import embed as embedding

    if backbone:
        result = embedding.embed_backbone(backbone, paths[0], out, weights=weights, pooling=pooling, options=options)
    else:
        result = embedding.embed(paths[0], paths[1], out, options=options)
    show(result, as_json)
