"""What a recipe asks of its backbones and of the machine, checked before any feature is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from setclip_cli.backbones import empty_backbone
from setclip_cli.backbones.devices import resolve_device, resolve_training_precision
from setclip_cli.backbones.tuning import make_trainable
from setclip_cli.errors import UsageError
from setclip_cli.remote.copies import local_path
from setclip_cli.run.config import TowerConfig, load_config
from setclip_cli.training.kernel_choice import require_kernels

if TYPE_CHECKING:
    import torch

    from setclip_cli.dataset.modality import Modality
    from setclip_cli.dataset.schemas import ModalityInfo
    from setclip_cli.recipe.recipe import Recipe


def check_tower(recipe: Recipe, modality: Modality, info: ModalityInfo) -> None:
    """Tries on an empty backbone what the recipe will do to the real one: take a layer, pool, make weights trainable.

    Raises:
        SetClipError: it does not have the layer, pooling, blocks, linear layers or checkpointing that the recipe names,
            it is frozen and its pooling has to be trained, or peft is not installed.
    """
    tower = recipe.towers[modality]
    if tower.frozen and tower.pooling == "attention" and info.kind != "video":
        raise UsageError(
            f"towers.{modality}.pooling = 'attention': its query has to be trained, and the tower is frozen",
            fix="leave pooling out, or set trainable",
        )
    layer = -1 if tower.layer == "best" else tower.layer
    if tower.joint or (tower.frozen and layer == -1 and tower.pooling == "default"):
        return  # only its weights show what half of a joint model has; every backbone has the rest
    backbone = empty_backbone(
        tower.backbone, modality=modality, info=info, weights=tower.weights, pooling=tower.pooling, layer=layer
    )
    if backbone is not None and not tower.frozen:
        make_trainable(backbone, tower.trainable, lora_rank=tower.lora_rank, checkpointing=tower.gradient_checkpointing)


def check_init_from(recipe: Recipe) -> None:
    """Raises SetClipError if ``init_from`` is not a finished RUN, or its towers are surely others."""
    if recipe.init_from is None:
        return
    config = load_config(local_path(recipe.init_from))
    for modality in recipe.modalities():
        tower, wanted = config.towers.get(modality), recipe.towers[modality]
        if tower is None or (tower.info(modality).kind in ("image", "video") and tower.spec != wanted.backbone):
            raise other_tower(recipe, modality, tower)


def other_tower(recipe: Recipe, modality: Modality, found: TowerConfig | None) -> UsageError:
    """The error of a RUN in ``init_from`` whose backbone is another."""
    return UsageError(
        f"init_from = {recipe.init_from!r}: its {modality} tower is {found.spec if found else 'missing'}, "
        f"not {recipe.towers[modality].backbone} with the same weights",
        fix="start from a RUN of the same towers, or leave init_from out",
    )


def training_device(recipe: Recipe) -> torch.device:
    """The device of ``train.device``.

    Raises:
        SetClipError: this machine does not have it, or cannot train in ``train.precision`` or with ``train.kernels``.
    """
    device = resolve_device(recipe.train.device, setting="train.device =")
    require_kernels(recipe.train.kernels, device)
    if not all(tower.frozen for tower in recipe.towers.values()):
        resolve_training_precision(recipe.train.precision, device)
    return device
