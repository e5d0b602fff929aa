"""ESM-2 protein language models (Lin et al. 2023, Science 379) with fused attention and no head.

The same weights and, within rounding, the same features as fair-esm's own model (fair-esm is the oracle of the tests).
What is faster: one fused attention call, query, key and value in one product, rotary tables computed once for all
layers and batches, no language-model head, no attention weights kept, batches of one length.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from setclip_cli.backbones.augment import augment_protein
from setclip_cli.backbones.base import Encoded, counted_layer
from setclip_cli.backbones.batching import Budget, autocast, staged
from setclip_cli.backbones.pooling import AttentionPooling
from setclip_cli.backbones.tensors import identity_of, read_checkpoint
from setclip_cli.errors import SetClipError, first_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from setclip_cli.backbones.weights import Spec
    from setclip_cli.dataset.modality import Modality

# The 33 tokens in the order of the weights' rows: <cls> <pad> <eos> <unk>, the letters, <null_1>, <mask>.
LETTERS = "LAGVSERTIDPKQNFYMHWCXBUZO.-"
CLS, PAD, EOS = 0, 1, 2
FIRST_LETTER = 4
VOCABULARY = 33
UNKNOWN = "X"  # what a residue outside the alphabet (of the letters A to Z, that is J) is read as

WINDOW = 1022  # residues; with <cls> and <eos> the 1,024 tokens that ESM-2 was trained on
OVERLAP = 256  # residues that two neighbouring windows share at least
TOKENS_PER_BATCH = 1024  # on a CPU more is slower: a batch should stay in its cache
TOKENS_PER_GPU_BATCH = 131_072  # tried first; halved when memory runs out
_TRAINED_WITH_MASKS = 0.15 * 0.8  # share of tokens masked in training, which token dropout makes up for
_BYTE_TO_TOKEN = bytes(
    FIRST_LETTER + LETTERS.index(chr(byte)) if chr(byte) in LETTERS else FIRST_LETTER + LETTERS.index(UNKNOWN)
    for byte in range(256)
)


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions (Su et al. 2021, arXiv 2104.09864), fused."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        rows, tokens, width = x.shape
        split = (rows, tokens, self.heads, width // self.heads)
        q, k, v = (part.view(split).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        # Turned one by one: of the two stacked, torch 2.14 compiles a backward that holds the strides of one length.
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        joined: Tensor = self.out(mixed.transpose(1, 2).reshape(rows, tokens, width))
        return joined


class Layer(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin, mask)
        fed_forward: Tensor = self.narrow(F.gelu(self.widen(self.feed_forward_norm(x))))
        return x + fed_forward


class Esm2(nn.Module):
    """Tokens to last-layer representations."""

    inverse_frequencies: Tensor

    def __init__(self, layers: int, width: int, heads: int, *, token_dropout: bool = True) -> None:
        super().__init__()
        self.width, self.heads, self.token_dropout = width, heads, token_dropout
        self.embed_tokens = nn.Embedding(VOCABULARY, width, padding_idx=PAD)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.final_norm: nn.Module = nn.LayerNorm(width)
        head_width = width // heads
        frequencies = 1.0 / (10000 ** (torch.arange(0, head_width, 2).float() / head_width))
        self.register_buffer("inverse_frequencies", frequencies)
        self._tables: tuple[Tensor, Tensor] | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        """(b, t) token ids, right-padded with PAD, to (b, t, width); what stands at PAD positions means nothing."""
        padding = tokens.eq(PAD)
        padded = bool(padding.any())
        mask = (~padding)[:, None, None, :] if padded else None
        x: Tensor = self.embed_tokens(tokens)
        if self.token_dropout:  # no <mask> ever comes in, so the share observed is 0
            x = x * (1 - _TRAINED_WITH_MASKS)
        cos, sin = self._rotary_tables(tokens.shape[1], x)
        for layer in self.layers:
            x = layer(x, cos, sin, mask)
        representations: Tensor = self.final_norm(x)
        return representations

    def _rotary_tables(self, tokens: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin of position times frequency, (tokens, head width); kept, and grown when a batch is longer."""
        tables = self._tables
        if (
            tables is None
            or len(tables[0]) < tokens
            or tables[0].device != like.device
            or tables[0].dtype != like.dtype
        ):
            with torch.inference_mode(False):  # what inference keeps, training could not use
                positions = torch.arange(max(tokens, WINDOW + 2), device=like.device).float()
                angles = torch.outer(positions, self.inverse_frequencies.float())
                angles = torch.cat((angles, angles), dim=-1)
                tables = self._tables = angles.cos().to(like.dtype), angles.sin().to(like.dtype)
        return tables[0][:tokens], tables[1][:tokens]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns each pair (x_i, x_{i + half}) by its position's angle; x is (..., tokens, head width)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


