"""What `setclip.fit` has fitted: an encoder of each side, and what they were fitted with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from setclip_cli.arrays.errors import InputError
from setclip_cli.arrays.matrix import Matrix
from setclip_cli.errors import SetClipError, argument
from setclip_cli.vectors import unusable_rows

if TYPE_CHECKING:
    import numpy.typing as npt

    from setclip_cli.arrays.matrix import MatrixLike
    from setclip_cli.encoders import Encoder
    from setclip_cli.methods.auto import Choice
    from setclip_cli.recipe.recipe import Recipe

    Embeddings = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Origin:
    """What an `Aligned` was fitted with: what its RUN says beside the encoders.

    Attributes:
        recipe: As it was asked for; its method may be "auto".
        choice: What was chosen for "auto"; None for another method.
        initial: The encoders as they were before training.
        rows: Numbers of rows of x and y.
        pairs: How many pairs were known.
        items: How many rows of x they belong to, if some have several pairs.
        sha256: Of the features and pairs.
    """

    recipe: Recipe
    choice: Choice | None
    initial: tuple[Encoder, Encoder]
    rows: tuple[int, int]
    pairs: int
    items: int | None
    sha256: str


@dataclass(frozen=True)
class FittedSides:
    """Two encoders into one space.

    Attributes:
        method: The method that was fitted; never "auto".
        widths: Columns of the features of either side.
        findings: What the method learned about its own result, by metric key.
        warnings: The same in words, where there is a reason to be careful.
        names: What the two sides are called: in metric keys, and as modalities of the RUN.
        origin: What it was fitted with.
    """

    method: str
    encoders: tuple[Encoder, Encoder]
    widths: tuple[int, int]
    findings: dict[str, float]
    warnings: list[str]
    names: tuple[str, str]
    origin: Origin = field(repr=False)

    def require_width(self, side: int, rows: Matrix) -> None:
        """Raises InputError unless rows are as wide as those that were fitted; side is 0 for the left one, else 1."""
        if rows.width != self.widths[side]:
            fix = "give features of the same kind as those that were fitted"
            if rows.width == self.widths[1 - side]:
                fix = "the other side has that many columns: x is for `left`, y for `right`"
            raise InputError(
                f"{argument(rows.name)}: has {rows.width} columns, and {self.widths[side]} were fitted", fix=fix
            )

    def embed(self, side: int, features: MatrixLike, name: str) -> Embeddings:
        """Unit rows of one side; side is 0 for the left one, else 1, and name that of the argument."""
        rows = Matrix(features, name)
        self.require_width(side, rows)
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
