"""`Aligned`: what `setclip.fit` returns. It maps rows of both sides into one space, scores itself and is saved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from setclip_cli.arrays.sides import FittedSides

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from setclip_cli.arrays.matrix import MatrixLike
    from setclip_cli.arrays.pairs import PairsLike
    from setclip_cli.evaluation.report import Report

    Embeddings = npt.NDArray[np.float32]


class Aligned(FittedSides):
    """Two encoders into one space.

    Attributes:
        method: The method that was fitted; never "auto".
        widths: Columns of the features of either side.
        findings: What the method learned about its own result, by metric key.
        warnings: The same in words, where there is a reason to be careful.
        names: What the two sides are called: in metric keys, and as modalities of the RUN.
        origin: What it was fitted with.
    """

    def left(self, x: MatrixLike) -> Embeddings:
        """(n, d) embeddings, rows of length 1, of (n, p) features of the left side."""
        return self.embed(0, x, "x")

    def right(self, y: MatrixLike) -> Embeddings:
        """(m, d) embeddings, rows of length 1, of (m, q) features of the right side."""
        return self.embed(1, y, "y")

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

    def save(self, out: Path | str, *, vectors_of: tuple[str | None, str | None] = (None, None)) -> Path:
        """Writes a RUN, which `setclip embed`, `evaluate` and `search` and `setclip.load_model` open.

        Its modalities are `names`, of the kind vector.

        Args:
            out: The folder. It may hold the same RUN already.
            vectors_of: What computed the vectors of either side, such as ``("prot_t5_xl_half", None)``. The RUN then
                refuses a DATASET that states another encoder.

        Raises:
            SetClipError: the folder holds something else, or cannot be written.
        """
        from setclip_cli.arrays.save import save_run

        return save_run(self, out, vectors_of)

    def report(
        self,
        out: Path | str,
        x: MatrixLike,
        y: MatrixLike,
        pairs: PairsLike = None,
        *,
        labels: tuple[Sequence[object], Sequence[object]] | None = None,
    ) -> Report:
        """Writes the report of `setclip evaluate` about these rows.

        Args:
            out: A folder for ``report/report.html``, and for the RUN and the DATASET that the report is about: ``run/``
                and ``dataset/``.
            x, y, pairs, labels: As `score` takes them.

        Raises:
            SetClipError: as `score` and `save` do.
        """
        from setclip_cli.arrays.report import write_report

        return write_report(self, out, x, y, pairs, labels)
