"""ESM-2 protein language models (Lin et al. 2023, Science 379): fair-esm's model with a fused attention.

Weights, layers and tokens are fair-esm's. What is faster: one fused attention call, query, key and value in one
product, rotary tables computed once for all layers and batches, no language-model head, no attention weights kept,
batches of one length. The features equal those of fair-esm's own model within rounding (the tests compare them).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from esm.data import Alphabet
from esm.model.esm2 import ESM2
from esm.modules import TransformerLayer
from esm.rotary_embedding import RotaryEmbedding, apply_rotary_pos_emb
from torch import Tensor, nn
from torch.nn import functional as F

from setclip_cli.backbones.augment import augment_protein
from setclip_cli.backbones.base import Encoded, counted_layer
from setclip_cli.backbones.batching import Budget
from setclip_cli.backbones.devices import autocast, pinned
from setclip_cli.backbones.former_names import with_former_names
from setclip_cli.backbones.pooling import AttentionPooling
from setclip_cli.backbones.tensors import identity_of, read_checkpoint
from setclip_cli.errors import SetClipError, translated

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from setclip_cli.backbones.weights import Spec
    from setclip_cli.dataset.modality import Modality, RowKind

ALPHABET = Alphabet.from_architecture("ESM-1b")  # of every ESM-2 model too
UNKNOWN = "X"  # a residue outside the alphabet (of the letters A to Z, that is J) is read as this one

WINDOW = 1022  # residues; with <cls> and <eos> the 1,024 tokens that ESM-2 was trained on
OVERLAP = 256  # residues that two neighbouring windows share at least
TOKENS_PER_BATCH = 1024  # on a CPU more is slower: a batch should fit in the processor's cache
TOKENS_PER_GPU_BATCH = 131_072  # tried first; halved when memory runs out
_TOKEN_OF_BYTE = bytes(ALPHABET.to_dict().get(chr(byte), ALPHABET.get_idx(UNKNOWN)) for byte in range(256))


class Rotary(RotaryEmbedding):  # type: ignore[misc]
    """fair-esm's rotary positions (Su et al. 2021, arXiv 2104.09864) with one pair of tables for all lengths."""

    def reach(self, tokens: int) -> None:
        """Makes sure that the tables hold ``tokens`` positions on the device of the weights."""
        tables = self._cos_cached
        if tables is None or tables.shape[1] < tokens or tables.device != self.inv_freq.device:
            with torch.inference_mode(False):  # training cannot use what inference mode makes
                self._update_cos_sin_tables(self.inv_freq.new_empty(1, max(tokens, WINDOW + 2)))

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        # Turned one by one: of the two stacked, torch 2.14 compiles a backward that holds the strides of one length.
        cos, sin = self._cos_cached, self._sin_cached
        return apply_rotary_pos_emb(q, cos, sin), apply_rotary_pos_emb(k, cos, sin)


class FusedAttention(nn.Module):
    """Multi-head self-attention with rotary positions; takes the place of fair-esm's MultiheadAttention."""

    def __init__(self, width: int, heads: int, rotary: Rotary) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)
        self.rot_emb = rotary

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """(t, b, width) to the same shape; ``padding`` (b, t) is True where there is no token."""
        tokens, rows, width = x.shape
        by_head = (tokens, rows, self.heads, width // self.heads)
        q, k, v = (part.view(by_head).permute(1, 2, 0, 3) for part in self.qkv(x).chunk(3, dim=-1))
        q, k = self.rot_emb(q, k)
        mask = None if padding is None else ~padding[:, None, None, :]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        joined: Tensor = self.out_proj(mixed.permute(2, 0, 1, 3).reshape(tokens, rows, width))
        return joined


class Layer(TransformerLayer):  # type: ignore[misc]
    """fair-esm's layer with `FusedAttention`, and torch's own GELU: fair-esm's spells it out, five times as slow."""

    def __init__(self, width: int, heads: int, rotary: Rotary) -> None:
        super().__init__(width, 4 * width, heads, add_bias_kv=False, use_esm1b_layer_norm=True)
        self.self_attn = FusedAttention(width, heads, rotary)
        for name in ("self_attn_layer_norm", "self_attn", "final_layer_norm", "fc1", "fc2"):
            self._modules[name] = self._modules.pop(name)  # the order in which checkpoints number optimizer states

    def forward(self, x: Tensor, self_attn_padding_mask: Tensor | None, **_: Any) -> tuple[Tensor, None]:
        x = x + self.self_attn(self.self_attn_layer_norm(x), self_attn_padding_mask)
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x)))), None


