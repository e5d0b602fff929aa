"""The kinds of rows that setclip aligns."""

from __future__ import annotations

from typing import Literal, get_args

Modality = Literal["protein", "image", "caption"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)  # also the order of towers: the earlier one is the left
