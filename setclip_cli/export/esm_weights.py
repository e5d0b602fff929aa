"""ESM-2's weights in the names of transformers, from our module of fair-esm's layout."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from setclip_cli.backbones.esm2 import ALPHABET

if TYPE_CHECKING:
    from torch import Tensor

    from setclip_cli.backbones.esm2 import Esm2

_NAMES = {
    r"^embed_tokens\.": "embeddings.word_embeddings.",
    r"^emb_layer_norm_after\.": "encoder.emb_layer_norm_after.",
    r"^layers\.(\d+)\.self_attn\.out_proj\.": r"encoder.layer.\1.attention.output.dense.",
    r"^layers\.(\d+)\.self_attn_layer_norm\.": r"encoder.layer.\1.attention.LayerNorm.",
    r"^layers\.(\d+)\.fc1\.": r"encoder.layer.\1.intermediate.dense.",
    r"^layers\.(\d+)\.fc2\.": r"encoder.layer.\1.output.dense.",
    r"^layers\.(\d+)\.final_layer_norm\.": r"encoder.layer.\1.LayerNorm.",
}
_QKV = re.compile(r"^layers\.(\d+)\.self_attn\.qkv\.(weight|bias)$")


def esm_settings(module: Esm2) -> dict[str, Any]:
    """What `transformers.EsmConfig` takes for this model."""
    return {
        "vocab_size": len(ALPHABET.all_toks),
        "mask_token_id": ALPHABET.mask_idx,
        "pad_token_id": ALPHABET.padding_idx,
        "hidden_size": module.embed_dim,
        "num_hidden_layers": len(module.layers),
        "num_attention_heads": module.attention_heads,
        "intermediate_size": 4 * module.embed_dim,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "max_position_embeddings": 1026,
        "position_embedding_type": "rotary",
        "emb_layer_norm_before": False,
        "token_dropout": bool(module.token_dropout),
        "layer_norm_eps": 1e-5,
    }


def esm_tensors(module: Esm2) -> dict[str, Tensor]:
    """The tensors of `transformers.EsmModel`, apart from the frequencies of the rotary positions, which it makes."""
    found: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        if joined := _QKV.match(name):
            for part, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                found[f"encoder.layer.{joined[1]}.attention.self.{part}.{joined[2]}"] = rows.clone()
            continue
        for ours, theirs in _NAMES.items():
            if re.match(ours, name):
                found[re.sub(ours, theirs, name)] = tensor
    return found
