"""Which weights of a backbone training may change, and how only those are kept."""

from __future__ import annotations

import hashlib
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from setclip_cli.backbones.former_names import with_present_names
from setclip_cli.errors import SetClipError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from setclip_cli.backbones.base import Backbone

LORA_ALPHA_PER_RANK = 2  # the update is scaled by alpha / rank


def make_trainable(backbone: Backbone, trainable: str, *, lora_rank: int = 8, checkpointing: bool = False) -> None:
    """Makes the weights that ``trainable`` names trainable: ``full``, the ``last-N`` blocks, or ``lora`` adapters.

    The query of attention pooling is always trained. Normalisation statistics and dropout stay as in evaluation, so
    that a step depends on its rows alone.

    Raises:
        SetClipError: more blocks than there are, no linear layer to adapt, or peft is not installed.
    """
    module = backbone.module.requires_grad_(False)
    if trainable == "lora":
        _inject_lora(backbone, lora_rank)
    elif trainable == "full":
        module.requires_grad_(True)
    else:
        wanted = int(trainable.removeprefix("last-"))
        groups = _blocks(module)
        count = max(groups.values(), default=-1) + 1
        if wanted > count:
            raise UsageError(
                f"towers.{backbone.modality}.trainable {trainable!r}: {backbone.spec} has "
                + ("1 block" if count == 1 else f"{count} blocks"),
                fix=f"choose last-1{f' to last-{count}' if count > 1 else ''}, or full",
            )
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(groups.get(name, -1) >= count - wanted)
    for name, parameter in module.named_parameters():
        if is_pooling(name):
            parameter.requires_grad_(True)
    if checkpointing:
        _checkpoint_activations(backbone)


def is_pooling(name: str) -> bool:
    """Whether a parameter belongs to learned pooling: new, like a projection, where all others are pretrained."""
    return "attention_pooling." in name


def apply_tuned(backbone: Backbone, trainable: str, tensors: Mapping[str, Tensor], *, lora_rank: int) -> None:
    """Puts tuned weights into a freshly loaded backbone; its identity changes with them.

    Raises:
        SetClipError: the weights are not those that ``trainable`` names.
    """
    make_trainable(backbone, trainable, lora_rank=lora_rank)
    parameters = dict(backbone.module.named_parameters())
    expected = {name for name, parameter in parameters.items() if parameter.requires_grad}
    present = with_present_names(backbone.spec, tensors)
    if expected != set(present):
        raise SetClipError(
            f"{backbone.spec}: the RUN keeps {len(tensors)} tuned tensors, {trainable!r} has {len(expected)}",
            fix="restore the files of the RUN, or train again",
        )
    digest = hashlib.sha256(backbone.identity.encode())
    for name in sorted(tensors):  # as the RUN names them, so that an old RUN's identity stays
        digest.update(name.encode() + tensors[name].contiguous().cpu().numpy().tobytes())
    with torch.no_grad():
        for name, value in present.items():
            parameters[name].copy_(value)
    backbone.module.requires_grad_(False)
    backbone.identity = digest.hexdigest()


@contextmanager
def dropout_on(module: nn.Module) -> Iterator[None]:
    """Turns dropout on and leaves all else as in evaluation; this gives another view of a text."""
    parts = [part for part in module.modules() if isinstance(part, nn.Dropout)]
    for part in parts:
        part.train()
    try:
        yield
    finally:
        for part in parts:
            part.eval()


def _blocks(module: nn.Module) -> dict[str, int]:
    """Parameter name -> number of its block, counted from the input. What follows the last block belongs to it."""
    matcher = getattr(module, "group_matcher", None)
    if matcher is not None:  # every timm model says itself how its layers group
        from timm.models import group_parameters

        groups: dict[int, list[str]] = group_parameters(module, matcher(coarse=False))
        ordered = [names for _, names in sorted(groups.items())]
        ordered = [kept for names in ordered if (kept := [name for name in names if not is_pooling(name)])]
        # The stem is not a block. A final norm, whose names have no block number, goes with the last block.
        has_tail = not any(re.search(r"\.\d+\.", name) for name in ordered[-1])
        count = max(1, len(ordered) - 1 - has_tail)
        return {name: min(at, count) - 1 for at, names in enumerate(ordered) if at > 0 for name in names}
    lists = [(len(part), name, part) for name, part in module.named_modules() if isinstance(part, nn.ModuleList)]
    if not lists:
        return {}
    _, prefix, blocks = max(lists, key=lambda entry: entry[0])
    found = re.compile(rf"^{re.escape(prefix)}\.(\d+)\.")
    numbers: dict[str, int] = {}
    seen_blocks = False
    for name, _ in module.named_parameters():
        if is_pooling(name):
            continue
        match = found.match(name)
        if match:
            numbers[name], seen_blocks = int(match.group(1)), True
        elif seen_blocks:
            numbers[name] = len(blocks) - 1
    return numbers


def _inject_lora(backbone: Backbone, rank: int) -> None:
    """Low-rank adapters on every linear layer (Hu et al. 2021, arXiv:2106.09685), through peft."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise SetClipError(
            f"towers.{backbone.modality}.trainable 'lora': needs the package peft", fix="pip install 'setclip[lora]'"
        ) from error
    module = backbone.module
    targets = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    if not targets:
        raise UsageError(
            f"towers.{backbone.modality}.trainable 'lora': {backbone.spec} has no linear layer to adapt",
            fix="choose full or last-N",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the adapters' first factor is random, the second 0: the features start unchanged
        inject_adapter_in_model(
            LoraConfig(r=rank, lora_alpha=LORA_ALPHA_PER_RANK * rank, target_modules=targets), module
        )
    for name, parameter in module.named_parameters():
        parameter.requires_grad_("lora_" in name)
    module.eval()


def _checkpoint_activations(backbone: Backbone) -> None:
    """Recomputes the blocks' activations in the backward pass, in the way each library offers."""
    for owner in backbone.module.modules():
        switch: Any = owner  # timm's and transformers' own switches
        if hasattr(owner, "set_grad_checkpointing"):
            switch.set_grad_checkpointing(True)
            return
        if hasattr(owner, "gradient_checkpointing_enable"):
            switch.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            owner.train()  # transformers checkpoints in training mode only; dropout stays off
            for part in owner.modules():
                if isinstance(part, nn.Dropout):
                    part.eval()
            return
    raise UsageError(
        f"towers.{backbone.modality}.gradient_checkpointing: {backbone.spec} does not offer it",
        fix="lower train.chunk instead",
    )
