"""The bands of a tower's images and their scale: what the recipe says, compared with the rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from setclip_cli.dataset.band_scale import band_scale, bands_of_rows
from setclip_cli.errors import UsageError
from setclip_cli.pixels.bands import BandScale
from setclip_cli.remote.copies import local_path
from setclip_cli.run.config import load_config

if TYPE_CHECKING:
    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.dataset.modality import Modality
    from setclip_cli.recipe.recipe import Recipe


def tower_bands(recipe: Recipe, dataset: Dataset, modality: Modality) -> BandScale | None:
    """How the bands of the training rows are scaled for a tower; None for pictures and other rows.

    A RUN in ``init_from`` decides it, if there is one: its weights know no other scale.

    Raises:
        SetClipError: the rows are not what the recipe says, or differ in their number of bands.
    """
    tower, split = recipe.towers[modality], recipe.train.split
    key = f"towers.{modality}.in_chans"
    found = bands_of_rows(dataset, modality, split)
    if tower.in_chans is None:
        if found is not None:
            raise UsageError(
                f"{dataset.root}: its {modality} rows are images of {found} bands, and without {key} the tower reads "
                "pictures of three colours",
                fix=f"--set {key}={found}, or ingest three of the bands as pictures with --bands R,G,B",
            )
        return None
    scale = band_scale(dataset, modality, split)
    bands = len(scale.mean)
    if tower.in_chans not in ("auto", bands):
        raise UsageError(
            f"{key} = {tower.in_chans}: the {modality} rows of {dataset.root} are images of {bands} bands",
            fix=f"--set {key}={bands}, or ingest the scenes again with other --bands",
        )
    if tower.band_scale is not None:
        return BandScale((0.0,) * bands, (tower.band_scale,) * bands)
    start = None if recipe.init_from is None else load_config(local_path(recipe.init_from)).towers.get(modality)
    earlier = None if start is None else start.bands
    return earlier if earlier is not None and len(earlier.mean) == bands else scale
