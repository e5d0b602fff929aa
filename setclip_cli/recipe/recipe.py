"""The recipe: one TOML file an experiment, read into typed sections. Each default is written once, here.

`load_recipe` reads, overrides, fills in the method's preset and validates, and reports every mistake at once.
"""

from __future__ import annotations

import tomllib
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tomli_w
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from setclip_cli import defaults
from setclip_cli.console import note
from setclip_cli.dataset.modality import MODALITIES, Modality
from setclip_cli.errors import ExitCode, SetClipError, nearest
from setclip_cli.recipe.renamed import KEYS, renamed

Method = Literal[
    "auto",
    "set-clip-plus",
    "set-clip",
    "set-clip-published",
    "clip",
    "s-clip",
    "asif",
    "asif-graph",
    "cca",
    "procrustes",
    "ridge",
]
TRAINED_METHODS: tuple[Method, ...] = ("set-clip-plus", "set-clip", "set-clip-published", "clip", "s-clip")
TRAINING_FREE_METHODS: tuple[Method, ...] = ("asif", "asif-graph", "cca", "procrustes", "ridge")

PRESETS: dict[Method, dict[str, dict[str, Any]]] = {
    # Weights only: what a term does is set in its section. The reasons are measured: benchmarks/results.md.
    "set-clip-plus": {
        # Few pairs push items of one kind apart: 2 points of mAP less at 70 with the whole weight. At 600 it pays.
        "clip": {"weight": 1.0, "full_weight_at_pairs": 700},
        "sdd": {"weight": 0.3},  # flat from 0.1 to 3 beside a structure term
        "neighbourhood": {"weight": 0.3},  # the structure term: without one, equal densities are worth nothing
        "teacher": {"weight": 1.0, "end_step": 100},  # throughout it costs mAP at 7 pairs and adds little at 70
    },
    # The paper's four terms (arXiv 2406.05766) with the stable density term.
    "set-clip": {
        "clip": {"weight": 1.0},
        "sdd": {"weight": 0.3},
        "mk_mmd": {"weight": 1.0},
        "self_supervised": {"weight": 0.3},
    },
    # The released weights and forms (repository cauchy-max/Set-CLIP, commit cc575d7): an oracle, not a recommendation.
    "set-clip-published": {
        "clip": {"weight": 1.0, "form": "published"},
        "sdd": {"weight": 0.7, "form": "published"},
        "mk_mmd": {"weight": 0.2, "form": "published"},
        "self_supervised": {"weight": 0.15, "form": "published"},
    },
    "clip": {"clip": {"weight": 1.0}},
    "s-clip": {"clip": {"weight": 1.0}, "s_clip": {"weight": 1.0}},
}
# Likewise of the other sections.
SECTION_PRESETS: dict[Method, dict[str, dict[str, Any]]] = {
    "set-clip-plus": {
        # linear: CCA is as good as the heads from some hundred pairs on; diffused: 3 to 5 points of mAP up to 70 pairs;
        # shifted: 1 to 4 of mAP with any number
        "extra_encoders": {"linear": 0.3, "diffused": 0.7, "shifted": 0.5},
        "train": {"balance": True},  # 2 points of mAP where class counts differ between the sides, none where not
    },
    "set-clip-published": {"train": {"batch": 42, "pairs_per_batch": 22}},  # as released: 64 rows, 22 of them pairs
}


# What a user changes of it under auto, such as extra_encoders.shifted = 0, holds for the default among the candidates.
SECTION_PRESETS["auto"] = SECTION_PRESETS["set-clip-plus"]


class RecipeError(SetClipError):
    """A recipe that is not valid.

    Attributes:
        mistakes: Unknown keys and values that are wrong by themselves.
        contradictions: Settings that are fine alone and wrong together.
    """

    def __init__(self, source: str, mistakes: list[str], contradictions: list[str]) -> None:
        self.mistakes, self.contradictions = mistakes, contradictions
        problems = mistakes + contradictions
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(
            "\n".join([f"{source}: {count} in the recipe", *(f"  - {problem}" for problem in problems)]),
            fix="correct the keys named above; `setclip align RECIPE --data DATASET --out RUN --dry-run` checks again",
            exit_code=ExitCode.USAGE,
        )