class Esm2(ESM2):  # type: ignore[misc]
    """fair-esm's ESM-2 without its two heads: tokens to last-layer representations."""

    def __init__(self, layers: int, width: int, heads: int, *, token_dropout: bool = True) -> None:
        super().__init__(layers, width, heads, ALPHABET, token_dropout)
        rotary = Rotary(width // heads)
        self.layers = nn.ModuleList(Layer(width, heads, rotary) for _ in range(layers))
        self.lm_head = nn.Identity()
        del self.contact_head

    def forward(self, tokens: Tensor) -> Tensor:
        """(b, t) token ids, right-padded, to (b, t, width); the values at padding positions have no meaning."""
        first: Any = self.layers[0]
        first.self_attn.rot_emb.reach(tokens.shape[1])  # outside of the layers, which may be compiled
        last = len(self.layers)
        representations: Tensor = super().forward(tokens, repr_layers=[last])["representations"][last]
        return representations


@dataclass(frozen=True)
class Window:
    """A part of one item's residues, and how much each residue counts in the item's mean."""

    item: int
    tokens: bytes
    weights: list[float] | None  # None: all 1 / length of the item


@dataclass(frozen=True)
class Windows:
    """A padded batch of windows: tokens and pooling weights (w, t), and which of the ``items`` each belongs to."""

    tokens: Tensor
    weights: Tensor
    item: Tensor
    items: int


def windows_of(length: int, window: int = WINDOW, overlap: int = OVERLAP) -> list[tuple[int, int]]:
    """Start and end of the overlapping windows that cover ``length`` residues.

    The fewest windows that share at least ``overlap`` residues, evenly spread, so that no window is short.
    """
    if length <= window:
        return [(0, length)]
    count = 1 + -(-(length - window) // (window - overlap))
    starts = [index * (length - window) // (count - 1) for index in range(count)]
    return [(start, start + window) for start in starts]


class Esm2Backbone:
    """ESM-2 as a feature extractor: the mean over residues (or <cls>) of the last layer.

    A protein longer than ``window`` residues is read in overlapping windows. With ``mean`` pooling every residue counts
    once: where windows overlap, its representations are averaged. With ``cls`` the windows' <cls> are averaged, with
    ``attention`` each window's residues are weighted among themselves.
    """

    modality: Modality = "protein"
    kind: RowKind = "protein"
    column = "sequence"
    space: str | None = None  # no model of proteins shares one with captions

    def __init__(
        self,
        spec: str,
        module: Esm2,
        *,
        pooling: str = "mean",
        window: int = WINDOW,
        overlap: int = OVERLAP,
        tokens_per_batch: int = TOKENS_PER_BATCH,
    ) -> None:
        self.spec = spec
        self.attention_pooling = AttentionPooling(module.embed_dim) if pooling == "attention" else None
        module.add_module("attention_pooling", self.attention_pooling)
        self.module = module.eval().requires_grad_(False)
        self.dim, self.layers = module.embed_dim, len(module.layers)
        self.pooling = pooling
        self.window, self.overlap = window, overlap
        self.budget = Budget(tokens=tokens_per_batch)
        self.precision = torch.float32
        self.device = torch.device("cpu")
        self.preprocessing = {"window_residues": window, "overlap_residues": overlap, "unknown_letter": UNKNOWN}
        self.identity = self._identity()

    def _identity(self) -> str:
        settings = {
            "kind": "esm2",
            "heads": self.module.attention_heads,
            "token_dropout": self.module.token_dropout,
            "pooling": self.pooling,
            **self.preprocessing,
        }
        return identity_of(with_former_names(self.module.state_dict()), settings)

    def cut(self, layer: int) -> None:
        kept = counted_layer(layer, self)
        if kept < self.layers:
            self.module.layers = self.module.layers[:kept]
            self.module.emb_layer_norm_after = nn.Identity()  # made for the last layer
            self.layers, self.identity = kept, self._identity()

    def to(self, device: torch.device) -> Esm2Backbone:
        self.module.to(device)
        self.device = torch.device(device)
        if self.device.type == "cuda" and self.budget.tokens == TOKENS_PER_BATCH:
            self.budget = Budget(tokens=TOKENS_PER_GPU_BATCH)
        return self

    def encode(self, items: Sequence[str] | Sequence[bytes]) -> Encoded:
        """Residues, one letter each, to (n, dim). Lower case is read as upper case, an unknown letter as X.

        An empty row fails, and so does one with anything but letters and the alphabet's gap signs ``-`` and ``.``.
        """
        sequences = [_upper(str(item)) for item in items]
        failed = {index: reason for index, text in enumerate(sequences) if (reason := _unreadable(text))}
        windows = [
            window
            for index, text in enumerate(sequences)
            if index not in failed
            for window in self._windows(index, text)
        ]
        features = torch.zeros(len(sequences), self.dim)
        lengths = [len(window.tokens) + 2 for window in windows]
        with torch.inference_mode():
            for batch, pooled in self.budget.map(lengths, lambda batch: self._pooled([windows[at] for at in batch])):
                features.index_add_(0, torch.tensor([windows[at].item for at in batch]), pooled)
        counts = [0] * len(sequences)
        for window in windows:
            counts[window.item] += 1
        replaced = sum(text.count("J") for index, text in enumerate(sequences) if index not in failed)
        return Encoded(features, windows=counts, replaced_letters=replaced, failed=failed)

    def _windows(self, item: int, sequence: str) -> list[Window]:
        tokens = sequence.encode("ascii").translate(_TOKEN_OF_BYTE)
        spans = windows_of(len(tokens), self.window, self.overlap)
        if len(spans) == 1:
            return [Window(item, tokens, None)]
        covered = [0] * len(tokens)
        for start, end in spans:
            for position in range(start, end):
                covered[position] += 1
        return [
            Window(item, tokens[start:end], [1 / (covered[at] * len(tokens)) for at in range(start, end)])
            for start, end in spans
        ]

    def prepare(self, items: Sequence[str] | Sequence[bytes], *, views: Sequence[int] | None = None) -> Windows:
        """The windows of all items as one padded batch."""
        sequences = [_upper(str(item)) for item in items]
        for text in sequences:
            if reason := _unreadable(text):
                raise SetClipError(f"a protein: {reason}", fix="remove it from its source and ingest again")
        if views is not None:
            sequences = [augment_protein(text, view) for text, view in zip(sequences, views, strict=True)]
        windows = [window for index, text in enumerate(sequences) for window in self._windows(index, text)]
        item = torch.tensor([window.item for window in windows])
        tokens, weights, item = (pinned(tensor, self.device) for tensor in (*self._padded(windows), item))
        return Windows(tokens, weights, item, len(sequences))

    def features(self, prepared: Windows) -> Tensor:
        parts = self._forward(prepared.tokens, prepared.weights)
        empty = parts.new_zeros(prepared.items, self.dim)
        return empty.index_add(0, prepared.item.to(self.device, non_blocking=True), parts)

    def _pooled(self, windows: Sequence[Window]) -> Tensor:
        """(b, dim) float32 on the CPU: each window's part of its item's feature; the parts of an item add up to it."""
        return self._forward(*self._padded(windows)).cpu()

    def _padded(self, windows: Sequence[Window]) -> tuple[Tensor, Tensor]:
        """(b, t) token ids and the (b, t) weights with which their representations are pooled."""
        longest = max(len(window.tokens) for window in windows) + 2
        tokens = torch.full((len(windows), longest), ALPHABET.padding_idx)
        weights = torch.zeros(len(windows), longest)
        for row, window in enumerate(windows):
            residues = len(window.tokens)
            tokens[row, 0] = ALPHABET.cls_idx
            tokens[row, 1 : residues + 1] = torch.frombuffer(bytearray(window.tokens), dtype=torch.uint8)
            tokens[row, residues + 1] = ALPHABET.eos_idx
            of_residues = torch.tensor(window.weights) if window.weights else torch.full((residues,), 1 / residues)
            if self.pooling == "cls":
                weights[row, 0] = of_residues.sum()
            else:
                weights[row, 1 : residues + 1] = of_residues
        return tokens, weights

    def _forward(self, tokens: Tensor, weights: Tensor) -> Tensor:
        with autocast(self.device, self.precision):
            hidden = self.module(tokens.to(self.device, non_blocking=True)).float()
        weights = weights.to(self.device, non_blocking=True)
        if self.attention_pooling is not None:
            weights = self.attention_pooling(hidden, weights)
        return torch.bmm(weights[:, None, :], hidden)[:, 0]


def _upper(sequence: str) -> str:
    """Upper case of ASCII letters only: the upper case of ``ß`` would be two serines."""
    return sequence.upper() if sequence.isascii() else sequence


def _unreadable(sequence: str) -> str | None:
    """Why a sequence cannot be read, or None."""
    if not sequence:
        return "empty sequence"
    if match := re.search(r"[^A-Z.-]", sequence):
        return f"{match.group()!r} at residue {match.start() + 1} is not an amino acid letter"
    return None


def load_esm2(spec: Spec, path: Path | None, *, pooling: str, empty: bool = False) -> Esm2Backbone:
    """Loads a checkpoint as fair-esm publishes it: ``cfg.model`` with the settings, ``model`` with the tensors.

    fair-esm's own loader fails on torch >= 2.6 and wants a second file, of contact regression weights.

    Args:
        path: The checkpoint. Without it, an empty model has the number of layers that its name says.
        empty: Leave out the numbers of the tensors (see `empty_backbone`).

    Raises:
        SetClipError: the file is not an ESM-2 checkpoint, or its tensors do not fit its settings.
    """
    if path is None:
        layers = int(spec.name.split("_")[1].removeprefix("t"))  # esm2_t33_650M_UR50D
        with torch.device("meta"):
            module = Esm2(layers, 20, 20)
    else:
        module = module_from_checkpoint(read_checkpoint(path, empty=empty), path, empty=empty)
    return Esm2Backbone(str(spec), module, pooling=pooling)


def module_from_checkpoint(checkpoint: Any, path: Path, *, empty: bool = False) -> Esm2:
    """Builds the model of a checkpoint.

    Raises:
        SetClipError: as `load_esm2` does.
    """
    with translated(
        path,
        Exception,
        found="is not an ESM-2 checkpoint of fair-esm's layout",
        fix="give the .pt file as published, for instance esm2_t6_8M_UR50D.pt",
    ):
        settings, stored = checkpoint["cfg"]["model"], checkpoint["model"]
        setting = settings.__getitem__ if isinstance(settings, dict) else settings.__getattribute__
        with torch.device("meta"):  # no memory and no random numbers for weights that the file replaces
            module = Esm2(
                setting("encoder_layers"),
                setting("encoder_embed_dim"),
                setting("encoder_attention_heads"),
                token_dropout=setting("token_dropout"),
            )
        tensors = {re.sub(r"^encoder\.(sentence_encoder\.)?", "", name): tensor for name, tensor in stored.items()}
        if empty:
            return module
        module.load_state_dict({name: _tensor(name, tensors) for name in module.state_dict()}, assign=True)
    module.float()
    return module


def _tensor(name: str, tensors: dict[str, Tensor]) -> Tensor:
    """The tensor of one of our names: query, key and value are joined, all others are as fair-esm has them."""
    if ".qkv." in name:
        return torch.cat([tensors[name.replace("qkv", f"{part}_proj")] for part in "qkv"])
    return tensors[name]
