"""`Aligner`: `setclip.fit` with the habits of scikit-learn. It does not need scikit-learn."""

from __future__ import annotations

from inspect import signature
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from setclip_cli.arrays.errors import InputError, not_fitted
from setclip_cli.arrays.fit import fit
from setclip_cli.errors import argument, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Self

    import numpy.typing as npt

    from setclip_cli.arrays.aligned import Aligned, Embeddings
    from setclip_cli.arrays.matrix import MatrixLike
    from setclip_cli.arrays.pairs import PairsLike
    from setclip_cli.recipe.presets import Method
    from setclip_cli.recipe.recipe import Recipe


class Aligner:
    """Aligns two sets of features. The parameters are those of `setclip.fit`.

    Attributes:
        aligned_: What `setclip.fit` returned: it embeds, scores and saves.
        method_: The method that was fitted; never "auto".
        n_features_in_: Columns of x.
        feature_names_in_: Names of the columns of x, if it was a table.
        findings_: What the method learned about its own result, by metric key.
        warnings_: The same in words, where there is a reason to be careful.
    """

    aligned_: Aligned
    method_: str
    n_features_in_: int
    feature_names_in_: npt.NDArray[Any]
    findings_: dict[str, float]
    warnings_: list[str]

    def __init__(
        self,
        method: Method = "auto",
        goal: Literal["auto", "partner", "kind"] = "auto",
        seed: int = 0,
        recipe: Recipe | Mapping[str, Any] | Path | str | None = None,
        names: tuple[str, str] = ("left", "right"),
    ) -> None:
        self.method = method
        self.goal = goal
        self.seed = seed
        self.recipe = recipe
        self.names = names

    def fit(self, x: MatrixLike, y: MatrixLike, pairs: PairsLike = None) -> Self:
        """Aligns the features of both sides.

        Args:
            x: (n, p) features of the left side.
            y: (m, q) features of the right side. Row i of y has nothing to do with row i of x.
            pairs: (b, 2) integers: a row of x and the row of y that belongs to it.

        Raises:
            SetClipError: as `setclip.fit` does.
        """
        aligned = fit(
            x, y, pairs, method=self.method, goal=self.goal, seed=self.seed, recipe=self.recipe, names=self.names
        )
        self.aligned_ = aligned
        self.method_, self.n_features_in_ = aligned.method, aligned.widths[0]
        self.findings_, self.warnings_ = aligned.findings, aligned.warnings
        if (columns := _column_names(x)) is not None:
            self.feature_names_in_ = columns
        elif hasattr(self, "feature_names_in_"):  # of an earlier fit
            del self.feature_names_in_
        return self

    def transform(self, x: MatrixLike, y: MatrixLike | None = None) -> Embeddings | tuple[Embeddings, Embeddings]:
        """Embeddings of x; with y, the pair of those of x and those of y.

        Raises:
            SetClipError: it is not fitted, or the features are of another kind.
        """
        aligned = self._fitted()
        columns, known = _column_names(x), getattr(self, "feature_names_in_", None)
        if columns is not None and known is not None and list(columns) != list(known):
            raise InputError(
                f"{argument('x')}: its columns are not those that were fitted: {_first_difference(columns, known)}",
                fix="give x[list(aligner.feature_names_in_)]",
            )
        return aligned.transform(x, y)

    def fit_transform(self, x: MatrixLike, y: MatrixLike, pairs: PairsLike = None) -> Embeddings:
        """`fit`, and then the embeddings of x."""
        return self.fit(x, y, pairs).aligned_.left(x)

    def score(self, x: MatrixLike, y: MatrixLike, pairs: PairsLike = None) -> float:
        """Mean recall over both directions and the first 1, 5 and 10 rows; ``aligned_.score`` gives all metrics.

        Args:
            x: (n, p) features of the left side.
            y: (m, q) features of the right side.
            pairs: (b, 2) row numbers of x and y that belong together: the right answers.
        """
        return self._fitted().score(x, y, pairs)["retrieval/mean_recall"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name."""
        return {name: getattr(self, name) for name in signature(type(self)).parameters}

    def set_params(self, **params: Any) -> Self:
        """Sets parameters by name.

        Raises:
            SetClipError: there is no such parameter.
        """
        known = self.get_params()
        for name in params:
            if name not in known:
                raise InputError(
                    f"{type(self).__name__}: has no parameter {name!r}{nearest(name, known)}",
                    fix=f"its parameters are {', '.join(known)}",
                )
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def _fitted(self) -> Aligned:
        if not self.__sklearn_is_fitted__():
            raise not_fitted(type(self).__name__)
        return self.aligned_

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "aligned_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags  # only scikit-learn asks for them

        return Tags(
            estimator_type=None,
            target_tags=TargetTags(required=True, two_d_labels=True, single_output=False),
            transformer_tags=TransformerTags(preserves_dtype=["float32"]),
            input_tags=InputTags(),
        )

    def __repr__(self) -> str:
        defaults = {name: each.default for name, each in signature(type(self)).parameters.items()}
        changed = [f"{name}={value!r}" for name, value in self.get_params().items() if value != defaults[name]]
        return f"{type(self).__name__}({', '.join(changed)})"


def _column_names(values: Any) -> npt.NDArray[Any] | None:
    """The names of a table's columns, if all of them are text."""
    columns = getattr(values, "column_names", getattr(values, "columns", None))
    if columns is None or not all(isinstance(name, str) for name in columns):
        return None
    return np.array(list(columns), dtype=object)


def _first_difference(columns: npt.NDArray[Any], known: npt.NDArray[Any]) -> str:
    place, found, fitted = next(
        (place, *both) for place, both in enumerate(zip_longest(columns, known)) if both[0] != both[1]
    )
    return f"column {place} is {found!r}, and {fitted!r} was fitted"
