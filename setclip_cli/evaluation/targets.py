"""What is evaluated: a RUN or an EMBEDDINGS folder, brought into the order of the test set."""

from __future__ import annotations

import tomllib
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from setclip_cli.dataset.modality import MODALITIES
from setclip_cli.errors import ExitCode, SetClipError
from setclip_cli.evaluation.zero_shot import unit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from setclip_cli.backbones.base import Backbone
    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.dataset.modality import Modality
    from setclip_cli.evaluation.test_set import Side, TestSet

    Embeddings = npt.NDArray[np.float32]
    Sides = tuple[Embeddings, Embeddings]  # left, right

RUN_MARK, EMBEDDINGS_MARK = "config.json", "embeddings.json"


@dataclass(frozen=True)
class Target:
    """One thing to score.

    Attributes:
        name: Its folder's name, made unique.
        method: What made it, or its name when that is not known.
        recipe: The resolved recipe of a RUN, empty for EMBEDDINGS.
        baseline: Fitted by the evaluation itself, beside what was asked for.
    """

    name: str
    path: Path
    kind: Literal["run", "embeddings"]
    method: str
    seed: int | None
    recipe: dict[str, Any]
    modalities: tuple[Modality, Modality]
    baseline: bool = False


def open_targets(paths: Sequence[Path]) -> list[Target]:
    """Looks at every path before anything is computed.

    Raises:
        SetClipError: a path is neither a finished RUN nor EMBEDDINGS, is given twice, or they embed other modalities.
    """
    repeated = [path for path, times in Counter(path.resolve() for path in paths).items() if times > 1]
    if repeated:
        raise SetClipError(
            f"{repeated[0]}: is given more than once", fix="name each RUN once", exit_code=ExitCode.USAGE
        )
    targets = [_open(path) for path in paths]
    for target in targets:
        if target.modalities != targets[0].modalities:
            ours, theirs = (" and ".join(one.modalities) for one in (target, targets[0]))
            raise SetClipError(
                f"{target.path}: embeds {ours}, {targets[0].path} embeds {theirs}",
                fix="evaluate them one by one",
                exit_code=ExitCode.USAGE,
            )
    names = Counter(target.name for target in targets)
    seen: Counter[str] = Counter()
    for place, target in enumerate(targets):
        if names[target.name] > 1:
            seen[target.name] += 1
            targets[place] = replace(target, name=f"{target.name}-{seen[target.name]}")
    return targets


def _open(path: Path) -> Target:
    if not path.is_dir():
        raise SetClipError(
            f"{path}: no such folder", fix="give a RUN of `setclip align` or EMBEDDINGS of `setclip embed`"
        )
    if (path / EMBEDDINGS_MARK).exists():
        return _open_embeddings(path)
    from setclip_cli.run.model import load_config

    config = load_config(path)
    recipe = tomllib.loads((path / "recipe.toml").read_text(encoding="utf-8"))
    left, right = (modality for modality in MODALITIES if modality in config.towers)
    return Target(path.name or path.resolve().name, path, "run", config.method, config.seed, recipe, (left, right))


def _open_embeddings(path: Path) -> Target:
    from setclip_cli.embedding.embeddings import open_embeddings

    opened = open_embeddings(path)
    found = [modality for modality in MODALITIES if modality in opened.modalities()]
    if len(found) != 2:
        raise SetClipError(
            f"{path}: holds embeddings of {' and '.join(found) or 'nothing'}; a report compares two modalities",
            fix=f"setclip embed RUN DATASET --out {path}, without --modality",
        )
    if {tower.encoder is None for tower in opened.index.towers.values()} != {False}:
        raise SetClipError(
            f"{path}: holds raw features of backbones, which share no space",
            fix=f"setclip embed RUN DATASET --out {path}",
        )
    name = path.name or path.resolve().name
    return Target(name, path, "embeddings", opened.index.method, None, {}, (found[0], found[1]))


def absent_rows(targets: Sequence[Target], split: str) -> dict[str, set[str]]:
    """Modality -> ids that an EMBEDDINGS folder lists as not embedded; nobody is scored on them."""
    from setclip_cli.embedding.embeddings import open_embeddings

    absent: dict[str, set[str]] = {}
    for target in targets:
        if target.kind == "embeddings":
            for shard in open_embeddings(target.path).index.shards:
                if shard.split == split:
                    absent.setdefault(shard.modality, set()).update(shard.bad)
    return absent


