"""The models to score, each a RUN or an EMBEDDINGS folder, and which of them are averaged."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from setclip_cli.embedding.embeddings import open_embeddings
from setclip_cli.encoders import nested_widths
from setclip_cli.errors import SetClipError, UsageError
from setclip_cli.files.documents import read_toml
from setclip_cli.places import named
from setclip_cli.run.config import RECIPE_NAME, identity_of, load_config, require_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from setclip_cli.dataset.modality import Modality

EMBEDDINGS_NAME = "embeddings.json"  # marks an EMBEDDINGS folder
_EMBEDDINGS = "embeddings"  # the one setting of EMBEDDINGS


@dataclass(frozen=True)
class ModelFolder:
    """One model to score.

    Attributes:
        name: The folder's name, made unique.
        method: The method that made it.
        seed: The seed of a RUN; None for EMBEDDINGS.
        recipe: The resolved recipe of a RUN; empty for EMBEDDINGS.
        baseline: Whether the evaluation aligned it for comparison.
        nested: Widths at which the first values of its embeddings are embeddings too.
        identity: Equal if the embeddings are equal, wherever the folder is.
    """

    name: str
    path: Path
    kind: Literal["run", "embeddings"]
    method: str
    seed: int | None
    recipe: dict[str, Any]
    modalities: tuple[Modality, Modality]
    baseline: bool = False
    nested: tuple[int, ...] = ()
    identity: str = ""


def open_model_folders(paths: Sequence[Path]) -> list[ModelFolder]:
    """Checks every folder before anything is computed.

    Raises:
        SetClipError: a path is neither a finished RUN nor EMBEDDINGS, two are the same or copies of each other, or they
            embed other modalities.
    """
    repeated = [path for path, times in Counter(path.resolve() for path in paths).items() if times > 1]
    if repeated:
        raise UsageError(f"{repeated[0]}: is given more than once", fix="give each folder once")
    models = [_open_folder(path) for path in paths]
    _refuse_copies(models)
    order = next((model.modalities for model in models if model.kind == "run"), models[0].modalities)
    for number, model in enumerate(models):  # EMBEDDINGS do not say which side is the left one
        if model.kind == "embeddings" and {*model.modalities} == {*order}:
            models[number] = replace(model, modalities=order)
    for model in models:
        if model.modalities != models[0].modalities:
            these, first = (" and ".join(one.modalities) for one in (model, models[0]))
            raise UsageError(
                f"{model.path}: embeds {these}, but {models[0].path} embeds {first}", fix="evaluate them one by one"
            )
    names = Counter(model.name for model in models)
    seen: Counter[str] = Counter()
    for number, model in enumerate(models):
        if names[model.name] > 1:
            seen[model.name] += 1
            models[number] = replace(model, name=f"{model.name}-{seen[model.name]}")
    return models


def _refuse_copies(models: Sequence[ModelFolder]) -> None:
    """Refuses two folders with the same model: they would count as two seeds, or as two models of the same quality."""
    first: dict[tuple[str, str], ModelFolder] = {}
    for model in models:
        other = first.setdefault((model.kind, model.identity), model)
        if other is model:
            continue
        if model.kind == "run":
            problem = f"{model.path}: is the same RUN as {other.path} (method {model.method}, seed {model.seed})"
        else:
            problem = f"{model.path}: has the embeddings of the same model as {other.path}, of the same type and width"
        raise UsageError(problem, fix="give only one of the two; to average over seeds, align with another seed")


def _open_folder(path: Path) -> ModelFolder:
    if not path.is_dir():
        raise SetClipError(
            f"{path}: no such folder", fix="give a RUN of `setclip align` or EMBEDDINGS of `setclip embed`"
        )
    name = path.name or path.resolve().name
    if (place := named(path)).startswith("hub:"):  # the folder is called by its commit
        name = place.partition("@")[0].rpartition("/")[2].removeprefix("hub:")
    if (path / EMBEDDINGS_NAME).exists():
        return _open_embeddings_folder(path, name)
    config = load_config(path)
    require_file(path, config, RECIPE_NAME)
    recipe = read_toml(path / RECIPE_NAME)
    left, right = config.modalities()
    widths = _shared_widths(config.towers[side].encoder for side in (left, right))
    return ModelFolder(
        name,
        path,
        "run",
        config.method,
        config.seed,
        recipe,
        (left, right),
        nested=widths,
        identity=identity_of(path, config),
    )


def _open_embeddings_folder(path: Path, name: str) -> ModelFolder:
    opened = open_embeddings(path)
    found = opened.modalities()
    if len(found) != 2:
        raise SetClipError(
            f"{path}: holds embeddings of {' and '.join(found) or 'nothing'}, and a report compares two modalities",
            fix=f"setclip embed RUN DATASET --out {path}, without --modality",
        )
    if any(tower.encoder is None for tower in opened.index.towers.values()):
        raise SetClipError(
            f"{path}: holds raw features of backbones, which do not share a space",
            fix=f"setclip embed RUN DATASET --out {path}",
        )
    described = [tower.encoder for tower in opened.index.towers.values() if tower.encoder is not None]
    widths = tuple(width for width in _shared_widths(described) if width <= opened.index.dim)
    return ModelFolder(
        name,
        path,
        "embeddings",
        opened.index.method,
        None,
        {},
        (found[0], found[1]),
        nested=widths,
        identity=opened.index.settings().model_dump_json(),
    )


def _shared_widths(encoders: Iterable[dict[str, Any]]) -> tuple[int, ...]:
    """The nested widths that the encoders of both sides have."""
    left, right = map(nested_widths, encoders)
    return tuple(width for width in left if width in right)


def averaged_names(models: Sequence[ModelFolder]) -> dict[str, str]:
    """Model name -> the name that it shares with the models that it is averaged with.

    RUNs whose recipes differ in the seed alone share a name: that of their method. If recipes of one method differ in
    more, the settings that differ are added to the name; EMBEDDINGS have no settings, and differ by their name alone.
    """
    settings = {model.name: _settings_without_seed(model) for model in models}
    names = {}
    for model in models:
        own = settings[model.name]
        rivals = [
            settings[other.name]
            for other in models
            if other.method == model.method and settings[other.name] != own
        ]  # fmt: skip
        recipes = [rival for rival in rivals if _EMBEDDINGS not in rival or _EMBEDDINGS in own]
        differing = sorted(
            key for key in {*own}.union(*recipes) if any(own.get(key) != rival.get(key) for rival in recipes)
        )
        details = ", ".join(f"{key}={own[key]}" for key in differing if key in own)
        names[model.name] = f"{model.method} ({details or model.name})" if rivals else model.method
    return names


def _settings_without_seed(model: ModelFolder) -> Mapping[str, Any]:
    """The recipe as dotted keys. EMBEDDINGS have no recipe, so each of them differs from all others."""
    if model.kind == "embeddings":
        return {_EMBEDDINGS: model.name}
    flat: dict[str, Any] = {}
    stack: list[tuple[str, Any]] = [("", {key: value for key, value in model.recipe.items() if key != "seed"})]
    while stack:
        prefix, value = stack.pop()
        if isinstance(value, dict):
            stack += [(f"{prefix}.{key}" if prefix else key, inner) for key, inner in value.items()]
        else:
            flat[prefix] = value
    return flat
