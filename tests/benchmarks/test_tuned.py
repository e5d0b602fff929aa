"""The benchmark of tuned towers computes the frozen part of a backbone once: that changes no feature."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import tuned

from setclip_cli.backbones import load_backbone
from tests import tiny


@pytest.mark.slow
def test_the_kept_parts_give_the_features_of_the_whole_backbones(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(tiny.jpeg(number))
    stems, features = tuned._stems(tmp_path, [f"{number}.jpg" for number in range(3)])
    images = tuned.KeptImages(stems)
    torch.testing.assert_close(images.encode([2, 0, 1]).features, features[[2, 0, 1]], atol=0.01, rtol=0)
    texts = ["a runway", "many green trees are beside a long river", "a runway"]
    states, lengths = tuned._states(texts[:2])
    kept = tuned.KeptTexts(states, lengths, torch.tensor([0, 1, 0]))
    whole = load_backbone("sentence-transformers:all-MiniLM-L6-v2", modality="caption").encode(texts).features
    torch.testing.assert_close(kept.encode([0, 1, 2]).features, whole, atol=1e-3, rtol=0)
    trained = [name for name, value in images.module.named_parameters() if value.requires_grad]
    assert {name.split(".")[0] for name in trained} == {"blocks", "conv_head", "bn2"}
    assert min(int(name.split(".")[1]) for name in trained if name.startswith("blocks")) == tuned.IMAGE_STAGE


def test_the_table_has_a_line_for_each_part_and_step() -> None:
    common = {"split": "test", "known": "0.1", "way": "tuned", "part": "heads", "map": 30.0, "wall_s": 7.0}
    records = [
        common | {"step": step, "seed": seed, "mean_recall": 10.0 + 2 * seed} for step in (5, 9) for seed in (0, 1)
    ]
    assert tuned.table(records).splitlines()[2] == "| 0.1 | tuned | heads | 5 | 11.0 ± 1.4 | 30.0 ± 0.0 | 7 | 2 |"
    assert len(tuned.table(records).splitlines()) == 4