def embeddings_of(
    target: Target, dataset: Dataset, test: TestSet, backbones: dict[str, Backbone]
) -> tuple[Sides, Sides | None]:
    """Both sides' embeddings in the order of the test set, and those of a RUN's encoders before training.

    A RUN's frozen features come from the cache that training filled, so comparing many RUNs runs each backbone once.

    Args:
        backbones: Those loaded so far, by their identity; added to.

    Raises:
        SetClipError: rows are missing, not finite, or the two sides do not share one space.
    """
    if target.kind == "run":
        return _of_run(target, dataset, test, backbones)
    from setclip_cli.embedding.embeddings import open_embeddings

    opened = open_embeddings(target.path)
    left, right = (
        _in_order(target.path, table.ids, table.embeddings, side)
        for side in (test.left, test.right)
        for table in [opened.load(side.modality, test.split)]
    )
    if left.shape[1] != right.shape[1]:
        raise SetClipError(
            f"{target.path}: embeddings are {left.shape[1]} wide for {test.left.modality} rows, {right.shape[1]} for "
            f"{test.right.modality} rows: they do not share a space",
            fix="evaluate the EMBEDDINGS of one RUN, not the features of two backbones",
        )
    return (left, right), None


def _of_run(target: Target, dataset: Dataset, test: TestSet, backbones: dict[str, Backbone]) -> tuple[Sides, Sides]:
    import torch

    from setclip_cli.features.frozen import frozen_features
    from setclip_cli.run.model import load_model

    model = load_model(target.path)
    moments = []
    for side in (test.left, test.right):
        tower, of_side = model.config.towers[side.modality], []
        for identity, encoders, initial in (
            (tower.trained_identity, model.encoders, False),
            (tower.identity, model.initial, True),
        ):
            if identity not in backbones:
                backbones[identity] = model.load_backbone(side.modality, initial=initial)
            table = frozen_features(backbones[identity], dataset, side.modality, test.split)
            with torch.inference_mode():
                rows = encoders[side.modality](table.features).float().cpu().numpy()
            of_side.append(_in_order(target.path, table.ids, rows, side))
        moments.append(of_side)
    (left_after, left_before), (right_after, right_before) = moments
    return (left_after, right_after), (left_before, right_before)


def _in_order(path: Path, ids: Sequence[str], embeddings: Embeddings, side: Side) -> Embeddings:
    """Embeddings in the order of the test set, as unit vectors.

    A backbone may round the same caption differently in another batch. Rows of one payload get one embedding here, so
    that they tie exactly and the order of a file decides nothing.
    """
    at = {name: row for row, name in enumerate(ids)}
    missing = [name for name in side.ids if name not in at]
    if missing:
        raise SetClipError(
            f"{path}: lacks {len(missing)} of the dataset's {len(side.ids)} {side.modality} rows, first {missing[0]!r}",
            fix="embed this dataset and split again",
        )
    rows = np.ascontiguousarray(embeddings[[at[side.ids[row]] for row in side.first_alike()]], np.float32)
    broken = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(broken):
        raise SetClipError(
            f"{path}: {len(broken)} {side.modality} embeddings hold NaN or inf, first {side.ids[broken[0]]!r}",
            fix="find the rows in the source, or train again with a lower learning rate",
        )
    return unit(rows)


def group_names(targets: Sequence[Target]) -> dict[str, str]:
    """Target name -> what it is averaged with: RUNs of one recipe that differ in the seed alone share a name.

    A group is named after its method; where two groups share one, the settings that tell them apart are added.
    """
    settings = {target.name: _settings(target) for target in targets}
    names = {}
    for target in targets:
        rivals = [
            settings[other.name]
            for other in targets
            if other.method == target.method and settings[other.name] != settings[target.name]
        ]
        own = settings[target.name]
        telling = sorted(
            key for key in {*own}.union(*rivals) if any(own.get(key) != rival.get(key) for rival in rivals)
        )
        details = ", ".join(f"{key}={own[key]}" for key in telling if key in own)
        names[target.name] = f"{target.method} ({details or target.name})" if rivals else target.method
    return names


def _settings(target: Target) -> Mapping[str, Any]:
    """Everything but the seed, as dotted keys; EMBEDDINGS are only like themselves."""
    if target.kind == "embeddings":
        return {"embeddings": target.name}
    flat: dict[str, Any] = {}
    stack: list[tuple[str, Any]] = [("", {key: value for key, value in target.recipe.items() if key != "seed"})]
    while stack:
        prefix, value = stack.pop()
        if isinstance(value, dict):
            stack += [(f"{prefix}.{key}" if prefix else key, inner) for key, inner in value.items()]
        else:
            flat[prefix] = value
    return flat
