"""Tiny backbones in the file layouts of the real ones, with seeded random weights, and tiny DATASETs; no download."""

from __future__ import annotations

import hashlib
import io
import random
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from setclip_cli.dataset.dataset import INDEX_NAME, DatasetIndex, write_shard
from setclip_cli.dataset.modality import KINDS_OF_NAMES, Modality
from setclip_cli.dataset.schemas import schema_of
from setclip_cli.files import atomic
from setclip_cli.files.documents import unsigned, write_document

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


def clip_folder(folder: Path, *, width: int = 8, image_px: int = 16, seed: int = 0) -> Path:
    """A sentence-transformers folder of a CLIP: images and texts, each through a small transformer and a projection."""
    import json

    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Transformer
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizerFast

    torch.manual_seed(seed)
    characters = "abcdefghijklmnopqrstuvwxyz0123456789.,'-"
    tokens = [*characters, *(f"{letter}</w>" for letter in characters), "<|startoftext|>", "<|endoftext|>"]
    base = folder / f"clip-{seed}"
    base.mkdir(parents=True, exist_ok=True)
    (base / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (base / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizerFast(
        vocab=str(base / "vocab.json"), merges=str(base / "merges.txt"), model_max_length=2 * image_px
    )
    part = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = part | {
        "vocab_size": len(tokens),
        "max_position_embeddings": 2 * image_px,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    image = part | {"image_size": image_px, "patch_size": image_px // 2, "num_hidden_layers": 3}
    module = CLIPModel(CLIPConfig(text_config=text, vision_config=image, projection_dim=width))
    with torch.no_grad():
        for parameter in module.parameters():  # larger than at initialisation: so that rows differ
            parameter.add_(0.2 * torch.randn_like(parameter))
    module.save_pretrained(base)
    processor = CLIPImageProcessor(size={"shortest_edge": image_px}, crop_size={"height": image_px, "width": image_px})
    CLIPProcessor(image_processor=processor, tokenizer=tokenizer).save_pretrained(base)
    path = folder / f"tiny-clip-{seed}"
    SentenceTransformer(modules=[Transformer(str(base))], device="cpu").save(str(path))
    return path


def proteins(count: int, *, seed: int = 0, longest: int = 120) -> list[str]:
    """Random sequences of 1 to ``longest`` residues."""
    draw = random.Random(seed)
    return ["".join(draw.choices("ACDEFGHIKLMNPQRSTVWY", k=draw.randint(1, longest))) for _ in range(count)]


def jpeg(seed: int, *, size: tuple[int, int] = (64, 48), kind: str = "JPEG", mode: str = "RGB") -> bytes:
    """The file bytes of a seeded image with some structure."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).convert(mode).save(file, kind)
    return file.getvalue()


def edit_document(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes a JSON file of ours and gives it the hash that fits: only its content is wrong then, not its bytes."""
    content, _ = unsigned(path.read_bytes())
    change(content)
    write_document(path, content)


def write_dataset(
    root: Path, rows: dict[Modality, Sequence[str] | Sequence[bytes]], *, rows_per_shard: int = 4, split: str = "train"
) -> Path:
    """A DATASET of these payloads, ids ``<modality>-<n>``, labels ``even`` and ``odd``; it replaces the index."""
    shards = []
    for modality, payloads in rows.items():
        for start in range(0, len(payloads), rows_per_shard):
            part = list(enumerate(payloads))[start : start + rows_per_shard]
            records = [_record(modality, split, number, payload) for number, payload in part]
            relative = f"{modality}/{split}-{start // rows_per_shard:05}.parquet"
            table = pa.Table.from_pylist(records, schema=schema_of(KINDS_OF_NAMES[modality]))
            shards.append(write_shard(root, relative, table, modality=modality, split=split))
    atomic.write_json(root / INDEX_NAME, DatasetIndex(shards=shards).model_dump())
    return root


def _record(modality: Modality, split: str, number: int, payload: str | bytes) -> dict[str, object]:
    content = payload.encode() if isinstance(payload, str) else payload
    record: dict[str, object] = {
        "id": f"{modality}-{number}",
        "split": split,
        "source": "tiny",
        "sha256": hashlib.sha256(content).hexdigest(),
        "label": ("even", "odd")[number % 2],
    }
    if modality == "protein":
        return record | {"sequence": payload, "length": len(payload)}
    if modality == "caption":
        return record | {"text": payload}
    return record | {"image": payload, "width": 64, "height": 48}


def pools(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Two pools of three clusters each, of different widths and sizes, and two pairs a cluster."""
    draw = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(3, 12, generator=draw)
    mixing = torch.randn(12, 20, generator=draw) / 12**0.5
    left = centres.repeat(20, 1) + torch.randn(60, 12, generator=draw)
    right = (centres.repeat(30, 1) + torch.randn(90, 12, generator=draw)) @ mixing
    return left, right, torch.arange(6).repeat(2, 1).T.contiguous()
