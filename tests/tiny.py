"""Tiny backbones in the file layouts of the real ones, with seeded random weights; no download."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import torch
from torch import Tensor

TINY_TIMM = "resnet10t.c3_in1k"  # a pretrained tag, so that timm knows its preprocessing; 5 M weights


def esm2_checkpoint(
    folder: Path, *, name: str = "esm2_t6_8M_UR50D", layers: int = 2, width: int = 32, heads: int = 4
) -> Path:
    """An ESM-2 checkpoint as fair-esm publishes them: ``cfg.model`` and ``model`` with the training code's names."""
    import esm

    torch.manual_seed(0)
    module = esm.ESM2(num_layers=layers, embed_dim=width, attention_heads=heads, token_dropout=True)
    with torch.no_grad():
        for parameter in module.parameters():  # larger than at initialisation: a slip in attention then shows
            parameter.add_(0.3 * torch.randn_like(parameter))
    tensors: dict[str, Tensor] = {}
    for key, tensor in module.state_dict().items():
        if key.startswith("contact_head"):
            continue  # kept in a second file, which nobody needs for features
        prefix = "encoder." if key.startswith("lm_head") else "encoder.sentence_encoder."
        tensors[prefix + key] = tensor
    model = Namespace(
        encoder_layers=layers, encoder_embed_dim=width, encoder_attention_heads=heads, token_dropout=True, arch="esm2"
    )
    path = folder / f"{name}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"cfg": {"model": model}, "model": tensors}, path)
    return path


def timm_weights(folder: Path, name: str = TINY_TIMM) -> Path:
    """A safetensors file of a small timm model's weights."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    module = timm.create_model(name, pretrained=False)
    path = folder / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(module.state_dict(), path)
    return path


def sentence_folder(folder: Path, *, width: int = 32, layers: int = 2, max_tokens: int = 32) -> Path:
    """A sentence-transformers folder: a small BERT over a vocabulary of single characters, with mean pooling."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.manual_seed(0)
    characters = "abcdefghijklmnopqrstuvwxyz0123456789.,'-"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{letter}" for letter in characters)]
    base = folder / "transformer"
    base.mkdir(parents=True, exist_ok=True)
    (base / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * width,
        max_position_embeddings=2 * max_tokens,
    )
    BertModel(config).save_pretrained(base)
    BertTokenizerFast(vocab=str(base / "vocab.txt")).save_pretrained(base)
    transformer = Transformer(str(base), max_seq_length=max_tokens)
    model = SentenceTransformer(modules=[transformer, Pooling(width, pooling_mode="mean"), Normalize()], device="cpu")
    path = folder / "tiny-sentence"
    model.save(str(path))
    return path