class Section(BaseModel):
    """A table of the recipe: unknown keys and wrong types are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Tower(Section):
    """One modality's backbone and how it is used."""

    backbone: Annotated[str, Field(pattern=r"^(esm|timm|sentence-transformers):.+")]
    weights: str = "auto"  # auto | a path | package:NAME | hub
    pooling: str = "default"  # the backbone's own; esm: mean | cls; timm: avg | cls; text: mean | cls; tuned: attention
    layer: int | Literal["best"] = -1  # whose features: -1 the last block, 1 the first; best is measured on known pairs
    trainable: Annotated[str, Field(pattern=r"^(frozen|full|lora|last-[1-9]\d*)$")] = "frozen"
    lora_rank: PositiveInt = 8
    gradient_checkpointing: bool = False  # recompute activations in the backward pass: less memory, more time

    @property
    def frozen(self) -> bool:
        return self.trainable == "frozen"


class Projection(Section):
    """The head on each backbone's features."""

    kind: Literal["mlp", "linear"] = "mlp"
    dim: PositiveInt = 256  # width of the head's embeddings; extra encoders and an ensemble add to it
    pca: Annotated[int, Field(ge=0)] = 64  # principal axes kept of the features; 0 keeps them all


class Term(Section):
    """What every term of the objective has: a weight and the steps in which it counts."""

    weight: NonNegativeFloat = 0.0
    start_step: Annotated[int, Field(ge=0)] = 0
    end_step: PositiveInt | None = None  # the first step without the term; None keeps it throughout
    warmup_steps: Annotated[int, Field(ge=0)] = 0  # linear from 0 to the weight


Form = Literal["stable", "published"]  # published: as the authors released it, with settings of its own
# Keys of a term that its published form does not read.
FIXED_WHEN_PUBLISHED = {
    "clip": ("temperature", "learnable_temperature"),
    "sdd": ("bandwidth", "leave_one_out", "queue"),
    "mk_mmd": ("bandwidths", "unbiased"),
    "self_supervised": ("temperature",),
}


class Clip(Term):
    form: Form = "stable"
    # number of known pairs from which the full weight applies; fewer give it less, in proportion, but at least 0.3
    full_weight_at_pairs: Annotated[int, Field(ge=0)] = 0
    temperature: PositiveFloat = defaults.CLIP_TEMPERATURE
    learnable_temperature: bool = False


class Sdd(Term):
    form: Form = "stable"
    # s of exp(-‖x-y‖²/s) on unit vectors, one or several; flat between 0.05 and 0.4, smaller collapses
    bandwidth: PositiveFloat | Annotated[list[PositiveFloat], Field(min_length=1)] = defaults.SDD_BANDWIDTH
    leave_one_out: bool = False  # a point does not count itself: no bias with small batches, no gain in accuracy
    queue: Annotated[int, Field(ge=0)] = 0  # earlier rows, without gradient, that batches are compared with as well


class MkMmd(Term):
    form: Form = "stable"
    bandwidths: list[PositiveFloat] = []  # of the kernels that are summed; none for the median rule
    unbiased: bool = False


class SelfSupervised(Term):
    form: Form = "stable"
    temperature: PositiveFloat = defaults.SELF_SUPERVISED_TEMPERATURE
    noise: PositiveFloat = 1.5  # length of the noise on features of mean length 1 that makes a frozen tower's view
    views: Annotated[int, Field(ge=0)] = 0  # features of this many augmented views are cached and used instead


