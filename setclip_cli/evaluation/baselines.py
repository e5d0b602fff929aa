"""What a user would try instead, fitted beside a RUN: same features, same pairs, same seeds, another method."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from setclip_cli.errors import SetClipError
from setclip_cli.evaluation import targets
from setclip_cli.files import atomic

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.evaluation.targets import Target

DEFAULT = ("clip", "asif", "cca", "procrustes")


def fit(opened: Sequence[Target], dataset: Dataset, out: Path, methods: Sequence[str]) -> tuple[list[Target], str]:
    """Aligns each method with the recipe of the first RUN, once for each seed it was given with.

    A baseline that is there already is used again. Methods that are among the targets are not fitted a second time.

    Returns:
        The fitted RUNs, and why there are none where that is so.
    """
    missing = [method for method in methods if method not in {target.method for target in opened}]
    if not missing:
        return [], "" if methods else "left out as asked for"
    first = opened[0]
    if first.kind != "run":
        return [], f"{first.name} holds embeddings alone: there is no recipe to fit them with"
    from setclip_cli.recipe.recipe import load_recipe
    from setclip_cli.run.model import load_config
    from setclip_cli.training.align import align

    config = load_config(first.path)
    if not config.pairs:
        return [], f"{first.name} was aligned without pairs, and baselines learn from pairs alone"
    if config.dataset_sha256 != atomic.sha256_file(dataset.root / "dataset.json"):
        return [], f"{first.name} was aligned on another dataset, whose pairs are not known here"
    names = targets.group_names(opened)
    peers = [target for target in opened if names[target.name] == names[first.name]]
    found: list[Target] = []
    for method in missing:
        for peer in peers:
            try:
                recipe = load_recipe(peer.path / "recipe.toml").with_settings(method=method)
                settings = hashlib.sha256(recipe.to_toml().encode()).hexdigest()[:8]
                place = out / settings / f"{method}-{peer.seed}"  # another recipe does not meet this one's RUN
                align(recipe, dataset, place, resume=True)
            except SetClipError as error:
                return found, f"{method} could not be fitted: {' '.join(error.problem.split())}"
            found.append(replace(targets.open_targets([place])[0], baseline=True))
    return found, ""
