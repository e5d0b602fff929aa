"""Search by meaning: the text tower reads the words, and the nearest rows of a side answer."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from setclip_cli.backbones.devices import resolve_device
from setclip_cli.features.layer_choice import load_tower_backbone
from setclip_cli.run.model import load_model

if TYPE_CHECKING:
    from torch import Tensor

    from setclip_cli.backbones.base import Backbone
    from setclip_cli.pools import Pools

_LETTERS = 300  # of the words that are read


class Meaning:
    """Compares words with rows: with a RUN rows of any kind, without one texts.

    The tower is loaded when it is needed first.
    """

    def __init__(self, pools: Pools) -> None:
        self._pools = pools
        self._loading = threading.Lock()
        self._towers: dict[str, tuple[Backbone, torch.nn.Module]] = {}

    def nearest(self, side: int, words: str, count: int) -> list[int]:
        """The rows of a side nearest to the words; empty if no tower compares words with its rows."""
        pool, texts = self._pools.sides[side], [each for each in self._pools.sides if each.kind == "text"]
        comparable = self._pools.run is not None or self._pools.recipe.joint or pool.kind == "text"
        if not texts or not comparable:
            return []
        # a text beside a text: the tower of the side that is searched
        modality = pool.modality if pool.kind == "text" else texts[0].modality
        with self._loading, torch.inference_mode():
            if modality not in self._towers:
                self._towers[modality] = self._load(modality)
            backbone, encoder = self._towers[modality]
            encoded = backbone.encode([words[:_LETTERS]])
            if encoded.failed:
                return []
            query = encoder(encoded.features)[0].float()
        rows = pool.embeddings if pool.embeddings is not None else pool.features
        return self._by_cosine(query, rows, count)

    def _load(self, modality: str) -> tuple[Backbone, torch.nn.Module]:
        if self._pools.run is not None:
            model = load_model(self._pools.run)
            return model.load_backbone(modality), model.encoders[modality]
        recipe = self._pools.recipe
        device = resolve_device(recipe.train.device, setting="train.device =")
        joint = recipe.towers[modality].joint
        about = self._pools.dataset.about(modality)
        return load_tower_backbone(recipe, modality, about, device, joint=joint), torch.nn.Identity()

    @staticmethod
    def _by_cosine(query: Tensor, rows: Tensor, count: int) -> list[int]:
        cosines = F.normalize(rows, dim=1) @ F.normalize(query, dim=0)
        return [int(row) for row in cosines.topk(min(count, len(rows))).indices]
