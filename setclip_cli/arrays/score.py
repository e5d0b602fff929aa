"""Scores of embeddings in memory, by the code that `setclip evaluate` uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from setclip_cli.arrays.errors import InputError
from setclip_cli.arrays.pairs import rows_of_pairs
from setclip_cli.errors import argument
from setclip_cli.evaluation.evaluation_set import EvaluationSet, Side
from setclip_cli.evaluation.scoring import score

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from setclip_cli.arrays.pairs import PairsLike

    Labels = tuple[Sequence[object], Sequence[object]]

_SPLIT = "test"  # nothing shows it


def score_arrays(
    left: npt.NDArray[np.float32],
    right: npt.NDArray[np.float32],
    names: tuple[str, str],
    pairs: PairsLike,
    labels: Labels | None,
) -> dict[str, float]:
    """The metrics of `Aligned.score`, by key.

    Args:
        left: (n, d) unit rows.
        right: (m, d) unit rows.
        names: Of the sides, for the keys.
        pairs: As `Aligned.score` takes them.
        labels: As `Aligned.score` takes them.

    Raises:
        SetClipError: as `Aligned.score` says.
    """
    rows_of_known = rows_of_pairs(pairs, len(left), len(right))
    require_answers("score", rows_of_known, labels)
    known = [(row, other) for row, other in rows_of_known.tolist()]
    classes = classes_of(labels, len(left), len(right))
    sides = [
        Side(name, "vector", [str(row) for row in range(len(of))], of, [None] * len(of), [""] * len(of))
        for name, of in zip(names, classes, strict=True)
    ]
    if not known:  # as evaluate does: nothing is known about a row without a label
        kept = [[row for row, label in enumerate(of) if label is not None] for of in classes]
        sides = [side.only(rows) for side, rows in zip(sides, kept, strict=True)]
        left, right = left[kept[0]], right[kept[1]]
    rows = EvaluationSet(_SPLIT, "pairs" if known else "label", sides[0], sides[1], known, {})
    if not known and not rows.common_classes():
        raise InputError(f"{argument('labels')}: x and y have no label in common", fix="spell the classes alike")
    return {key: metric.value for key, metric in score(left, right, rows).metrics.items()}


def require_answers(caller: str, known: Tensor, labels: Labels | None) -> None:
    """Raises InputError if there are neither pairs nor labels."""
    if not len(known) and labels is None:
        raise InputError(
            f"{caller}: does not know the right answers",
            fix=f"give {argument('pairs')}, such as [(0, 3), (1, 7)], or {argument('labels')}, such as (of_x, of_y)",
        )


def classes_of(labels: Labels | None, left: int, right: int) -> tuple[list[str | None], list[str | None]]:
    """The label of each row as text, None where there is none.

    Args:
        labels: As `Aligned.score` takes them.
        left, right: Numbers of rows.

    Raises:
        InputError: there are not as many labels as rows.
    """
    if labels is None:
        return [None] * left, [None] * right
    if not isinstance(labels, tuple | list) or len(labels) != 2:
        raise InputError(f"{argument('labels')}: is not a pair", fix="give (labels of x, labels of y)")
    found = []
    for name, of_side, size in zip("xy", labels, (left, right), strict=True):
        if isinstance(of_side, str) or not hasattr(of_side, "__len__"):
            raise InputError(
                f"{argument('labels')}: those of {name} are {of_side!r}", fix="give a list with a label for each row"
            )
        if len(of_side) != size:
            raise InputError(
                f"{argument('labels')}: has {len(of_side)} labels for {name}, which has {size} rows",
                fix="give a label for each row, None for a row without one",
            )
        # NaN, which pandas has for a missing label, differs from itself
        found.append([None if label is None or label != label else str(label) for label in of_side])
    return found[0], found[1]
