"""Classification without training: a row gets the class of the nearest prototype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from setclip_cli.evaluation.metrics import retrieve
from setclip_cli.evaluation.relevance import relevance_by_key
from setclip_cli.evaluation.similarity import unit_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from setclip_cli.evaluation.arrays import Embeddings, Floats, Ints


TOP_K = (1, 5)


@dataclass(frozen=True)
class ZeroShot:
    """The classification of every labelled row.

    Attributes:
        classes: (c,) names, in the order of the prototypes.
        rows: (q,) the rows whose label is one of the classes, ascending.
        truth: (q,) their classes.
        taken: (q,) the class of the nearest prototype; the first of tied ones.
        margin: (q,) how much higher its cosine is than that of the true class; 0 if the true class is the nearest.
        values: ``top1``, ``top5`` -> (q,) chance that the true class is among the nearest; tied classes share it.
        chance: The same names -> the value of a model that cannot tell classes apart.
        confusion: (c, c) how many rows of class i were taken for class j.
    """

    classes: list[str]
    rows: Ints
    truth: Ints
    taken: Ints
    margin: Floats
    values: dict[str, Floats]
    chance: dict[str, float]
    confusion: Ints

    def per_class(self) -> Floats:
        """(c,) top-1 recall of each class; NaN for a class without a row."""
        with np.errstate(invalid="ignore"):
            sums = np.bincount(self.truth, weights=self.values["top1"], minlength=len(self.classes))
            return sums / np.bincount(self.truth, minlength=len(self.classes))


def class_means(embeddings: Embeddings, labels: Sequence[str | None], classes: Sequence[str]) -> Embeddings:
    """(c, d) unit mean of each class's rows.

    Raises:
        ValueError: a class has no row.
    """
    named = np.array(["" if label is None else label for label in labels])
    missing = [name for name in classes if not (named == name).any()]
    if missing:
        raise ValueError(f"classes without a row: {', '.join(missing)}")
    return unit_rows(np.stack([embeddings[named == name].mean(0, dtype=np.float64) for name in classes]))


def classify(
    embeddings: Embeddings, labels: Sequence[str | None], prototypes: Embeddings, classes: Sequence[str]
) -> ZeroShot:
    """Classifies every row whose label is one of the classes.

    Args:
        embeddings: (n, d) unit rows to classify.
        labels: Their true classes; rows with another label, or none, are left out.
        prototypes: (c, d) unit rows, one for each class.

    Raises:
        ValueError: no row has one of the classes.
    """
    found = retrieve(embeddings, prototypes, relevance_by_key(labels, list(classes)), recall_at=TOP_K)
    places = {name: place for place, name in enumerate(classes)}
    truth = np.array([places[str(labels[row])] for row in found.queries], np.int64)
    scores = (embeddings[found.queries] @ prototypes.T).astype(np.float64)
    taken = np.argmax(scores, axis=1)
    at = np.arange(len(taken))
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (truth, taken), 1)
    return ZeroShot(
        list(classes),
        found.queries,
        truth,
        taken,
        scores[at, taken] - scores[at, truth],
        {f"top{k}": found.values[f"recall_at_{k}"] for k in TOP_K},
        {f"top{k}": float(found.chance[f"recall_at_{k}"].mean()) for k in TOP_K},
        confusion,
    )
