"""Attention pooling: a learned query decides how much each token counts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class AttentionPooling(nn.Module):
    """Token weights softmax(log w + h q / √d), where w are the weights of the mean and q is learned.

    The query starts at 0. There the result is the mean, so the features start as those of ``mean`` pooling.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(width))

    def forward(self, hidden: Tensor, weights: Tensor) -> Tensor:
        """(b, t) float32 weights of the tokens, with the row sums of ``weights``.

        Args:
            hidden: (b, t, d) token features.
            weights: (b, t) at least 0; 0 for padding; some of each row above 0.
        """
        scores = hidden.float() @ self.query * len(self.query) ** -0.5
        return weights.sum(1, keepdim=True) * torch.softmax(weights.log() + scores, dim=1)


class AttentionPooledText(nn.Module):
    """`AttentionPooling` as a module of a sentence-transformers pipeline, in the place of its own pooling."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention_pooling = AttentionPooling(width)

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        hidden, mask = features["token_embeddings"], features["attention_mask"].float()
        weights = self.attention_pooling(hidden, mask / mask.sum(1, keepdim=True))
        return {**features, "sentence_embedding": torch.bmm(weights[:, None].to(hidden.dtype), hidden)[:, 0]}
