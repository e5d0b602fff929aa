"""Settings of a recipe that are fine alone and wrong together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from setclip_cli.backbones import ROWS_READ_BY
from setclip_cli.backbones.joint import strangers_by_name
from setclip_cli.backbones.weights import parse_spec
from setclip_cli.dataset.modality import KINDS_OF_NAMES, plural, why_not_a_name
from setclip_cli.recipe.presets import STARTING_METHODS, TRAINED_METHODS, TRAINING_FREE_METHODS, pairs_needed
from setclip_cli.recipe.sections import TermWithForms, Tower

if TYPE_CHECKING:
    from collections.abc import Iterator

    from setclip_cli.recipe.sections import Settings


def contradictions(recipe: Settings) -> list[str]:
    """One line for each pair of settings that do not go together, with what to do about it."""
    return [*_of_towers(recipe), *_of_joint_towers(recipe), *_of_training(recipe), *_of_terms(recipe)]


def _of_towers(recipe: Settings) -> Iterator[str]:
    if len(recipe.towers) != 2:
        names = ", ".join(recipe.towers) or "none"
        yield f"towers: two modalities are aligned, found {len(recipe.towers)} ({names})"
    for modality, tower in recipe.towers.items():
        key = f"towers.{modality}"
        if reason := why_not_a_name(modality):
            yield f"{key}: the name of a modality {reason}"
        reads = ROWS_READ_BY[parse_spec(tower.backbone).kind]
        if modality in KINDS_OF_NAMES and KINDS_OF_NAMES[modality] not in reads:
            yield f"{key}.backbone: {tower.backbone!r} reads {' or '.join(map(plural, reads))}, not {modality}s"
        if tower.backbone == "vector":
            yield from _of_vector_tower(recipe, key, tower)
        if tower.in_chans is not None and not tower.backbone.startswith("timm:"):
            yield f"{key}.in_chans: {tower.backbone!r} does not read images of bands; timm: backbones do"
        if tower.band_scale is not None and tower.in_chans is None:
            yield f"{key}.band_scale: it scales the bands of images, and {key}.in_chans is left out; set it, or auto"
        if tower.layer == 0:
            yield f"{key}.layer = 0: layers count from 1, or from the last, which is -1"
        if tower.layer == "best" and recipe.pairs == 0:
            yield f"{key}.layer = 'best': this is measured on known pairs, and pairs = 0"
        may_read_videos = modality not in KINDS_OF_NAMES and tower.backbone.startswith("timm:")  # see check_tower
        if tower.frozen and tower.pooling == "attention" and not may_read_videos:
            yield f"{key}.pooling = 'attention': its query has to be trained, and the tower is frozen"


def _of_vector_tower(recipe: Settings, key: str, tower: Tower) -> Iterator[str]:
    """Settings of a backbone have no meaning for stored vectors."""
    unread = ("weights", "pooling", "layer", "trainable", "gradient_checkpointing")
    for name in unread:
        if (value := getattr(tower, name)) != Tower.model_fields[name].default:
            yield f"{key}.{name} = {value!r}: the features are stored vectors, so there is no model; leave {name} out"
    if recipe.objective.self_supervised.views:
        yield f"objective.self_supervised.views: {key} has stored vectors, which have no augmented views; leave it out"
    if any(other.layer == "best" for other in recipe.towers.values()):
        yield f"{key}: layer = 'best' compares the layers of two models, and stored vectors have none; give a number"


def _of_joint_towers(recipe: Settings) -> Iterator[str]:
    if not recipe.joint:
        return
    strangers = [modality for modality, tower in recipe.towers.items() if not tower.joint]
    for modality in strangers:
        yield f"towers.{modality}.joint = false: the other tower is joint; set joint for both towers, or for none"
    if recipe.method not in STARTING_METHODS:
        yield (
            f"joint = true: method {recipe.method!r} does not start from embeddings that are aligned already; "
            f"choose one of {', '.join(STARTING_METHODS)}"
        )
    for modality, tower in recipe.towers.items():
        key = f"towers.{modality}"
        if tower.layer == "best":
            yield f"{key}.layer = 'best': joint towers have a fixed layer"
        elif recipe.init_from is None and tower.joint:
            if tower.layer != -1:
                yield f"{key}.layer = {tower.layer}: only the last layer of a joint model leads into its space"
            if tower.pooling != "default":
                yield f"{key}.pooling = {tower.pooling!r}: only its own pooling leads into the space of a joint model"
    if recipe.init_from is None and not strangers and len(recipe.towers) == 2:
        backbones = [tower.backbone for tower in recipe.towers.values()]
        if problem := strangers_by_name(*backbones):
            yield problem


def _of_training(recipe: Settings) -> Iterator[str]:
    tuned = next((modality for modality, tower in recipe.towers.items() if not tower.frozen), None)
    if tuned and recipe.method in TRAINING_FREE_METHODS:
        yield f"towers.{tuned}.trainable: method {recipe.method!r} does not train, so all towers have to be frozen"
    if tuned and recipe.ensemble > 1:
        yield f"ensemble = {recipe.ensemble}: heads can share frozen towers only, and towers.{tuned} is tuned"
    if recipe.ensemble_distil and recipe.ensemble == 1:
        yield "ensemble_distil: this needs an ensemble of 2 or more, and ensemble = 1"
    if recipe.validation.every and recipe.ensemble > 1:
        yield f"ensemble = {recipe.ensemble}: validation.every stops one training, not several in a row"
    yield from _of_goal(recipe, tuned)
    needed = pairs_needed(recipe.method, joint=recipe.joint)
    if isinstance(recipe.pairs, int) and recipe.pairs < needed:
        yield (
            f"pairs = {recipe.pairs}: method {recipe.method!r} learns from pairs alone and needs {needed} or more; "
            "set-clip-plus needs none"
        )
    if recipe.projection.nested:
        yield from _of_nested_heads(recipe, recipe.projection.nested)
    if recipe.projection.dim == 1 and recipe.projection.kind == "mlp":
        yield "projection.dim = 1: an mlp head ends in a layer norm, which makes one value 0; give 2 or more"


def _of_nested_heads(recipe: Settings, widths: list[int]) -> Iterator[str]:
    """Only one trained head has narrower embeddings within its own."""
    key = f"projection.nested = {widths}"
    if widths != sorted(set(widths)) or widths[-1] != recipe.projection.dim:
        yield f"{key}: widths have to rise up to projection.dim, which is {recipe.projection.dim}"
    if widths[0] == 1:
        yield f"{key}: a unit row of one value is 1 or -1; start with 2 or more"
    if recipe.method == "auto":
        yield f"{key}: method 'auto' may choose a method without heads; name one, such as method = 'set-clip-plus'"
    elif recipe.method in TRAINING_FREE_METHODS:
        yield f"{key}: method {recipe.method!r} trains no heads; leave it out, or choose set-clip-plus"
    if recipe.pairs == 0 and recipe.method == "set-clip-plus" and not recipe.joint:
        yield f"{key}: with pairs = 0 method 'set-clip-plus' matches the features and trains no heads; leave it out"
    if recipe.joint:
        yield f"{key}: joint towers keep the width of the embeddings that they start from; leave it out"
    if recipe.ensemble > 1:
        yield f"ensemble = {recipe.ensemble}: heads side by side have no nested widths; leave one of the two out"
    for name, share in recipe.extra_encoders.model_dump().items():
        if share:
            yield f"extra_encoders.{name} = {share}: it has no nested widths; leave it or projection.nested out"


def _of_goal(recipe: Settings, tuned: str | None) -> Iterator[str]:
    if recipe.goal == "auto":
        return
    if recipe.method != "auto":
        yield f"goal = {recipe.goal!r}: method {recipe.method!r} is chosen already; leave one of the two out"
    elif recipe.goal == "partner" and recipe.pairs == 0 and not recipe.joint:
        yield "goal = 'partner': with pairs = 0 nothing says which item is whose partner; give pairs, or goal = 'kind'"
    elif recipe.goal == "partner" and tuned:
        yield f"goal = 'partner': method 'transport' fits frozen features, and towers.{tuned} is tuned"


def _of_terms(recipe: Settings) -> Iterator[str]:
    active = recipe.objective.active()
    for name, term in active.items():
        key = f"objective.{name}"
        if term.end_step is not None and term.end_step <= term.start_step:
            yield f"{key}: end_step ({term.end_step}) must be after start_step ({term.start_step})"
        if isinstance(term, TermWithForms) and term.form == "published":
            # The user gave a key that differs from its default: no preset sets one of these.
            given = (s for s in term.fixed_when_published if getattr(term, s) != type(term).model_fields[s].default)
            for setting in given:
                yield (
                    f"{key}.{setting} = {getattr(term, setting)!r}: form = 'published' has a fixed value of its own; "
                    f"leave {setting} out, or set {key}.form = 'stable'"
                )
    weights = ", ".join(f"objective.{name}.weight" for name in active)
    if recipe.method in TRAINED_METHODS and not active:
        yield f"objective: every term has weight 0, so method {recipe.method!r} has nothing to train"
    if recipe.method == "auto" and active:
        yield (
            f"{weights}: method 'auto' brings the weights of the method that it chooses; "
            "name one, such as method = 'set-clip-plus'"
        )
    if recipe.method in TRAINING_FREE_METHODS and active:
        yield f"{weights}: method {recipe.method!r} does not train, so no term can have a weight"
