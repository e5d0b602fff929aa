"""`Aligned`: what `setclip.fit` returns. It maps rows of both sides into one space, and scores itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from setclip_cli.arrays.errors import InputError
from setclip_cli.arrays.matrix import Matrix
from setclip_cli.errors import SetClipError, argument
from setclip_cli.vectors import unusable_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from setclip_cli.arrays.matrix import MatrixLike
    from setclip_cli.arrays.pairs import PairsLike
    from setclip_cli.encoders import Encoder

    Embeddings = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Aligned:
    """Two encoders into one space.

    Attributes:
        method: The method that was fitted; never "auto".
        widths: Columns of the features of either side.
        findings: What the method learned about its own result, by metric key.
        warnings: The same in words, where there is a reason to be careful.
        names: What the two sides are called, in metric keys.
    """

    method: str
    encoders: tuple[Encoder, Encoder]
    widths: tuple[int, int]
    findings: dict[str, float]
    warnings: list[str]
    names: tuple[str, str] = ("left", "right")

    def left(self, x: MatrixLike) -> Embeddings:
        """(n, d) embeddings, rows of length 1, of (n, p) features of the left side."""
        return self._embed(0, x, "x")

    def right(self, y: MatrixLike) -> Embeddings:
        """(m, d) embeddings, rows of length 1, of (m, q) features of the right side."""
        return self._embed(1, y, "y")

    def transform(self, x: MatrixLike, y: MatrixLike | None = None) -> Embeddings | tuple[Embeddings, Embeddings]:
        """`left` of x; with y, the pair of `left` of x and `right` of y."""
        return self.left(x) if y is None else (self.left(x), self.right(y))

    def similarity(self, x: MatrixLike, y: MatrixLike) -> Embeddings:
        """(n, m) cosines between rows of both sides."""
        return self.left(x) @ self.right(y).T

    def score(
        self,
        x: MatrixLike,
        y: MatrixLike,
        pairs: PairsLike = None,
        *,
        labels: tuple[Sequence[object], Sequence[object]] | None = None,
    ) -> dict[str, float]:
        """The metrics of a report of `setclip evaluate`, by its keys, such as ``left_to_right/recall_at_1``.

        Args:
            x: (n, p) features of the left side, best of rows that were not fitted.
            y: (m, q) features of the right side.
            pairs: (b, 2) row numbers of x and y that belong together: these are the right answers.
            labels: For each row of x and of y its class; None for a row without one. Without ``pairs``, rows of the
                same class are the right answers. With ``pairs``, they only add the metrics of ``zero_shot/``.

        Raises:
            SetClipError: there are neither pairs nor labels, they do not fit the rows, or no row has a right answer.
        """
        from setclip_cli.arrays.score import score_arrays

        return score_arrays(self.left(x), self.right(y), self.names, pairs, labels)

    def _embed(self, side: int, features: MatrixLike, name: str) -> Embeddings:
        rows = Matrix(features, name)
        if rows.width != self.widths[side]:
            fix = "give features of the same kind as those that were fitted"
            if rows.width == self.widths[1 - side]:
                fix = "the other side has that many columns: x is for `left`, y for `right`"
            raise InputError(
                f"{argument(name)}: has {rows.width} columns, and {self.widths[side]} were fitted", fix=fix
            )
        embedded = []
        for start, block in rows.blocks():
            with torch.inference_mode():
                embeddings = self.encoders[side](block).numpy()
            for place, reason in unusable_rows(embeddings).items():
                raise SetClipError(
                    f"{argument(name)}: row {start + place}: its embedding {reason}", fix="leave this row out"
                )
            embedded.append(embeddings)
        return embedded[0] if len(embedded) == 1 else np.concatenate(embedded)
