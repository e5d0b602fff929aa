"""sentence-transformers text models: texts to the pooled vector that the model's own modules give."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from sentence_transformers import SentenceTransformer
from transformers.utils import logging as transformers_logging

from setclip_cli.backbones.base import Encoded
from setclip_cli.backbones.batching import token_budget_batches
from setclip_cli.backbones.weights import identity_of
from setclip_cli.errors import SetClipError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from setclip_cli.backbones.weights import Spec
    from setclip_cli.shards import Modality

BATCH = 64


class SentenceBackbone:
    """A whole sentence-transformers pipeline (tokenizer, transformer, pooling, normalisation)."""

    modality: Modality = "caption"
    column = "text"
    pooling = "default"

    def __init__(self, spec: str, model: SentenceTransformer, *, settings: dict[str, str]) -> None:
        self.spec = spec
        self.model = model.eval().requires_grad_(False)
        self.device = torch.device("cpu")
        self.max_tokens = model.max_seq_length
        dim = model.get_embedding_dimension()
        assert dim is not None
        self.dim = int(dim)
        self.identity = identity_of(
            model.state_dict(), {"kind": "sentence-transformers", "max_tokens": self.max_tokens, "files": settings}
        )

    @property
    def module(self) -> torch.nn.Module:
        return self.model

    def to(self, device: torch.device) -> SentenceBackbone:
        self.model.to(device)
        self.device = torch.device(device)
        return self

    def encode(self, items: Sequence[str] | Sequence[bytes], *, batch_size: int | None = None) -> Encoded:
        """Texts to (n, dim), in batches of like length; a text over the model's limit is cut there and counted."""
        texts = [str(item) for item in items]
        lengths = self._token_counts(texts)
        truncated = sum(length > self.max_tokens for length in lengths) if self.max_tokens else 0
        features = torch.zeros(len(texts), self.dim)
        budget = max([1, *lengths]) * (batch_size or BATCH)
        with torch.inference_mode():
            for batch in token_budget_batches(lengths, budget, batch_size or BATCH):
                tokens = self.model.preprocess([texts[index] for index in batch])
                tokens = {
                    name: value.to(self.device) for name, value in tokens.items() if isinstance(value, torch.Tensor)
                }
                features[batch] = self.model(tokens)["sentence_embedding"].float().cpu()
        return Encoded(features, truncated=truncated)

    def _token_counts(self, texts: list[str]) -> list[int]:
        """Tokens of each text before any cut, special ones included."""
        if not texts:
            return []
        return [len(ids) for ids in self.model.tokenizer(texts, truncation=False, verbose=False)["input_ids"]]


def load_sentence(spec: Spec, folder: Path, *, device: torch.device | str) -> SentenceBackbone:
    """Loads a folder that `SentenceTransformer.save` wrote. Nothing in it is run as code.

    Raises:
        SetClipError: it names modules from outside sentence-transformers, or does not load.
    """
    modules = folder / "modules.json"
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # of reading the file, which takes a moment
    try:
        for module in json.loads(modules.read_text()) if modules.exists() else []:
            if not module["type"].startswith("sentence_transformers."):
                raise SetClipError(
                    f"{modules}: module {module['type']!r} is no code of sentence-transformers, so it is not run",
                    fix="choose a model made of sentence-transformers' own modules",
                )
        model = SentenceTransformer(
            str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": torch.float32}
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise SetClipError(
            f"{folder}: does not load as a sentence-transformers model ({str(error).splitlines()[0]})",
            fix="give the folder that SentenceTransformer.save() wrote",
        ) from error
    names = ("modules.json", "tokenizer.json", "tokenizer_config.json", "sentence_bert_config.json", "*/config.json")
    files = {
        path.relative_to(folder).as_posix(): path.read_text() for name in names for path in sorted(folder.glob(name))
    }
    return SentenceBackbone(str(spec), model, settings=files).to(torch.device(device))
