"""sentence-transformers models of texts: a text becomes the pooled vector of the model's own modules."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from safetensors import safe_open
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor
from transformers.utils import logging as transformers_logging

from setclip_cli.backbones.augment import augment_text
from setclip_cli.backbones.base import Encoded, counted_layer
from setclip_cli.backbones.batching import Budget
from setclip_cli.backbones.devices import autocast, pinned
from setclip_cli.backbones.joint import named_space, not_joint
from setclip_cli.backbones.pooling import AttentionPooledText
from setclip_cli.backbones.tensors import identity_of, tensors_digest
from setclip_cli.errors import SetClipError, UsageError, translated
from setclip_cli.files.recognize import refuse_stand_ins_in

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL import Image

    from setclip_cli.backbones.weights import Spec
    from setclip_cli.dataset.modality import Modality, RowKind

SETTINGS_FILES = (
    "modules.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "sentence_bert_config.json",
    "*/config.json",
)
_HALVES = {"text": ("text_model", "text_projection"), "image": ("vision_model", "visual_projection")}
TOKENS_PER_BATCH = 1024  # on a CPU more is slower: a batch should fit in the processor's cache
TOKENS_PER_GPU_BATCH = 131_072  # tried first; halved when memory runs out


class SentenceBackbone:
    """A whole sentence-transformers pipeline (tokenizer, transformer, pooling, normalisation).

    ``default`` is the pipeline's own pooling. ``mean`` (over all tokens), ``cls`` and ``attention`` (a learned mean)
    replace it. With an inner layer, the modules after the transformer stay as they are.
    """

    modality: Modality = "caption"
    kind: RowKind = "text"
    column = "text"
    space: str | None = None

    def __init__(
        self,
        spec: str,
        model: SentenceTransformer,
        *,
        files: dict[str, str],
        pooling: str = "default",
        joint: bool = False,
    ) -> None:
        self.spec, self.pooling, self.files = spec, pooling, files
        if pooling != "default":
            _replace_pooling(spec, model, pooling)
        self.model = model.eval().requires_grad_(False)
        self.device = torch.device("cpu")
        self.budget = Budget(tokens=TOKENS_PER_BATCH)
        self.precision = torch.float32
        self.max_tokens = model.max_seq_length
        dim = model.get_embedding_dimension()
        assert dim is not None
        self.dim = int(dim)
        self.preprocessing = {"max_tokens": self.max_tokens}
        self.identity = self._identity()  # of the whole model, also if half of it is dropped
        if joint:
            self.space = shared_space(spec, model)
            keep_half(model, "text")
        self.blocks = max(
            (part for part in model.modules() if isinstance(part, torch.nn.ModuleList)),
            key=len,
            default=torch.nn.ModuleList(),
        )
        self.layers = max(1, len(self.blocks))

    def _identity(self) -> str:
        settings = {"kind": "sentence-transformers", "max_tokens": self.max_tokens, "files": self.files}
        if self.pooling != "default":
            settings["pooling"] = self.pooling
        return identity_of(self.model.state_dict(), settings)

    def cut(self, layer: int) -> None:
        kept = counted_layer(layer, self)
        if kept < self.layers:
            del self.blocks[kept:]
            self.layers, self.identity = kept, self._identity()

    @property
    def module(self) -> torch.nn.Module:
        return self.model

    def to(self, device: torch.device) -> SentenceBackbone:
        self.model.to(device)
        self.device = torch.device(device)
        if self.device.type == "cuda" and self.budget.tokens == TOKENS_PER_BATCH:
            self.budget = Budget(tokens=TOKENS_PER_GPU_BATCH)
        return self

    def encode(self, items: Sequence[str] | Sequence[bytes]) -> Encoded:
        """Texts to (n, dim), in batches of similar length. A text over the model's limit is cut there and counted."""
        texts = [str(item) for item in items]
        counts = self._token_counts(texts)
        limit = self.max_tokens or max(counts, default=0)
        lengths = [min(count, limit) for count in counts]
        features = torch.zeros(len(texts), self.dim)
        with torch.inference_mode():
            for batch, pooled in self.budget.map(lengths, lambda batch: self._pooled([texts[at] for at in batch])):
                features[batch] = pooled
        return Encoded(features, truncated=sum(count > limit for count in counts))

    def prepare(
        self, items: Sequence[str] | Sequence[bytes], *, views: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """Token ids and masks, padded to the longest text. A text over the model's limit is cut there."""
        texts = [str(item) for item in items]
        if views is not None:
            texts = [augment_text(text, view) for text, view in zip(texts, views, strict=True)]
        # A model that also reads images would take a text that is an address for an image, and fetch it.
        plain = self.model.modalities == ["text"]
        made = self.model.preprocess(texts if plain else [{"text": text} for text in texts])
        return {name: pinned(value, self.device) for name, value in made.items() if isinstance(value, Tensor)}

    def features(self, prepared: dict[str, Tensor]) -> Tensor:
        tokens = {name: value.to(self.device, non_blocking=True) for name, value in prepared.items()}
        with autocast(self.device, self.precision):
            pooled: Tensor = self.model(tokens)["sentence_embedding"]
        return pooled.float()

    def _pooled(self, texts: list[str]) -> Tensor:
        return self.features(self.prepare(texts)).cpu()

    def _token_counts(self, texts: list[str]) -> list[int]:
        """Tokens of each text before any cut, special ones included."""
        if not texts:
            return []
        return [len(ids) for ids in self.model.tokenizer(texts, truncation=False, verbose=False)["input_ids"]]


def _replace_pooling(spec: str, model: SentenceTransformer, pooling: str) -> None:
    at = next((name for name, module in model.named_children() if isinstance(module, Pooling)), None)
    if at is None:
        raise UsageError(
            f"pooling {pooling!r} of {spec}: its pipeline does not have a pooling module to replace",
            fix="choose the pooling default",
        )
    width = int(getattr(model[int(at)], "embedding_dimension"))  # noqa: B009  # typed as a tensor or module
    model[int(at)] = AttentionPooledText(width) if pooling == "attention" else Pooling(width, pooling_mode=pooling)


def load_sentence(
    spec: Spec, folder: Path, *, pooling: str, joint: bool = False, empty: bool = False
) -> SentenceBackbone:
    """Loads the text reader of a folder that `SentenceTransformer.save` wrote. Nothing in it is run as code.

    Args:
        joint: It is to be half of a joint model.
        empty: Leave out the numbers of the tensors (see `empty_backbone`).

    Raises:
        SetClipError: it names modules from outside of sentence-transformers, it does not load, or it is to be half of a
            joint model and is none.
    """
    model = load_pipeline(folder, "a text that every token of the model may see", empty=empty)
    return SentenceBackbone(str(spec), model, files=settings_of(folder, SETTINGS_FILES), pooling=pooling, joint=joint)


def load_pipeline(folder: Path, example: str | Image.Image, *, empty: bool = False) -> SentenceTransformer:
    """Loads all modules of a folder. Nothing in it is run as code.

    Args:
        example: An item that it reads, to see whether features are random for want of a tensor.
        empty: Leave out the numbers of the tensors (see `empty_backbone`).

    Raises:
        SetClipError: it names modules from outside of sentence-transformers, or it does not load.
    """
    modules = folder / "modules.json"
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # that of reading
    with translated(
        folder,
        Exception,
        found="does not load as a sentence-transformers model",
        fix="give the folder that SentenceTransformer.save() wrote, with all of its files",
    ):
        for module in json.loads(modules.read_text()) if modules.exists() else []:
            if not module["type"].startswith("sentence_transformers."):
                raise SetClipError(
                    f"{modules}: module {module['type']!r} is not code of sentence-transformers, so it is not run",
                    fix="choose a model made of sentence-transformers' own modules",
                )
        refuse_stand_ins_in(folder)
        model = _load(folder, seed=0, empty=empty)
        # What it does not read at all is for its caller to say.
        checked = not empty and (isinstance(example, str) or model.supports("image"))
        if checked and _lacks_tensors(folder, model) and _features_differ(model, _load(folder, seed=1), example):
            raise ValueError("its features depend on tensors that its weights file lacks")
    return model


def settings_of(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """The text of the folder's settings files with these names."""
    return {
        path.relative_to(folder).as_posix(): path.read_text() for name in names for path in sorted(folder.glob(name))
    }


def shared_space(spec: str, model: SentenceTransformer) -> str:
    """The space of a model that reads images and texts, or that is known to lead into the space of one that does.

    Raises:
        SetClipError: it reads texts alone.
    """
    if model.supports("image") and model.supports("text"):
        return tensors_digest(model.state_dict())
    if space := named_space(spec):
        return space
    raise not_joint(spec, f"reads {' and '.join(f'{kind}s' for kind in model.modalities)} alone")


def keep_half(model: SentenceTransformer, kept: Literal["text", "image"]) -> None:
    """Drops the part of a joint network that reads the other modality, so that it is neither kept nor trained."""
    network = model.transformers_model
    for name in _HALVES["image" if kept == "text" else "text"]:
        if network is not None and hasattr(network, name):
            delattr(network, name)


def _load(folder: Path, *, seed: int, empty: bool = False) -> SentenceTransformer:
    """Loads the model. Tensors that the weights file lacks (such as an unused head) are random, from ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        settings: dict[str, Any] = {"dtype": torch.float32} | ({"device_map": "meta"} if empty else {})
        device = None if empty else "cpu"
        return SentenceTransformer(str(folder), device=device, local_files_only=True, model_kwargs=settings)


def _lacks_tensors(folder: Path, model: SentenceTransformer) -> bool:
    """Whether the weights files lack a tensor of the model. Prefixes of wrapping models do not count."""
    stored: set[str] = set()
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            stored.update(file.keys())
    wanted = [re.sub(r"^(\d+\.)?(auto_model|model)\.", "", name) for name, _ in model.named_parameters()]
    return any(not any(have == name or have.endswith(f".{name}") for have in stored) for name in wanted)


def _features_differ(model: SentenceTransformer, other: SentenceTransformer, example: str | Image.Image) -> bool:
    return not np.allclose(model.encode(example), other.encode(example), atol=1e-6)
