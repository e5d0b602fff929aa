"""Claims about ESM-2: equal to fair-esm's own model, blind to the batch, honest about what it cannot read."""

from __future__ import annotations

import gzip
import sys
from itertools import pairwise
from pathlib import Path

import esm
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from setclip_cli.backbones import load_backbone
from setclip_cli.backbones.esm2 import Esm2Backbone, module_from_checkpoint, windows_of
from setclip_cli.backbones.tensors import read_checkpoint
from setclip_cli.errors import SetClipError

NAME = "esm:esm2_t6_8M_UR50D"


def backbone(path: Path, **settings: object) -> Esm2Backbone:
    return Esm2Backbone(NAME, module_from_checkpoint(read_checkpoint(path), path), **settings)  # type: ignore[arg-type]


def fair_esm(path: Path, sequences: list[str]) -> list[Tensor]:
    """fair-esm's own last-layer representations, <cls> and <eos> included, one sequence at a time."""
    checkpoint = torch.load(path, weights_only=False)
    model = checkpoint["cfg"]["model"]
    module = esm.ESM2(model.encoder_layers, model.encoder_embed_dim, model.encoder_attention_heads, token_dropout=True)
    plain = {key.split("encoder.")[-1].replace("sentence_", ""): value for key, value in checkpoint["model"].items()}
    module.load_state_dict(plain, strict=False)
    convert = module.alphabet.get_batch_converter()
    layers = model.encoder_layers
    with torch.no_grad():
        return [
            module.eval()(convert([("", text)])[2], repr_layers=[layers])["representations"][layers][0]
            for text in sequences
        ]


def real_sequences(shared_data: Path, count: int) -> list[str]:
    records: list[str] = []
    with gzip.open(shared_data / "uniprot" / "uniprot_sample.fasta.gz", "rt") as file:
        for line in file:
            if line.startswith(">"):
                if len(records) == count:
                    break
                records.append("")
            else:
                records[-1] += line.strip()
    return records


def test_equals_fair_esm_in_a_mixed_batch_for_every_pooling(tiny_esm2: Path) -> None:
    sequences = ["M", "MKTAYIAKQRQISFVKSHFSRQ", "XBUZO", *tiny.proteins(9, longest=200)]
    oracle = fair_esm(tiny_esm2, sequences)
    mean = backbone(tiny_esm2).encode(sequences).features
    cls = backbone(tiny_esm2, pooling="cls").encode(sequences).features
    torch.testing.assert_close(mean, torch.stack([x[1:-1].mean(0) for x in oracle]), atol=1e-5, rtol=0)
    torch.testing.assert_close(cls, torch.stack([x[0] for x in oracle]), atol=1e-5, rtol=0)


def test_equals_fair_esm_on_real_proteins_with_the_8m_architecture(shared_data: Path, tmp_path: Path) -> None:
    path = tiny.esm2_checkpoint(tmp_path, layers=6, width=320, heads=20)
    sequences = sorted(real_sequences(shared_data, 400), key=len)[::100]
    assert len(sequences[-1]) > 300
    oracle = torch.stack([x[1:-1].mean(0) for x in fair_esm(path, sequences)])
    found = backbone(path, window=2048).encode(sequences).features
    torch.testing.assert_close(found, oracle, atol=1e-4, rtol=0)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), tokens=st.integers(1, 600))
def test_a_row_does_not_depend_on_the_rows_beside_it(tiny_esm2: Path, seed: int, tokens: int) -> None:
    sequences = tiny.proteins(7, seed=seed)
    alone = torch.cat([backbone(tiny_esm2).encode([text]).features for text in sequences])
    together = backbone(tiny_esm2, tokens_per_batch=tokens).encode(sequences).features
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_the_same_call_gives_the_same_bytes(tiny_esm2: Path) -> None:
    sequences = tiny.proteins(20)
    first, second = (backbone(tiny_esm2).encode(sequences).features for _ in range(2))
    assert first.numpy().tobytes() == second.numpy().tobytes()


@given(length=st.integers(1, 20_000), window=st.integers(3, 1022), data=st.data())
def test_windows_cover_every_residue_and_overlap_as_promised(length: int, window: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(1, window - 1))
    spans = windows_of(length, window, overlap)
    assert spans[0][0] == 0
    assert spans[-1][1] == length
    assert all(0 < end - start <= window for start, end in spans)
    assert all(end - start >= overlap for (_, end), (start, _) in pairwise(spans))


def test_a_long_protein_is_the_mean_over_residues_of_its_windows(tiny_esm2: Path) -> None:
    sequence = tiny.proteins(1, longest=1)[0] + "".join(tiny.proteins(30, seed=3))[:499]
    encoded = backbone(tiny_esm2, window=200, overlap=50).encode([sequence])
    spans = windows_of(len(sequence), 200, 50)
    total, covered = torch.zeros(len(sequence), 32), torch.zeros(len(sequence), 1)
    for (start, end), hidden in zip(spans, fair_esm(tiny_esm2, [sequence[a:b] for a, b in spans]), strict=True):
        total[start:end] += hidden[1:-1]
        covered[start:end] += 1
    assert encoded.windows == [len(spans)] == [3]
    torch.testing.assert_close(encoded.features[0], (total / covered).mean(0), atol=1e-5, rtol=0)