@dataclass(frozen=True)
class Window:
    """A stretch of one item's residues and how much each residue counts in the item's mean."""

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

    As few windows as hold ``overlap`` shared residues, evenly spread, so that none is a short remainder.
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
    column = "sequence"

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
        self.attention_pooling = AttentionPooling(module.width) if pooling == "attention" else None
        module.add_module("attention_pooling", self.attention_pooling)
        self.module = module.eval().requires_grad_(False)
        self.dim, self.layers = module.width, len(module.layers)
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
            "heads": self.module.heads,
            "token_dropout": self.module.token_dropout,
            "pooling": self.pooling,
            **self.preprocessing,
        }
        return identity_of(self.module.state_dict(), settings)

    def cut(self, layer: int) -> None:
        kept = counted_layer(layer, self)
        if kept < self.layers:
            self.module.layers = self.module.layers[:kept]
            self.module.final_norm = nn.Identity()  # made for the last layer
            self.layers, self.identity = kept, self._identity()

    def to(self, device: torch.device) -> Esm2Backbone:
        self.module.to(device)
        self.device = torch.device(device)
        if self.device.type == "cuda" and self.budget.tokens == TOKENS_PER_BATCH:
            self.budget = Budget(tokens=TOKENS_PER_GPU_BATCH)
        return self

    def encode(self, items: Sequence[str] | Sequence[bytes]) -> Encoded:
        """Residues, one letter each, to (n, dim). Lower case is read as upper case, an unknown letter as X.

        A row with anything but letters, ``-`` and ``.`` (the alphabet's gap signs), or with nothing, fails.
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
        tokens = sequence.encode("ascii").translate(_BYTE_TO_TOKEN)
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
        tokens, weights, item = (staged(tensor, self.device) for tensor in (*self._padded(windows), item))
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
        tokens = torch.full((len(windows), longest), PAD)
        weights = torch.zeros(len(windows), longest)
        for row, window in enumerate(windows):
            residues = len(window.tokens)
            tokens[row, 0] = CLS
            tokens[row, 1 : residues + 1] = torch.frombuffer(bytearray(window.tokens), dtype=torch.uint8)
            tokens[row, residues + 1] = EOS
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
    """Upper case of ASCII letters only: that of ``ß`` would be two serines."""
    return sequence.upper() if sequence.isascii() else sequence


def _unreadable(sequence: str) -> str | None:
    """Why a sequence cannot be read, or None."""
    if not sequence:
        return "empty sequence"
    if match := re.search(r"[^A-Z.-]", sequence):
        return f"{match.group()!r} at residue {match.start() + 1} is no amino acid letter"
    return None


def load_esm2(spec: Spec, path: Path, *, pooling: str) -> Esm2Backbone:
    """Reads a checkpoint of fair-esm's layout: ``cfg.model`` and ``model`` with ``encoder.sentence_encoder.`` names.

    Raises:
        SetClipError: the file is no ESM-2 checkpoint, or its tensors do not fit its settings.
    """
    module = module_from_checkpoint(read_checkpoint(path), path)
    return Esm2Backbone(str(spec), module, pooling=pooling)


def module_from_checkpoint(checkpoint: Any, path: Path) -> Esm2:
    """Builds the model of a checkpoint; query, key and value are joined into one product."""
    try:
        settings, tensors = checkpoint["cfg"]["model"], checkpoint["model"]
        setting = settings.__getitem__ if isinstance(settings, dict) else settings.__getattribute__
        module = Esm2(
            setting("encoder_layers"),
            setting("encoder_embed_dim"),
            setting("encoder_attention_heads"),
            token_dropout=setting("token_dropout"),
        )
        module.load_state_dict(dict(_renamed(tensors, setting("encoder_layers"))))
    except (KeyError, AttributeError, TypeError, RuntimeError) as error:
        raise SetClipError(
            f"{path}: is no ESM-2 checkpoint of fair-esm's layout ({first_line(error)})",
            fix="give the .pt file as published, for instance esm2_t6_8M_UR50D.pt",
        ) from error
    return module.float()


def _renamed(tensors: dict[str, Tensor], layers: int) -> Iterable[tuple[str, Tensor]]:
    """fair-esm's names to ours, leaving out the language-model head."""
    plain = {re.sub(r"^encoder\.(sentence_encoder\.)?", "", name): tensor for name, tensor in tensors.items()}
    yield "embed_tokens.weight", plain["embed_tokens.weight"]
    for at in range(layers):
        theirs, ours = f"layers.{at}", f"layers.{at}"
        for leaf in ("weight", "bias"):
            parts = [plain[f"{theirs}.self_attn.{part}_proj.{leaf}"] for part in "qkv"]
            yield f"{ours}.attention.qkv.{leaf}", torch.cat(parts)
            yield f"{ours}.attention.out.{leaf}", plain[f"{theirs}.self_attn.out_proj.{leaf}"]
            yield f"{ours}.attention_norm.{leaf}", plain[f"{theirs}.self_attn_layer_norm.{leaf}"]
            yield f"{ours}.feed_forward_norm.{leaf}", plain[f"{theirs}.final_layer_norm.{leaf}"]
            yield f"{ours}.widen.{leaf}", plain[f"{theirs}.fc1.{leaf}"]
            yield f"{ours}.narrow.{leaf}", plain[f"{theirs}.fc2.{leaf}"]
    for leaf in ("weight", "bias"):
        yield f"final_norm.{leaf}", plain[f"emb_layer_norm_after.{leaf}"]
    yield "inverse_frequencies", plain["layers.0.self_attn.rot_emb.inv_freq"]
