"""What ubinary needs to know of the rows before the first of them is written: their centre and spread.

It comes from a sample that the DATASET alone decides. So it does not depend on the split that is asked for, on the
order in which shards are made, or on a stop: a run that goes on would measure the same, and takes what is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from setclip_cli.embedding.codes import BitCode, unit
from setclip_cli.embedding.embeddings import StoredBitCode
from setclip_cli.vectors import unusable_rows

if TYPE_CHECKING:
    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.dataset.modality import Modality
    from setclip_cli.embedding.worker import LoadedTower

SAMPLE_ROWS = 1024  # the mean of so many is wrong by a thirty-second of the spread
SAMPLE_SHARDS = 16  # that are read for it


def measured_bits(dataset: Dataset, modality: Modality, tower: LoadedTower) -> StoredBitCode:
    """The code of one modality, fitted to rows of up to ``SAMPLE_SHARDS`` shards, evenly spaced in each.

    Raises:
        SetClipError: a shard is missing or damaged.
    """
    shards = sorted(dataset.shards(modality), key=lambda shard: (shard.sha256, shard.path))[:SAMPLE_SHARDS]
    share = -(-SAMPLE_ROWS // len(shards))
    parts = []
    for shard in shards:
        table = dataset.read(shard, [tower.backbone.column])
        places = np.unique(np.linspace(0, len(table) - 1, min(share, len(table))).round().astype(np.int64))
        rows, encoded = tower.embed(tower.items(table[tower.backbone.column].take(places)))
        bad = {*encoded.failed, *unusable_rows(rows)}
        parts.append(rows[[place for place in range(len(rows)) if place not in bad]])
    sample = np.concatenate(parts)
    if not len(sample):  # all are bad rows, and embed will say why
        return StoredBitCode(centre=[0.0] * tower.settings.dim, spread=1.0, rows=0)
    code = BitCode.fit(unit(sample))
    return StoredBitCode(centre=code.centre.tolist(), spread=code.spread, rows=len(sample))