def test_cls_of_a_long_protein_is_the_mean_of_its_windows_by_their_share_of_residues(tiny_esm2: Path) -> None:
    sequence = ("ACDEFGHIKLMNPQRSTVWY" * 20)[:300]
    found = backbone(tiny_esm2, pooling="cls", window=200, overlap=50).encode([sequence]).features[0]
    assert windows_of(300, 200, 50) == [(0, 200), (100, 300)]  # each alone with 100 residues, and half of the other 100
    first, second = (hidden[0] for hidden in fair_esm(tiny_esm2, [sequence[:200], sequence[100:]]))
    torch.testing.assert_close(found, (first + second) / 2, atol=1e-5, rtol=0)


def test_a_window_longer_than_the_training_length_equals_fair_esm_too(tiny_esm2: Path) -> None:
    """The rotary tables grow, after a batch that they were long enough for."""
    longer = backbone(tiny_esm2, window=1500)
    longer.encode(["MKTA"])
    sequence = ("ACDEFGHIKLMNPQRSTVWY" * 60)[:1111]
    expected = fair_esm(tiny_esm2, [sequence])[0][1:-1].mean(0)
    torch.testing.assert_close(longer.encode([sequence]).features[0], expected, atol=1e-5, rtol=0)


def test_window_of_the_whole_sequence_changes_nothing(tiny_esm2: Path) -> None:
    sequence = "".join(tiny.proteins(5))
    whole = backbone(tiny_esm2, window=len(sequence), overlap=1).encode([sequence])
    torch.testing.assert_close(whole.features, backbone(tiny_esm2).encode([sequence]).features)
    assert whole.windows == [1]


def test_lower_case_and_the_letter_j_are_read_and_counted(tiny_esm2: Path) -> None:
    encoded = backbone(tiny_esm2).encode(["mkJa", "MKXA"])
    torch.testing.assert_close(encoded.features[0], encoded.features[1])
    assert encoded.replaced_letters == 1


@pytest.mark.parametrize(
    ("sequence", "words"),
    [("MK*A", "'*' at residue 3"), ("M1", "'1'"), ("M K", "' '"), ("", "empty"), ("Mß", "'ß' at residue 2")],
)
def test_a_sequence_that_cannot_be_read_fails_alone_and_says_where(tiny_esm2: Path, sequence: str, words: str) -> None:
    encoded = backbone(tiny_esm2).encode(["MKTA", sequence, "ACDE"])
    assert list(encoded.failed) == [1]
    assert words in encoded.failed[1]
    assert not encoded.features[1].any()
    torch.testing.assert_close(encoded.features[0], backbone(tiny_esm2).encode(["MKTA"]).features[0], atol=1e-5, rtol=0)


def test_no_rows_give_no_rows(tiny_esm2: Path) -> None:
    assert backbone(tiny_esm2).encode([]).features.shape == (0, 32)


def test_bfloat16_is_close(tiny_esm2: Path) -> None:
    exact, half = backbone(tiny_esm2), backbone(tiny_esm2)
    half.precision = torch.bfloat16
    sequences = tiny.proteins(6)
    a, b = exact.encode(sequences).features, half.encode(sequences).features
    assert torch.cosine_similarity(a, b).min() > 0.999
    assert not torch.equal(a, b)


def test_identity_follows_weights_pooling_and_windows(tiny_esm2: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(tiny_esm2, weights_only=False)
    checkpoint["model"]["encoder.sentence_encoder.layers.0.fc1.bias"][0] += 1e-3
    torch.save(checkpoint, tmp_path / "other.pt")
    identities = [
        backbone(tiny_esm2).identity,
        backbone(tmp_path / "other.pt").identity,
        backbone(tiny_esm2, pooling="cls").identity,
        backbone(tiny_esm2, window=500).identity,
    ]
    assert len(set(identities)) == 4
    assert backbone(tiny_esm2).identity == identities[0]


def test_a_checkpoint_with_a_tensor_missing_is_named(tiny_esm2: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(tiny_esm2, weights_only=False)
    del checkpoint["model"]["encoder.sentence_encoder.layers.1.fc1.bias"]
    path = tmp_path / "esm2_t6_8M_UR50D.pt"
    torch.save(checkpoint, path)
    with pytest.raises(SetClipError, match=r"esm2_t6_8M_UR50D\.pt: is not an ESM-2 checkpoint.*layers\.1\.fc1\.bias"):
        load_backbone(NAME, modality="protein", weights=str(path))


def test_loads_through_the_front_door(tiny_esm2: Path) -> None:
    loaded = load_backbone(NAME, modality="protein", weights=str(tiny_esm2))
    assert (loaded.dim, loaded.column, loaded.pooling) == (32, "sequence", "mean")
    assert loaded.identity == backbone(tiny_esm2).identity


def test_another_package_named_esm_is_told_apart(tiny_esm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "setclip_cli.backbones.esm2")
    monkeypatch.setitem(sys.modules, "esm.rotary_embedding", None)  # as if it could not be imported
    with pytest.raises(SetClipError, match="the installed package `esm` is not fair-esm") as found:
        load_backbone("esm:esm2_t6_8M_UR50D", modality="protein", weights=str(tiny_esm2))
    assert "pip uninstall esm" in found.value.fix
