"""Whether fitted encoders give embeddings at all: some fits end in a map that sends every row to zero."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from setclip_cli.errors import SetClipError
from setclip_cli.vectors import unusable_rows

if TYPE_CHECKING:
    from torch import Tensor

    from setclip_cli.encoders.base import Encoder

CHECKED = 256  # rows of each pool: a bad fit shows in all rows, and `embed` checks every row that it writes


def require_usable(what: str, encoders: tuple[Encoder, Encoder], pools: tuple[Tensor, Tensor], *, fix: str) -> None:
    """Embeds some rows of both pools.

    Args:
        what: Begins the message, such as ``"method 'cca'"``.
        pools: The features that the encoders were fitted to.

    Raises:
        SetClipError: an embedding is zero or not finite.
    """
    for side, encoder, pool in zip(("left", "right"), encoders, pools, strict=True):
        rows = pool[:: max(1, len(pool) // CHECKED)]
        with torch.no_grad():
            bad = unusable_rows(encoder(rows).float().cpu().numpy())
        if bad:
            raise SetClipError(
                f"{what}: the fit cannot be used: of {len(rows)} {side} rows, {len(bad)} get an embedding that "
                f"{next(iter(bad.values()))}",
                fix=fix,
            )
