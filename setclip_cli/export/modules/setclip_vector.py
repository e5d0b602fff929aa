"""Vectors of an encoder that is not part of the model: one array a row, such as ``{"expression": row}``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sentence_transformers.base.modality_types import MODALITY_TO_PROCESSOR_ARG
from sentence_transformers.base.modules import InputModule


class SetClipVector(InputModule):
    """Rows of ``width`` numbers to ``sentence_embedding``, as they are."""

    config_file_name = "setclip_vector.json"
    config_keys: list[str] = ["name", "width", "encoder"]  # noqa: RUF012
    save_in_root = False

    def __init__(self, name: str, width: int, encoder: str | None = None) -> None:
        """
        Args:
            name: Of the modality, which is the key of its rows.
            encoder: The encoder whose vectors these are, as far as it is known.
        """
        super().__init__()
        self.name, self.width, self.encoder = name, width, encoder

    @property
    def modalities(self) -> list[str]:
        # The library has no name for vectors; a modality may have the name of something else that it knows.
        return [self.name] if self.name in MODALITY_TO_PROCESSOR_ARG else []

    def preprocess(self, inputs: list[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        rows = [row[self.name] if isinstance(row, dict) else row for row in inputs]
        values = torch.from_numpy(np.stack([np.asarray(row, dtype=np.float32) for row in rows]))
        if values.ndim != 2 or values.shape[1] != self.width:
            raise ValueError(f"this model reads vectors of {self.width} values, got an array of {tuple(values.shape)}")
        return {"sentence_embedding": values}

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return features

    def get_embedding_dimension(self) -> int:
        return self.width

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        self.save_config(output_path)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> SetClipVector:
        where = {key: kwargs[key] for key in ("token", "cache_folder", "revision", "local_files_only") if key in kwargs}
        return cls(**cls.load_config(model_name_or_path, subfolder=subfolder, **where))
