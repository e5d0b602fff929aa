"""`setclip align`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from setclip_cli.cli.output import AsJson, show


def align(
    recipe: Annotated[Path, typer.Argument(help="A TOML recipe: a file, or a name that `setclip recipes` lists.")],
    data: Annotated[str, typer.Option(path_type=str, help="The DATASET to train on.")],
    out: Annotated[str, typer.Option(path_type=str, help="The RUN folder to write.")],
    overrides: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the recipe; repeatable.")
    ] = [],
    drop_suspect: Annotated[
        bool,
        typer.Option(
            "--drop-suspect",
            help="Leave out known pairs that are likely wrong, and list them in the RUN (drop_suspect = auto).",
        ),
    ] = False,
    features: Annotated[
        list[str],
        typer.Option(
            metavar="EMBEDDINGS",
            help="Features that `setclip embed --backbone` made of this DATASET; repeatable, one for a side. They are "
            "not computed again.",
        ),
    ] = [],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the RUN's last checkpoint.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check recipe, data and weights, print the plan, train nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train on a DATASET and write a RUN: the heads of two backbones, from unpaired rows and the known pairs.

    Examples:

      setclip align remote_sensing_caption --data data/rs --out runs/rs --dry-run

      setclip align remote_sensing_caption --data data/rs --out runs/rs --set pairs=21 --set seed=1
    """
    from setclip_cli.recipe.recipe import load_recipe

    changed = [*overrides, 'drop_suspect="auto"'] if drop_suspect else overrides
    settings = load_recipe(recipe, changed)  # a bad recipe fails before torch is imported
    from setclip_cli.dataset.dataset import open_dataset

    dataset = open_dataset(data)
    if dry_run:
        from setclip_cli.training.dry_run import plan_align

        planned = plan_align(settings, dataset, out, features=features)
        show(planned, as_json)
        return
    from setclip_cli.training.align import align as run

    result = run(settings, dataset, out, resume=resume, features=features)
    show(result, as_json)