class Neighbourhood(Term):
    feature_temperature: PositiveFloat = defaults.NEIGHBOURHOOD_TEMPERATURE
    temperature: PositiveFloat = defaults.NEIGHBOURHOOD_TEMPERATURE


class Teacher(Term):
    neighbours: Literal["auto"] | PositiveInt = "auto"  # in the graph; auto: a sixtieth of the pool, 15 to 120
    sharpness: PositiveFloat = defaults.TEACHER_SHARPNESS  # entropic regularisation of the matching


class SClip(Term):
    temperature: PositiveFloat = defaults.CLIP_TEMPERATURE
    regularisation: PositiveFloat = defaults.S_CLIP_REGULARISATION  # of the transport plan


class Objective(Section):
    """The terms of the loss. A weight left out is the preset's of the method, else 0."""

    clip: Clip = Clip()
    sdd: Sdd = Sdd()
    mk_mmd: MkMmd = MkMmd()
    self_supervised: SelfSupervised = SelfSupervised()
    neighbourhood: Neighbourhood = Neighbourhood()
    teacher: Teacher = Teacher()
    s_clip: SClip = SClip()

    def active(self) -> dict[str, Term]:
        """The terms that count in some step, by name."""
        return {name: term for name in type(self).model_fields if (term := getattr(self, name)).weight > 0}


class Train(Section):
    split: str = "train"
    steps: PositiveInt = 300
    batch: Annotated[int, Field(ge=2)] = 64  # as good as 256 and four times cheaper; unpaired rows of each modality
    balance: bool = False  # unpaired rows so that those near each known pair come up as often, on either side
    pairs_per_batch: PositiveInt = 256  # all of them when there are fewer
    chunk: PositiveInt = 64  # rows that a tuned backbone holds activations of; the batch itself may be any size
    checkpoint_every: PositiveInt = 500  # steps
    keep_checkpoints: PositiveInt = 2  # the newest
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # of the towers; losses are always float32
    tf32: bool = False  # TensorFloat-32 for the towers' float32 matrix products on CUDA; losses never
    compile: bool = False  # tuned towers through torch.compile: the first steps take minutes, the others less
    loggers: list[Literal["tensorboard", "wandb", "mlflow"]] = ["tensorboard"]  # beside metrics.jsonl; never weights
    map_every: Annotated[int, Field(ge=0)] = 100  # steps between two maps and histograms in TensorBoard; 0 makes none


class ExtraEncoders(Section):
    """Extra encoders that are combined with the trained heads, each with its share of the cosine."""

    linear: NonNegativeFloat = 0.0  # regularised CCA, where the heads have 1; from 70 pairs on, fewer give it less
    diffused: NonNegativeFloat = 0.0  # heads and CCA averaged along the graph, where they have 1; above 70 pairs less
    shifted: NonNegativeFloat = 0.0  # added to an embedding: its mean shift to where those of both sides are dense


class Optim(Section):
    lr: PositiveFloat = 1e-3  # of the projections
    weight_decay: NonNegativeFloat = 0.01
    backbone_lr: PositiveFloat = 2e-5  # of tuned backbones
    backbone_weight_decay: NonNegativeFloat = 0.01
    schedule: Literal["constant", "cosine", "linear"] = "cosine"  # after the warm-up, down to 0 at the last step
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    clip_norm: PositiveFloat | None = None  # of the whole gradient
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0  # decay of the averaged weights that the RUN keeps; 0 keeps the last


class Validation(Section):
    """Early stopping on held-out rows: by the recall of the split's pairs, or by the density gap without any."""

    split: str = "val"
    every: Annotated[int, Field(ge=0)] = 0  # steps; 0 trains all steps and keeps the last
    patience: PositiveInt = 5  # validations without a better one before training stops


