"""The towers that read a DATASET when no RUN and no recipe says which: small ones, by the kind of the rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from setclip_cli.dataset.band_scale import bands_of_rows
from setclip_cli.errors import SetClipError, UsageError, argument
from setclip_cli.recipe.recipe import Recipe

if TYPE_CHECKING:
    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.dataset.modality import Modality, RowKind

BACKBONES: dict[RowKind, str] = {
    "protein": "esm:esm2_t6_8M_UR50D",
    "image": "timm:tf_efficientnet_lite0",
    "text": "sentence-transformers:all-MiniLM-L6-v2",
    "vector": "vector",
    "video": "timm:tf_efficientnet_lite0",
}


def recipe_for(dataset: Dataset, split: str) -> Recipe:
    """A recipe of two towers that fit the rows of a split; the first modality of the DATASET is the left side.

    Raises:
        SetClipError: the DATASET does not have two modalities.
        UsageError: it has more than two.
    """
    names = dataset.modalities()
    if len(names) < 2:
        raise SetClipError(
            f"{dataset.root}: has {len(names)} modalit{'y' if names else 'ies'}, {', '.join(names) or 'none'}, "
            "and this compares two",
            fix=f"add the other side: setclip ingest SOURCE --modality NAME --out {dataset.root}",
        )
    if len(names) > 2:
        raise UsageError(
            f"{dataset.root}: has {len(names)} modalities, {', '.join(names)}, and this compares two",
            fix=f"name the two sides with {argument('recipe')}, a recipe with a tower for each",
        )
    return Recipe.model_validate(
        {
            "schema_version": 2,
            "method": "transport",
            "towers": {name: _tower(dataset, name, split) for name in names},
            "train": {"split": split},
        }
    )


def _tower(dataset: Dataset, name: Modality, split: str) -> dict[str, Any]:
    tower: dict[str, Any] = {"backbone": BACKBONES[dataset.kind(name)]}
    if dataset.kind(name) == "image" and bands_of_rows(dataset, name, split) is not None:
        tower["in_chans"] = "auto"
    return tower
