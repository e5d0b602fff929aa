"""RUN/calibration.json: what makes the cosines of a RUN probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from setclip_cli.errors import SetClipError
from setclip_cli.files import atomic
from setclip_cli.files.documents import read_json
from setclip_cli.recipe.presets import TRAINING_FREE_METHODS
from setclip_cli.run.config import MODEL_NAME, ModelConfig, load_config
from setclip_cli.trust.calibration import KNOTS, LEAST_ITEMS, Curve, Direction

if TYPE_CHECKING:
    from typing import Self

CALIBRATION_NAME = "calibration.json"
MOST_PAIRS = 5_000  # whose scores are kept

Source = Literal["folds", "left-over pairs", "validation split"]
Probability = Annotated[float, Field(ge=0, le=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SavedCurve(_Frozen):
    """`Curve`."""

    slope: Annotated[FiniteFloat, Field(ge=0)]
    intercept: FiniteFloat
    knots: Annotated[list[tuple[FiniteFloat, Probability]], Field(max_length=2 * KNOTS)] = []

    @model_validator(mode="after")
    def _rising(self) -> Self:
        for before, after in zip(self.knots, self.knots[1:], strict=False):
            if not (before[0] <= after[0] and before[1] <= after[1]):
                raise ValueError("the knots do not rise")
        return self


class SavedDirection(_Frozen):
    """`Direction`."""

    temperature: Annotated[FiniteFloat, Field(gt=0)]
    partners: Annotated[FiniteFloat, Field(ge=1)]
    in_pool: SavedCurve
    alone: SavedCurve
    scores: Annotated[list[FiniteFloat], Field(min_length=1, max_length=MOST_PAIRS)]
    items: Annotated[list[int], Field(min_length=1, max_length=MOST_PAIRS)]

    @model_validator(mode="after")
    def _of_one_length(self) -> Self:
        if len(self.scores) != len(self.items):
            raise ValueError(f"{len(self.scores)} scores and {len(self.items)} items")
        return self

    def direction(self, *, by_folds: bool) -> Direction:
        """As `probability` takes it."""
        return Direction(
            self.temperature,
            self.partners,
            _curve(self.in_pool),
            _curve(self.alone),
            tuple(self.scores),
            tuple(self.items),
            by_folds,
        )


def _curve(saved: SavedCurve) -> Curve:
    return Curve(saved.slope, saved.intercept, tuple(saved.knots))


class Calibration(_Frozen):
    """RUN/calibration.json.

    Attributes:
        model_sha256: Of the model.safetensors that it belongs to.
        source: Where the held-out pairs come from: fits to the other known pairs, pairs that training left over, or
            those of the validation split.
        split: Of the held-out pairs.
        held_out_items, held_out_pairs: How many.
    """

    schema_version: Literal[1] = 1
    model_sha256: str
    source: Source
    split: str
    held_out_items: Annotated[int, Field(ge=LEAST_ITEMS)]
    held_out_pairs: Annotated[int, Field(ge=LEAST_ITEMS)]
    left_to_right: SavedDirection
    right_to_left: SavedDirection

    def directions(self) -> tuple[Direction, Direction]:
        """Of the answers to left rows and to right rows."""
        by_folds = self.source == "folds"
        return self.left_to_right.direction(by_folds=by_folds), self.right_to_left.direction(by_folds=by_folds)

    def guarantee(self) -> str:
        """What holds for a conformal set."""
        if self.source == "folds":
            return (
                "The coverage is that of held-out known pairs, by fits to the others (cross-conformal). It is "
                "measured, not proven: the fit to all pairs is a little better, rows outside its pools may do worse."
            )
        return (
            "The coverage holds, for any number of items, for new items that are drawn like the held-out ones "
            "(split-conformal)."
        )


def saved_direction(direction: Direction) -> SavedDirection:
    """What is written of a direction: numbers rounded to 6 decimals, of at most ``MOST_PAIRS`` pairs."""
    step = -(-len(direction.scores) // MOST_PAIRS)
    curves = [
        SavedCurve(
            slope=round(curve.slope, 6),
            intercept=round(curve.intercept, 6),
            knots=[(round(at, 6), round(probability, 6)) for at, probability in curve.knots],
        )
        for curve in (direction.in_pool, direction.alone)
    ]
    return SavedDirection(
        temperature=round(direction.temperature, 6),
        partners=round(direction.partners, 6),
        in_pool=curves[0],
        alone=curves[1],
        scores=[round(score, 6) for score in direction.scores[::step]],
        items=list(direction.items[::step]),
    )


def read_calibration(run: Path) -> Calibration | None:
    """The calibration of a RUN; None if it has none.

    Raises:
        SetClipError: it is damaged, or belongs to another training.
    """
    path = run / CALIBRATION_NAME
    if not path.exists():
        return None
    fix = f"remove {path} to get ranks only, or align again into another folder"
    found = read_json(path, Calibration, fix=fix)
    config = load_config(run)
    trained = config.files.get(MODEL_NAME) or atomic.sha256_file(run / MODEL_NAME)
    if found.model_sha256 != trained:
        raise SetClipError(f"{path}: belongs to another training than {run / MODEL_NAME}", fix=fix)
    return found


def why_not(run: Path, config: ModelConfig) -> tuple[str, str]:
    """Why a RUN has no calibration, and what to do about it."""
    items = config.pairs if config.known_items is None else config.known_items
    closed_form = config.method in TRAINING_FREE_METHODS
    if not items or (closed_form and items < LEAST_ITEMS):
        return (
            f"{run} was aligned with {items or 'no'} known items, and probabilities need {LEAST_ITEMS}",
            "know more pairs (`setclip suggest` says which are worth it), and align again",
        )
    if closed_form:
        return (
            f"{run} has no {CALIBRATION_NAME}: an earlier version of setclip or a fit to arrays made it, or its pairs "
            "could not be held out",
            "align again, into another folder",
        )
    tuned = [modality for modality, tower in config.towers.items() if tower.trainable != "frozen"]
    if tuned:
        return (
            f"{run} tuned its {' and '.join(tuned)} backbone, and such a RUN is not calibrated",
            "use the ranks, or align with frozen towers",
        )
    return (
        f"{run} was trained on its known pairs, and no {LEAST_ITEMS} items are left that it has not seen",
        f"train with fewer pairs (--set pairs=N leaves the others), or ingest {LEAST_ITEMS} items with pairs in the "
        "validation split (and --set validation.every=100)",
    )
