"""`align --dry-run`: checks all that can be checked without loading weights, and says what `align` would do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setclip_cli.backbones import check_backbone, describe_weights
from setclip_cli.console import text_of_lines
from setclip_cli.dataset.dataset import pairs_in_words
from setclip_cli.errors import SetClipError
from setclip_cli.features.layer_choice import layer_pairs, wants_best
from setclip_cli.methods.auto import Choice, choose
from setclip_cli.methods.graph_teacher import guiding
from setclip_cli.methods.no_pairs import require_matchable
from setclip_cli.options import path_of
from setclip_cli.recipe.presets import TRAINING_FREE_METHODS
from setclip_cli.remote.arguments import takes_places
from setclip_cli.run.folder import check_out
from setclip_cli.training.checks import require_rows
from setclip_cli.training.given_features import open_given
from setclip_cli.training.known_pairs import KnownPairs, known_pairs, pair_rows, pairs_in_items
from setclip_cli.training.landmarks import is_large
from setclip_cli.training.loggers import check_loggers
from setclip_cli.training.preconditions import check_init_from, check_tower, training_device
from setclip_cli.training.tower_bands import tower_bands

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa

    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.dataset.modality import Modality
    from setclip_cli.dataset.schemas import ModalityInfo
    from setclip_cli.embedding.embeddings import Embeddings
    from setclip_cli.recipe.recipe import Recipe


# Beginnings of the keys that only training reads.
OF_TRAINING = (
    *("train.steps", "train.batch", "train.pairs_per_batch", "train.balance", "train.checkpoint_every", "train.chunk"),
    *("optim.", "validation.", "objective.", "ensemble", "extra_encoders.", "projection.dim", "projection.kind"),
)


@dataclass(frozen=True)
class AlignPlan:
    """What `align` would do."""

    recipe: Recipe
    out: Path
    rows: dict[Modality, int]
    pairs: int
    items: int | None  # that the pairs belong to; None if the recipe counts single pairs
    notes: list[str]
    weights: dict[Modality, dict[str, Any]]
    choice: Choice | None  # of method auto
    features: dict[Modality, Embeddings] = field(default_factory=dict)  # that need not be computed

    def as_json(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "out": str(self.out),
            "rows": self.rows,
            "pairs": self.pairs,
            "items": self.items,
            "notes": self.notes,
            "weights": self.weights,
            "choice": self.choice.as_json() if self.choice else None,
        }

    def summary(self) -> str:
        fitted = self.choice.recipe if self.choice else self.recipe
        train = fitted.train
        towers = [
            f"  {modality}: {self.rows[modality]} rows "
            + ("of stored vectors" if found["origin"] == "rows" else f"through {found['spec']}, ")
            + _weights_in_words(found)
            + (f", layer {layer}" if (layer := self.recipe.towers[modality].layer) != -1 else "")
            for modality, found in self.weights.items()
        ]
        terms = [
            f"  {name}: weight {term.weight:g}"
            + (f", steps {term.start_step} to {term.end_step}" if term.end_step else "")
            for name, term in fitted.objective.active().items()
        ]
        steps = (
            "  fitted in closed form"
            if fitted.method in TRAINING_FREE_METHODS
            else f"  {train.steps} steps x {fitted.ensemble} heads, {train.batch} unpaired rows a side and step"
        )
        plan = text_of_lines(
            [
                f"{self.recipe.method} on {pairs_in_words(self.pairs, self.items, noun='known pair')}, "
                f"seed {self.recipe.seed}; nothing was trained",
                *towers,
                *([f"  {self.choice.summary()}"] if self.choice else []),
                *self._start(),
                steps,
                *terms,
                f"  to {self.out}",
                *(f"note: {note}" for note in self.notes),
            ]
        )
        return f"{plan}\n\n{self.recipe.to_toml()}"

    def _start(self) -> list[str]:
        """Where training starts, unless it starts from random heads."""
        if self.recipe.joint:
            return [f"  starts from the embeddings of {self.recipe.init_from or 'the joint model'}"]
        return [f"  starts from the heads of {self.recipe.init_from}"] if self.recipe.init_from else []


@takes_places(looks="out")
def plan_align(
    recipe: Recipe,
    dataset: Dataset,
    out: Path | str,
    *,
    resume: bool = False,
    features: str | Path | Sequence[str | Path] = (),
) -> AlignPlan:
    """Checks a recipe against its data and this machine. `align` makes the same plan before it starts.

    Args are those of `align`.

    Raises:
        SetClipError: everything that is wrong, in one message.
    """
    out = path_of(out, "out")
    problems: list[SetClipError] = []
    scales: list[str] = []  # of bands, for the notes
    rows: dict[Modality, int] = {}
    ids: dict[Modality, pa.ChunkedArray] = {}
    weights: dict[Modality, dict[str, Any]] = {}
    known, choice = KnownPairs([], [], by_item=False), None
    for modality in recipe.modalities():
        tower = recipe.towers[modality]
        info: ModalityInfo | None = None
        try:
            info = dataset.about(modality)
        except SetClipError as error:
            problems.append(error)
        try:
            check_backbone(tower.backbone, modality=modality, kind=info.kind if info else None, pooling=tower.pooling)
            weights[modality] = describe_weights(tower.backbone, tower.weights)
            if info:
                check_tower(recipe, modality, info)
        except SetClipError as error:
            problems.append(error)
        if info is None:
            continue
        try:
            ids[modality] = dataset.table(modality, recipe.train.split, ["id"])["id"]
            rows[modality] = len(ids[modality])
            if scale := tower_bands(recipe, dataset, modality):
                scales.append(f"the {modality} tower sees {scale.in_words()}")
        except SetClipError as error:
            problems.append(error)
    try:
        known = known_pairs(dataset, recipe)
        if wants_best(recipe):
            layer_pairs(recipe, known.pairs, known.items)
        if len(ids) == 2:
            pair_rows(known.pairs, *ids.values(), split=recipe.train.split)
        if recipe.method == "auto":
            labelled = all(dataset.has_labels(modality, recipe.train.split) for modality in recipe.modalities())
            choice = choose(recipe, [(p.left_id, p.right_id) for p in known.pairs], known.items, labelled=labelled)
    except SetClipError as error:
        problems.append(error)
    given: dict[Modality, Embeddings] = {}
    checks: tuple[Callable[[], object], ...] = (
        lambda: check_out(out, recipe, dataset.identity(), resume=resume),
        lambda: check_loggers(recipe.train.loggers),
        lambda: _check_validation(recipe, dataset),
        lambda: check_init_from(recipe),
        lambda: training_device(recipe) if recipe.train.device == "cpu" else None,  # others: of the machine that trains
        lambda: _check_rows(choice.recipe if choice else recipe, rows),
        lambda: given.update(open_given(features, recipe, dataset)) if len(rows) == 2 else None,
    )
    for check in checks:
        try:
            check()
        except SetClipError as error:
            problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise SetClipError(
            "\n".join(
                [
                    f"{len(problems)} problems before training",
                    *(f"  - {each.problem}; fix: {each.fix}" for each in problems),
                ]
            ),
            fix="repair these, then check again with --dry-run",
            exit_code=problems[0].exit_code,
        )
    settled = choice.recipe if choice else recipe
    notes = [*scales, *_notes(settled, rows, by_auto=choice is not None), *_note_of_guides(settled, rows, known)]
    return AlignPlan(recipe, out, rows, len(known.pairs), known.item_count, notes, weights, choice, given)


def _weights_in_words(found: dict[str, Any]) -> str:
    if found["origin"] == "rows":
        return ""
    return f"weights from {found['origin']}" if found["offline"] else "weights to be downloaded from the hub"


def _check_validation(recipe: Recipe, dataset: Dataset) -> None:
    """Raises SetClipError if the recipe validates on a split that a side does not have, or that shares items."""
    if recipe.validation.every:
        split = recipe.validation.split
        left, right = (dataset.table(modality, split, ["id"])["id"] for modality in recipe.modalities())
        pair_rows(pairs_in_items(dataset, split, recipe).pairs, left, right, split=split)


def _check_rows(recipe: Recipe, rows: dict[Modality, int]) -> None:
    """Raises SetClipError if a side has fewer rows than the objective or matching without pairs needs."""
    require_rows(recipe, {f"{modality} rows": count for modality, count in rows.items()})
    matched = recipe.method == "transport" or (recipe.strangers and recipe.method == "set-clip-plus")
    if recipe.pairs == 0 and matched and len(rows) == 2:
        require_matchable(*rows.values())


def _note_of_guides(recipe: Recipe, rows: dict[Modality, int], known: KnownPairs) -> list[str]:
    """Whether the walks over the graphs start from some of the known pairs only."""
    if recipe.method in TRAINING_FREE_METHODS or not (recipe.objective.teacher.weight or recipe.train.balance):
        return []
    landmarks = recipe.train.landmarks
    most = landmarks + len(known.pairs)
    held = max((min(count, most) if is_large(count, landmarks) else count for count in rows.values()), default=1)
    walked = guiding(held, len(known.pairs))
    if walked == len(known.pairs):
        return []
    return [
        f"the teacher and the balance of batches walk from about {walked:,} of the {len(known.pairs):,} known pairs"
    ]


def _notes(recipe: Recipe, rows: dict[Modality, int], *, by_auto: bool) -> list[str]:
    """What is not a mistake, but may not be what the user expects."""
    machine: list[str] = []
    try:
        training_device(recipe)
    except SetClipError as error:
        machine.append(f"align cannot run on this machine: {error.problem}; fix: {error.fix}")
    closed = recipe.method in TRAINING_FREE_METHODS
    of_all = "the axes and the steps are those of all rows, and graphs, fits in closed form and probabilities look"
    large = [
        f"{modality} has {count:,} rows: {f'method {recipe.method!r} looks' if closed else of_all} at "
        f"{recipe.train.landmarks:,} of them, drawn by the seed (train.landmarks), and at those of known pairs; rows "
        "without a partner are not looked for"
        for modality, count in rows.items()
        if is_large(count, recipe.train.landmarks)
    ]
    if closed:
        # Who names such a method knows it; a baseline takes over the settings of a RUN that was trained.
        unused = [key for key in recipe.changed_keys() if key.startswith(OF_TRAINING)]
        unused += ["init_from"] if recipe.init_from is not None and not recipe.joint else []
        told = f"method {recipe.method!r} takes no training steps, so this has no effect: {', '.join(unused)}"
        return [*machine, *large, *([told] if unused and by_auto else [])]
    one = [
        f"{modality} has 1 row: nothing on that side can be told apart"
        for modality, count in rows.items()
        if count == 1
    ]
    return (
        machine
        + one
        + large
        + [
            f"train.batch = {recipe.train.batch} is more than the {count} {modality} rows: every step sees all of them"
            for modality, count in rows.items()
            if recipe.train.batch > count
        ]
    )
