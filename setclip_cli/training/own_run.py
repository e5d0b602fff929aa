"""A RUN that a command keeps in its own folder, such as a baseline: if its files have changed, it is made again."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from setclip_cli.console import note
from setclip_cli.errors import SetClipError
from setclip_cli.files import atomic
from setclip_cli.files.write_errors import WriteError
from setclip_cli.run.folder import damage
from setclip_cli.training.align import align

if TYPE_CHECKING:
    from pathlib import Path

    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.recipe.recipe import Recipe
    from setclip_cli.training.align import AlignResult


def align_own(recipe: Recipe, dataset: Dataset, run: Path) -> AlignResult:
    """`align` that goes on where it stopped. A RUN with changed files is removed, with a note, and made again.

    Raises:
        SetClipError: as `align` does.
    """
    try:
        return _align(recipe, dataset, run)
    except WriteError:
        raise
    except SetClipError:
        problem = damage(run)
        if not problem:
            raise
    note(f"note: {problem}; this RUN is made again")
    atomic.remove_folder(run)
    return _align(recipe, dataset, run)


def _align(recipe: Recipe, dataset: Dataset, run: Path) -> AlignResult:
    """Goes on where it stopped, and frees the backbones at the end.

    A model of sentence-transformers refers to itself. So its weights would stay in memory until Python happens to look
    for such circles, and a command that aligns many RUNs would hold those of each.
    """
    result = align(recipe, dataset, run, resume=True)
    if not result.reused:
        gc.collect()
    return result