class Recipe(Section):
    """A whole experiment."""

    schema_version: Literal[1]
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    pairs: Literal["all"] | Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)] = "all"
    method: Method = "set-clip-plus"
    init_from: str | None = None  # a RUN of the same towers: start from its weights, as a new training
    ensemble: PositiveInt = 1  # heads trained from as many seeds; their embeddings are concatenated
    ensemble_distil: bool = False  # or one head is trained to have their cosines: as cheap to embed with as one
    towers: dict[Modality, Tower]
    projection: Projection = Projection()
    objective: Objective = Objective()
    extra_encoders: ExtraEncoders = ExtraEncoders()
    train: Train = Train()
    optim: Optim = Optim()
    validation: Validation = Validation()

    @model_validator(mode="before")
    @classmethod
    def _in_the_names_of_today(cls, document: Any) -> Any:
        return renamed(document)[0] if isinstance(document, dict) else document

    def modalities(self) -> tuple[Modality, Modality]:
        """(left, right): the two towers in the order of ``MODALITIES``."""
        left, right = (modality for modality in MODALITIES if modality in self.towers)
        return left, right

    def with_settings(self, **settings: Any) -> Recipe:
        """A copy with top-level settings changed; a new method brings its own preset.

        Raises:
            SetClipError: the settings do not fit the rest of the recipe.
        """
        document = self.model_dump(mode="json", exclude_none=True) | settings
        if "method" in settings:
            for section in {**SECTION_PRESETS.get(self.method, {}), **SECTION_PRESETS.get(document["method"], {})}:
                document[section] = self._changed(section, document[section])
            for name, term in document["objective"].items():
                document["objective"][name] = {key: value for key, value in term.items() if key not in _PRESET_KEYS}
        return _validate(document, source=f"recipe with {settings}")

    def _changed(self, section: str, table: dict[str, Any]) -> dict[str, Any]:
        """The settings of a section that are neither its defaults nor the preset's of the method."""
        given = {key: field.default for key, field in type(getattr(self, section)).model_fields.items()}
        given |= SECTION_PRESETS.get(self.method, {}).get(section, {})
        return {key: value for key, value in table.items() if value != given[key]}

    def to_toml(self) -> str:
        """The resolved recipe; reading it back gives an equal recipe."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


_PRESET_KEYS = {"weight", "full_weight_at_pairs", "form", "start_step", "end_step", "warmup_steps"}


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Reads a recipe, applies ``a.b=c`` overrides, fills in the preset and validates.

    Raises:
        SetClipError: exit code 2, with every mistake found and the nearest known key for an unknown one.
    """
    if path.is_dir() or not path.exists():
        raise SetClipError(
            f"{path}: no such recipe file",
            fix="give the path of a .toml recipe, or start from one under recipes/",
            exit_code=ExitCode.USAGE,
        )
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SetClipError(
            f"{path}: is no valid TOML ({error})", fix="correct the file at that place", exit_code=ExitCode.USAGE
        ) from error
    document, notes = renamed(document)
    for override in overrides or []:
        _apply_override(document, override)
        document, more = renamed(document)
        notes += more
    for line in dict.fromkeys(notes):
        note(f"{path}: {line}")
    return _validate(document, source=str(path))


