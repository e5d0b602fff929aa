"""Reads tensors from a file, without running code from it, and hashes them."""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from setclip_cli.errors import SetClipError, translated
from setclip_cli.files.recognize import head_of, refuse_stand_in, starts_with

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

_PICKLES = (b"\x80", b"PK\x03\x04")  # torch.save writes the second, and wrote the first before 2020


def read_checkpoint(path: Path, *, empty: bool = False) -> Any:
    """Reads a checkpoint file: safetensors, or a .pt, .pth or .bin file of tensors and plain containers.

    Args:
        empty: Only what is beside the tensors counts. Their numbers are not read, if the format allows that.

    Raises:
        SetClipError: the file is damaged or of another format, or loading it would run code.
    """
    with translated(path, OSError, found="cannot be read", fix="copy the file again"):
        head = head_of(path)
    refuse_stand_in(path)
    with translated(path, Exception, found="cannot be read as a checkpoint", fix="download or copy it again"):
        if path.suffix == ".safetensors":
            return load_file(path)
        # ESM-2 checkpoints keep their settings in a Namespace, which is plain data. The warnings are about old pickles.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                lazy = empty and zipfile.is_zipfile(path)
                return torch.load(path, map_location="cpu", weights_only=True, mmap=lazy)
            except pickle.UnpicklingError as error:
                if not head.startswith(_PICKLES):
                    raise ValueError(f"it starts with {starts_with(head)}") from error
                raise SetClipError(
                    f"{path}: holds more than tensors and plain data; loading it could run code, so it was not loaded",
                    fix="if you trust the file, convert it to safetensors and give that",
                ) from error


def tensors_digest(tensors: dict[str, Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()


def identity_of(tensors: dict[str, Tensor], settings: dict[str, Any]) -> str:
    """A backbone's identity: sha256 over its weights and all settings that its features depend on.

    It is empty for a backbone without weights (see `empty_backbone`).
    """
    if any(tensor.is_meta for tensor in tensors.values()):
        return ""
    text = json.dumps({"weights": tensors_digest(tensors), **settings}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
