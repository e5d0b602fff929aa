"""A learned mean of a text's tokens, in the place of the pooling of sentence-transformers."""

from __future__ import annotations

from typing import Any

import torch
from sentence_transformers.base.modules import Module
from torch import nn


class SetClipAttentionPooling(Module):
    """Token weights softmax(h q / √d); ``token_embeddings`` to ``sentence_embedding``."""

    config_keys: list[str] = ["width"]  # noqa: RUF012

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.query = nn.Parameter(torch.zeros(width))

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        hidden = features["token_embeddings"]
        scores = hidden.float() @ self.query * self.width**-0.5
        scores = scores.masked_fill(features["attention_mask"] == 0, -torch.inf)
        features["sentence_embedding"] = torch.bmm(torch.softmax(scores, dim=1)[:, None].to(hidden.dtype), hidden)[:, 0]
        return features

    def get_embedding_dimension(self) -> int:
        return self.width

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> SetClipAttentionPooling:
        where = {
            key: kwargs[key] for key in ("token", "cache_folder", "revision", "local_files_only") if key in kwargs
        } | {"subfolder": subfolder}
        model = cls(**cls.load_config(model_name_or_path, **where))
        cls.load_torch_weights(model_name_or_path, model=model, **where)
        return model