def _apply_override(document: dict[str, Any], override: str) -> None:
    """Sets one ``a.b=c``; c is read as a TOML value, or as a string where it is none."""
    key, equals, text = override.partition("=")
    table_name, *rest = key.strip().split(".")
    parts = [KEYS.get(table_name, table_name), *rest]
    if not equals or not all(parts):
        raise SetClipError(
            f"--set {override!r}: is not of the form key=value",
            fix="write it as --set optim.lr=3e-4",
            exit_code=ExitCode.USAGE,
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    table = document
    for depth, part in enumerate(parts[:-1], start=1):
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise SetClipError(
                f"--set {override!r}: {'.'.join(parts[:depth])} is a value, not a table",
                fix=f"set {'.'.join(parts[:depth])} itself",
                exit_code=ExitCode.USAGE,
            )
    table[parts[-1]] = value


def _with_preset(document: dict[str, Any]) -> dict[str, Any]:
    """The document with the weights of its method's preset under the user's own keys."""
    method = document.get("method", Recipe.model_fields["method"].default)
    preset = PRESETS.get(method, {}) if isinstance(method, str) else {}  # type: ignore[call-overload]
    objective = document.get("objective", {})
    if not isinstance(objective, dict):
        return document
    merged = dict(objective)
    for name, values in preset.items():
        term = objective.get(name, {})
        if isinstance(term, dict):
            # A user who sets the weight of a term takes over its schedule too.
            merged[name] = term if "weight" in term else values | term
    sections = SECTION_PRESETS.get(method, {}) if isinstance(method, str) else {}  # type: ignore[call-overload]
    for name, values in sections.items():
        if name == "extra_encoders" and _tunes(document):
            continue  # they are fitted to the features of frozen backbones
        if isinstance(document.get(name, {}), dict):
            document = document | {name: values | document.get(name, {})}
    return {**document, "objective": merged}


def _tunes(document: dict[str, Any]) -> bool:
    """Whether the document trains a backbone; it may still hold anything."""
    towers = document.get("towers")
    towers = towers.values() if isinstance(towers, dict) else ()
    return any(isinstance(tower, dict) and tower.get("trainable", "frozen") != "frozen" for tower in towers)


def _validate(document: dict[str, Any], *, source: str) -> Recipe:
    """Validates the document as a whole: type errors first, then, on what is left, contradictions."""
    document = _with_preset(document)
    recipe: Recipe | None
    mistakes: list[str] = []
    try:
        recipe = Recipe.model_validate(document)
    except ValidationError as error:
        # A union reports each of its branches: one mistake, one line.
        mistakes = list(dict.fromkeys(_in_words(details) for details in error.errors()))
        recipe = _without_mistakes(document, error)
    contradictions = _contradictions(recipe) if recipe else []
    if recipe is None or mistakes or contradictions:
        raise RecipeError(source, mistakes, contradictions)
    return recipe


def _without_mistakes(document: dict[str, Any], error: ValidationError) -> Recipe | None:
    """The recipe with every mistaken value left out, so that contradictions among the rest show too."""
    remaining = deepcopy(document)
    for details in error.errors():
        table: Any = remaining
        for part in (part for part in details["loc"] if part != "[key]"):
            if not isinstance(table.get(part), dict):
                break
            parent, table = table, table[part]
        else:  # the mistake is a table as a whole
            table = parent
        table.pop(part, None)
    try:
        return Recipe.model_validate(remaining)
    except ValidationError:
        return None


def _contradictions(recipe: Recipe) -> list[str]:
    """Settings that are fine alone and wrong together."""
    found: list[str] = []
    if len(recipe.towers) != 2:
        names = ", ".join(recipe.towers) or "none"
        found.append(f"towers: two modalities are aligned, found {len(recipe.towers)} ({names})")
    for modality, tower in recipe.towers.items():
        kind = tower.backbone.partition(":")[0]
        if _READS[kind] != modality:
            found.append(f"towers.{modality}.backbone: {tower.backbone!r} reads {_READS[kind]}s, not {modality}s")
        if tower.layer == 0:
            found.append(f"towers.{modality}.layer = 0: layers count from 1, or from the last, which is -1")
        if tower.layer == "best" and recipe.pairs == 0:
            found.append(f"towers.{modality}.layer = 'best': is measured on known pairs, and pairs = 0")
        if tower.frozen and tower.pooling == "attention":
            found.append(f"towers.{modality}.pooling = 'attention': has a query to learn, and the tower is frozen")
    tuned = [modality for modality, tower in recipe.towers.items() if not tower.frozen]
    if tuned and recipe.method in TRAINING_FREE_METHODS:
        found.append(f"towers.{tuned[0]}.trainable: method {recipe.method!r} does not train, so all towers are frozen")
    if tuned and any(recipe.extra_encoders.model_dump().values()):
        found.append(f"extra_encoders: they are fitted to frozen features, and towers.{tuned[0]} is tuned")
    if tuned and recipe.ensemble > 1:
        found.append(f"ensemble = {recipe.ensemble}: heads can share frozen towers only, and {tuned[0]} is tuned")
    if recipe.ensemble_distil and recipe.ensemble == 1:
        found.append("ensemble_distil: needs an ensemble of 2 or more, and ensemble = 1")
    if recipe.validation.every and recipe.ensemble > 1:
        found.append(f"ensemble = {recipe.ensemble}: validation.every stops one training, not several in a row")
    for name, term in recipe.objective.active().items():
        if term.end_step is not None and term.end_step <= term.start_step:
            found.append(f"objective.{name}: end_step ({term.end_step}) must be after start_step ({term.start_step})")
        if getattr(term, "form", "stable") == "published":
            # A key that is not at its default was given by the user: no preset sets one of these.
            found += [
                f"objective.{name}.{key} = {getattr(term, key)!r}: form = 'published' has its own fixed value; "
                f"leave {key} out, or set objective.{name}.form = 'stable'"
                for key in FIXED_WHEN_PUBLISHED[name]
                if getattr(term, key) != type(term).model_fields[key].default
            ]
    if recipe.method in TRAINED_METHODS and not recipe.objective.active():
        found.append(f"objective: every term has weight 0, so method {recipe.method!r} has nothing to train")
    if recipe.method == "auto" and recipe.objective.active():
        terms = ", ".join(f"objective.{name}.weight" for name in recipe.objective.active())
        found.append(f"{terms}: method 'auto' brings the weights of the method that it chooses")
    if recipe.method in TRAINING_FREE_METHODS and recipe.objective.active():
        terms = ", ".join(f"objective.{name}.weight" for name in recipe.objective.active())
        found.append(f"{terms}: method {recipe.method!r} does not train, so no term can have a weight")
    if recipe.pairs == 0 and recipe.method in {"clip", "s-clip", *TRAINING_FREE_METHODS}:
        found.append(f"pairs = 0: method {recipe.method!r} learns from pairs alone; set-clip-plus needs none")
    return found


_READS: dict[str, Modality] = {"esm": "protein", "timm": "image", "sentence-transformers": "caption"}


def _in_words(details: Any) -> str:
    """One pydantic error as the user's own key, what was found there and what is allowed."""
    location = [str(part) for part in details["loc"]]
    if details["type"] == "extra_forbidden":
        *parents, key = location
        table = _section_at(parents)
        known = list(table.model_fields) if table else list(MODALITIES)
        return f"unknown key {'.'.join(location)!r}{nearest(key, known)}"
    if location[0] == "towers" and location[2:3] == ["layer"]:
        return f"{'.'.join(location[:3])}: must be a number or 'best', found {details['input']!r}"
    if details["type"] == "missing":
        return f"missing key {'.'.join(location)!r}"
    if location[:1] == ["pairs"]:
        return f"pairs: must be 'all', a count or a fraction between 0 and 1, found {details['input']!r}"
    if location[:1] == ["towers"] and location[-1] == "[key]":
        return f"unknown key 'towers.{details['input']}'{nearest(str(details['input']), MODALITIES)}"
    message = details["msg"][0].lower() + details["msg"][1:]
    return f"{'.'.join(location)}: {message}, found {details['input']!r}"


def _section_at(path: list[str]) -> type[Section] | None:
    """The section that the tables of a dotted key lead to."""
    section: type[Section] = Recipe
    for index, part in enumerate(path):
        if part == "towers" and index == 0:
            return Tower if len(path) == 2 else None
        annotation = section.model_fields[part].annotation if part in section.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, Section)):
            return None
        section = annotation
    return section


assert set(TRAINED_METHODS) | set(TRAINING_FREE_METHODS) | {"auto"} == set(get_args(Method))
