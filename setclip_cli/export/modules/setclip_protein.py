"""Protein sequences to features: ESM-2 as transformers has it, read as setclip reads it.

One letter a residue. Lower case is read as upper case, J as X. A protein longer than `window` residues is read in
windows that overlap, and every residue counts once in the mean.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from sentence_transformers.base.modules import InputModule
from torch import Tensor, nn
from transformers import EsmConfig, EsmModel


class SetClipProtein(InputModule):
    """Sequences to ``sentence_embedding``."""

    config_file_name = "setclip_protein.json"
    config_keys: list[str] = [  # noqa: RUF012
        "esm",
        "tokens",
        "pooling",
        "window",
        "overlap",
        "final_norm",
    ]
    save_in_root = False

    def __init__(
        self, esm: dict[str, Any], tokens: list[str], pooling: str, window: int, overlap: int, final_norm: bool = True
    ) -> None:
        """
        Args:
            esm: What `transformers.EsmConfig` takes.
            tokens: The alphabet; a token's place is its number.
            pooling: mean (over residues), cls or attention.
            final_norm: Whether the last layer is followed by its norm; not so behind an inner layer.
        """
        super().__init__()
        self.esm, self.tokens, self.pooling, self.final_norm = esm, tokens, pooling, final_norm
        self.window, self.overlap = window, overlap
        self.model = EsmModel(EsmConfig(**esm), add_pooling_layer=False)
        self.model.contact_head = nn.Identity()  # it has no part in the features
        if not final_norm:
            self.model.encoder.emb_layer_norm_after = nn.Identity()
        self.query = nn.Parameter(torch.zeros(self.model.config.hidden_size)) if pooling == "attention" else None
        numbers = {token: number for number, token in enumerate(tokens)}
        self.cls, self.eos, self.pad, unknown = (numbers[token] for token in ("<cls>", "<eos>", "<pad>", "X"))
        self.numbers = [numbers.get(chr(code), unknown) for code in range(128)]

    @property
    def modalities(self) -> list[str]:
        return ["text"]

    def preprocess(self, inputs: list[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        rows: list[tuple[int, list[int], list[float]]] = []  # item, tokens, and how much each token counts
        for item, given in enumerate(inputs):
            sequence = given.upper() if isinstance(given, str) and given.isascii() else str(given)
            if not sequence or (found := re.search(r"[^A-Z.-]", sequence)):
                what = "is empty" if not sequence else f"holds {found.group()!r}"
                raise ValueError(f"protein {item} of the batch {what}; give one letter a residue")
            numbers = [self.numbers[ord(letter)] for letter in sequence]
            spans = self.spans(len(numbers))
            covered = [0] * len(numbers)
            for start, end in spans:
                for at in range(start, end):
                    covered[at] += 1
            for start, end in spans:
                weights = [1 / (covered[at] * len(numbers)) for at in range(start, end)]
                if self.pooling == "cls":
                    weights = [sum(weights), *([0.0] * (end - start)), 0.0]
                else:
                    weights = [0.0, *weights, 0.0]
                rows.append((item, [self.cls, *numbers[start:end], self.eos], weights))
        longest = max(len(numbers) for _, numbers, _ in rows)
        tokens = torch.full((len(rows), longest), self.pad)
        counts = torch.zeros(len(rows), longest)
        of_item = torch.zeros(len(inputs), len(rows))
        for row, (item, numbers, weights) in enumerate(rows):
            tokens[row, : len(numbers)] = torch.tensor(numbers)
            counts[row, : len(numbers)] = torch.tensor(weights)
            of_item[item, row] = 1
        return {"input_ids": tokens, "token_weights": counts, "windows": of_item, "modality": "text"}

    def spans(self, length: int) -> list[tuple[int, int]]:
        """Start and end of the fewest windows that cover a protein and share at least `overlap` residues."""
        if length <= self.window:
            return [(0, length)]
        count = 1 + -(-(length - self.window) // (self.window - self.overlap))
        starts = [index * (length - self.window) // (count - 1) for index in range(count)]
        return [(start, start + self.window) for start in starts]

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        features["sentence_embedding"] = self.pooled(
            features["input_ids"], features["token_weights"], features["windows"]
        )
        return features

    def pooled(self, tokens: Tensor, weights: Tensor, windows: Tensor) -> Tensor:
        """(w, t) tokens and their weights, and which windows each item has (n, w), to (n, d)."""
        mask = (tokens != self.pad).long()
        hidden = self.model(input_ids=tokens, attention_mask=mask).last_hidden_state.float()
        if self.query is not None:
            scores = hidden @ self.query * len(self.query) ** -0.5
            scores = scores.masked_fill(weights == 0, -torch.inf)
            weights = weights.sum(1, keepdim=True) * torch.softmax(weights.clamp_min(1e-30).log() + scores, dim=1)
        parts = torch.bmm(weights[:, None], hidden)[:, 0]
        return windows @ parts

    def get_embedding_dimension(self) -> int:
        return int(self.model.config.hidden_size)

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> SetClipProtein:
        where = {
            key: kwargs[key] for key in ("token", "cache_folder", "revision", "local_files_only") if key in kwargs
        } | {"subfolder": subfolder}
        model = cls(**cls.load_config(model_name_or_path, **where))
        cls.load_torch_weights(model_name_or_path, model=model, **where)
        return model
