"""Claims about text towers: equal to SentenceTransformer.encode, cuts are counted, no code comes from the folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from setclip_cli.backbones import load_backbone
from setclip_cli.backbones.sentence import SentenceBackbone
from setclip_cli.errors import SetClipError

TEXTS = ["a harbour with many boats", "", "forest", "the runway, 2 planes and a terminal" * 2, "sea"]


def load(folder: Path) -> SentenceBackbone:
    loaded = load_backbone("sentence-transformers:tiny", modality="caption", weights=str(folder))
    assert isinstance(loaded, SentenceBackbone)
    return loaded


def test_equals_the_librarys_own_encode_whatever_the_batch(tiny_sentence: Path) -> None:
    backbone = load(tiny_sentence)
    expected = torch.from_numpy(backbone.model.encode(TEXTS, batch_size=1))
    for rows in (1, 2, 5):
        backbone.budget.rows = rows
        torch.testing.assert_close(backbone.encode(TEXTS).features, expected, atol=1e-5, rtol=0)


def test_the_packaged_minilm_puts_a_paraphrase_nearest() -> None:
    backbone = load_backbone("sentence-transformers:all-MiniLM-L6-v2", modality="caption")
    a, b, c = backbone.encode(["many boats in a harbour", "a port full of ships", "wheat fields"]).features
    assert backbone.dim == 384
    assert a @ b > 0.5 > a @ c


def test_a_text_over_the_limit_is_cut_and_counted(tiny_sentence: Path) -> None:
    encoded = load(tiny_sentence).encode(["a " * 30, "a " * 31, "a " * 500, "b"])
    assert encoded.truncated == 2  # 32 tokens are read, 2 of them special
    torch.testing.assert_close(encoded.features[0], encoded.features[2], atol=1e-5, rtol=0)


def test_no_texts_give_no_rows(tiny_sentence: Path) -> None:
    assert load(tiny_sentence).encode([]).features.shape == (0, 32)


def test_a_module_from_outside_the_library_is_not_run(tiny_sentence: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_sentence, tmp_path / "model")
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "os.system"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(SetClipError, match=r"modules\.json: module 'os\.system'"):
        load(folder)


def test_a_folder_that_is_no_model_is_named(tmp_path: Path, tiny_sentence: Path) -> None:
    with pytest.raises(SetClipError, match=r"it has no modules\.json"):
        load(tmp_path)
    folder = shutil.copytree(tiny_sentence, tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(SetClipError, match="does not load as a sentence-transformers model"):
        load(folder)


def test_weights_that_lack_a_tensor_are_refused_and_a_head_nobody_uses_may_be_missing(
    tiny_sentence: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_sentence, tmp_path / "model")
    tensors = load_file(tiny_sentence / "model.safetensors")
    used, unused = "encoder.layer.1.output.dense.weight", "pooler.dense.weight"
    save_file(
        {name: tensor for name, tensor in tensors.items() if not name.endswith(used)}, folder / "model.safetensors"
    )
    with pytest.raises(SetClipError, match="depend on tensors that its weights file lacks"):
        load(folder)
    save_file(
        {name: tensor for name, tensor in tensors.items() if not name.endswith(unused)}, folder / "model.safetensors"
    )
    assert load(folder).identity == load(folder).identity
    torch.testing.assert_close(load(folder).encode(TEXTS).features, load(tiny_sentence).encode(TEXTS).features)


def test_identity_follows_the_weights_and_the_limit(tiny_sentence: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_sentence, tmp_path / "model")
    assert load(folder).identity == load(tiny_sentence).identity
    settings = folder / "sentence_bert_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "max_seq_length": 16}))
    assert load(folder).identity != load(tiny_sentence).identity
