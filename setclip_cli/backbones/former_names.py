"""The names that ESM-2's tensors had in setclip 0.1, before it took fair-esm's own.

An ESM-2 backbone's identity is a hash over the former names, and the RUNs of that time keep tuned weights under them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

Value = TypeVar("Value")

_FORMER_OF = {  # present name of a part -> former name
    "self_attn.qkv": "attention.qkv",
    "self_attn.out_proj": "attention.out",
    "self_attn_layer_norm": "attention_norm",
    "final_layer_norm": "feed_forward_norm",
    "fc1": "widen",
    "fc2": "narrow",
    "emb_layer_norm_after": "final_norm",
}
_PRESENT_OF = {former: present for present, former in _FORMER_OF.items()}


def with_former_names(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """An ESM-2 state dict under its former names, which held the rotary frequencies once and not in each layer."""
    former = {_renamed(name, _FORMER_OF): value for name, value in tensors.items() if ".rot_emb." not in name}
    return former | {"inverse_frequencies": tensors["layers.0.self_attn.rot_emb.inv_freq"]}


def with_present_names(spec: str, tensors: Mapping[str, Value], *, prefix: str = "") -> dict[str, Value]:
    """A backbone's tuned tensors under its present names. Only those of ``esm:`` backbones ever had others.

    Args:
        prefix: What comes before the backbone's own names in a checkpoint, where it holds other tensors too.
    """
    if not spec.startswith("esm:"):
        return dict(tensors)
    start = f".*{re.escape(prefix)}" if prefix else ""
    return {_renamed(name, _PRESENT_OF, start): value for name, value in tensors.items()}


def _renamed(name: str, table: Mapping[str, str], start: str = "") -> str:
    """Replaces the part of a name that follows ``layers.N.``, or begins the backbone's own name, as the table says."""
    parts = "|".join(re.escape(part) for part in table)
    return re.sub(rf"^({start}(?:layers\.\d+\.)?)({parts})\.", lambda found: f"{found[1]}{table[found[2]]}.", name)
