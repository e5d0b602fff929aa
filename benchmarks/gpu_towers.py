"""Checks of the towers: the cost of a training step, embedding of proteins, torch.compile, gradient caching.

Weights are random, in the real architectures; at toy sizes the architectures are cut down. Items are prepared before
the clock starts, so that no file is decoded within a step.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import esm
import timm
import torch
import torch.nn.functional as F
from gpu_check import Findings, NotHereError, Place, dense_rate, peak_mib, seconds, short, synchronize
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from timm.data.config import resolve_model_data_config
from torch import Tensor
from transformers import BertConfig, BertModel, BertTokenizerFast  # type: ignore[attr-defined]
from transformers.utils import logging as transformers_logging

from setclip_cli.backbones.compiling import compile_blocks
from setclip_cli.backbones.devices import pinned
from setclip_cli.backbones.esm2 import Esm2Backbone, module_from_checkpoint
from setclip_cli.backbones.sentence import SentenceBackbone
from setclip_cli.backbones.timm_image import TimmBackbone
from setclip_cli.backbones.tuning import make_trainable
from setclip_cli.losses.mk_mmd import mk_mmd
from setclip_cli.losses.sdd import sdd
from setclip_cli.recipe.recipe import Recipe, load_recipe
from setclip_cli.training.build import build_training
from setclip_cli.training.tower import Pool, TunedBackbone
from setclip_cli.training.training import Training

VIT = "vit_small_patch16_224.augreg_in21k_ft_in1k"
TOY_VIT: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 32, "patch_size": 16}
MINILM = {"width": 384, "layers": 6, "heads": 12, "vocabulary": 30_522}
TOY_MINILM = {"width": 32, "layers": 2, "heads": 4, "vocabulary": 200}
ESM2 = (33, 1280, 20)  # of esm2_t33_650M_UR50D: layers, width, heads
TOY_ESM2 = (2, 32, 4)
WORDS = 24  # tokens of a caption
SHARE, TIMES_FLOAT32, TIMES_AUTOCAST = 0.05, 10.0, 3.0  # goals


# The towers.


def image_backbone(place: Place) -> TimmBackbone:
    module = timm.create_model(VIT, pretrained=False, num_classes=0, **(TOY_VIT if place.toy else {}))
    data_config = resolve_model_data_config(module)  # type: ignore[no-untyped-call]
    if place.toy:
        data_config["input_size"] = (3, TOY_VIT["img_size"], TOY_VIT["img_size"])
    backbone = TimmBackbone(
        f"timm:{VIT}", module.to(memory_format=torch.channels_last), pooling="default", data_config=data_config
    )
    return backbone.to(place.device)


def text_backbone(place: Place) -> SentenceBackbone:
    """A BERT in the shape of all-MiniLM-L6-v2, over a vocabulary of made-up words."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    shape, folder = TOY_MINILM if place.toy else MINILM, place.folder / "bert"
    if not folder.exists():
        folder.mkdir(parents=True)
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        words = special + [f"word{number}" for number in range(shape["vocabulary"] - len(special))]
        (folder / "vocab.txt").write_text("\n".join(words) + "\n")
        config = BertConfig(
            vocab_size=shape["vocabulary"],
            hidden_size=shape["width"],
            num_hidden_layers=shape["layers"],
            num_attention_heads=shape["heads"],
            intermediate_size=4 * shape["width"],
        )
        BertModel(config).save_pretrained(folder)
        BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    modules = [
        Transformer(str(folder), max_seq_length=256),
        Pooling(shape["width"], pooling_mode="mean"),
        Normalize(),
    ]
    model = SentenceTransformer(modules=modules, device="cpu")
    return SentenceBackbone("sentence-transformers:all-MiniLM-L6-v2", model, files={}).to(place.device)


class Prepared:
    """In place of raw rows and of a backbone's ``prepare``: items that are prepared already.

    For timing, each chunk of one size holds the same items, in pinned memory; nothing is copied within a step.
    """

    def __init__(self, bank: Any, place: Place, *, distinct: bool) -> None:
        self.bank, self.place, self.distinct = bank, place, distinct
        self.kept: dict[int, Any] = {}

    def take(self, rows: list[int]) -> list[int]:
        return rows

    def prepare(self, items: Sequence[int], *, views: Sequence[int] | None = None) -> Any:
        if self.distinct:
            return self._of(torch.tensor(items, dtype=torch.int64))
        if len(items) not in self.kept:
            self.kept[len(items)] = self._of(torch.arange(len(items)))
        return self.kept[len(items)]

    def _of(self, rows: Tensor) -> Any:
        if isinstance(self.bank, dict):
            return {name: pinned(part[rows % len(part)], self.place.device) for name, part in self.bank.items()}
        return pinned(self.bank[rows % len(self.bank)], self.place.device)


def training_of(
    place: Place, *, batch: int, chunk: int, precision: str, compiled: bool = False, distinct: bool = False
) -> Training:
    """ViT-S and MiniLM, both tuned whole, with clip, sdd and mk_mmd.

    Args:
        distinct: Every row is an item of its own, whatever chunk it is in.
    """
    torch.manual_seed(0)
    images, texts = image_backbone(place), text_backbone(place)
    size = images.data_config["input_size"]
    vocabulary = (TOY_MINILM if place.toy else MINILM)["vocabulary"]
    draw = torch.Generator().manual_seed(0)

    ids = torch.randint(5, vocabulary, (2 * batch, WORDS), generator=draw)
    tokens = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    pixels = torch.randn(2 * batch if distinct else min(batch, chunk), *size, generator=draw)
    pools = []
    for backbone, bank in ((images, pixels), (texts, tokens)):
        made: Any = backbone
        make_trainable(made, "full")
        made.precision = torch.bfloat16 if precision == "bfloat16" else torch.float32
        if compiled and (reason := compile_blocks(made)):
            raise NotHereError(f"torch.compile does not work here ({reason})")
        rows = Prepared(bank, place, distinct=distinct)
        made.prepare = rows.prepare
        features = torch.randn(2 * batch, made.dim, generator=draw).to(place.device)
        pools.append(Pool(features, tuned=TunedBackbone(made, rows)))  # type: ignore[arg-type]
    pairs = torch.arange(min(256, batch)).repeat(2, 1).T.contiguous().to(place.device)
    recipe = recipe_of(place, batch=batch, chunk=chunk, precision=precision)
    return build_training(recipe, pools[0], pools[1], pairs)


def recipe_of(place: Place, *, batch: int, chunk: int, precision: str) -> Recipe:
    path = place.folder / "step.toml"
    path.write_text(
        f"""
        schema_version = 2
        method = "set-clip"
        projection = {{ dim = {8 if place.toy else 256}, pca = {8 if place.toy else 256} }}
        train = {{ steps = 1000, batch = {batch}, pairs_per_batch = 256, chunk = {chunk}, precision = "{precision}" }}
        objective.clip.weight = 1.0
        objective.sdd.weight = 0.3
        objective.mk_mmd.weight = 0.2
        objective.self_supervised.weight = 0.0
        towers.image = {{ backbone = "timm:{VIT}", trainable = "full" }}
        towers.caption = {{ backbone = "sentence-transformers:all-MiniLM-L6-v2", trainable = "full" }}
        """
    )
    return load_recipe(path)


def chunk_of(place: Place) -> int:
    """Rows whose activations fit: 1,024 on a GPU of 80 GiB."""
    if place.device.type != "cuda":
        return 8
    gib = torch.cuda.get_device_properties(place.device).total_memory / 2**30
    return 1024 if gib > 60 else 512 if gib > 30 else 128


# The checks.


def step(place: Place, findings: Findings) -> None:
    """The share of the density terms in a whole step: their value and gradient at the step's own embeddings."""
    for batch in (8, 16) if place.toy else (1024, 4096):
        training = training_of(place, batch=batch, chunk=chunk_of(place), precision="bfloat16")
        whole = seconds(training.advance, place)
        left, right, _ = training.last_embeddings()

        def losses(left: Tensor = left, right: Tensor = right, training: Training = training) -> None:
            x, y = left.clone().requires_grad_(), right.clone().requires_grad_()
            with training.kernels.in_use():
                for value in (sdd(x, y), mk_mmd(x, y)):
                    torch.autograd.grad(value, (x, y))

        share = seconds(losses, place) / whole
        findings.figures |= {
            f"step_s_{batch}": short(whole),
            f"share_{batch}": short(share),
            f"images_per_s_{batch}": short(batch / whole),
            f"texts_per_s_{batch}": short(batch / whole),
            "kernels": training.kernels.taken,
        }
        findings.goal(share < SHARE, f"batch {batch}: sdd + mk_mmd are {share:.1%} of a step")


def compiled(place: Place, findings: Findings) -> None:
    """The same training with and without train.compile."""
    batch = 8 if place.toy else 1024
    records, taken = [], []
    for name, chosen in (("plain", False), ("compiled", True)):
        training = training_of(place, batch=batch, chunk=chunk_of(place), precision="bfloat16", compiled=chosen)
        started = time.perf_counter()
        records.append(training.advance())
        synchronize(place)
        findings.figures[f"first_step_s_{name}"] = short(time.perf_counter() - started)
        taken.append(seconds(training.advance, place))
        findings.figures[f"step_s_{name}"] = short(taken[-1])
        del training
    findings.figures["times_faster"] = short(taken[0] / taken[1])
    for term in (key for key in records[0] if key.startswith("loss/")):
        plain, other = records[0][term], records[1][term]
        off = abs(other - plain) / max(abs(plain), 1e-2)
        findings.must(off < 0.02, f"compiled, {term} is {other:.4g} in place of {plain:.4g}")
    findings.goal(taken[1] <= taken[0], f"compiled steps take {taken[1] / taken[0]:.2f} times as long")


def caching(place: Place, findings: Findings) -> None:
    """A batch in chunks against the same batch in one pass (its gradient), and against one chunk (its memory)."""
    small, large = (4, 12) if place.toy else (128, 1024)
    norms = []
    for chunk in (small, small * 2):  # float32: what differs is the order of sums alone
        training = training_of(place, batch=small * 2, chunk=chunk, precision="float32", distinct=True)
        norms.append(training.advance()["gradient_norm"])
        del training
    off = abs(norms[0] - norms[1]) / norms[1]
    findings.figures["gradient_norm_off"] = short(off)
    findings.must(off < 0.01, f"in chunks, the norm of the gradient is {norms[0]:.4g} in place of {norms[1]:.4g}")
    held = []
    for batch in (large, small):
        training = training_of(place, batch=batch, chunk=small, precision="bfloat16")
        training.advance()  # the optimizer's moments, the self-check of the kernels
        held.append(peak_mib(training.advance, place))
        del training
    width = 8 if place.toy else 256
    embeddings = 4 * 2 * 4 * large * width / 2**20  # float32 embeddings and gradients: two sides, two parts each
    ratio = None
    if held[0] is not None and held[1] is not None:
        ratio = held[0] / (held[1] + embeddings)
        findings.figures |= {f"mib_{large}": short(held[0]), f"mib_{small}": short(held[1]), "ratio": short(ratio)}
    findings.goal(ratio is not None and ratio <= 1.2, f"batch {large} holds {ratio} times the memory of one chunk")


def proteins(place: Place, findings: Findings) -> None:
    """Residues a second: fair-esm as its extract.py drives it, the same under autocast, and setclip in bf16."""
    layers, width, heads = TOY_ESM2 if place.toy else ESM2
    torch.manual_seed(0)
    with place.device:
        theirs = esm.ESM2(layers, width, heads).eval().requires_grad_(False)
    backbone = Esm2Backbone("esm:random", _with_our_attention(theirs, layers, width, heads)).to(place.device)
    sequences = random_proteins(6 if place.toy else 512, longest=40 if place.toy else 1022)
    residues = sum(map(len, sequences))
    rate = dense_rate(place)

    def fair(autocast: bool) -> Tensor:
        with torch.autocast(place.device.type, dtype=torch.bfloat16, enabled=autocast):
            return fair_esm_features(theirs, sequences, place.device)

    def ours() -> Tensor:
        return backbone.encode(sequences).features

    speeds, features = {}, {}
    backbone.precision = torch.bfloat16
    runs: dict[str, Callable[[], Tensor]] = {
        "fair_esm_float32": partial(fair, False),
        "fair_esm_autocast": partial(fair, True),
        "setclip_bf16": ours,
    }
    for name, run in runs.items():
        features[name] = run()  # warms up, too
        speeds[name] = residues / seconds(run, place, repeats=2, warm=False)
        findings.figures[f"{name}_residues_per_s"] = short(speeds[name])
    cosine = float(F.cosine_similarity(features["setclip_bf16"], features["fair_esm_float32"]).min())
    operations = _operations(sequences, layers, width)
    of_float32 = speeds["setclip_bf16"] / speeds["fair_esm_float32"]
    of_autocast = speeds["setclip_bf16"] / speeds["fair_esm_autocast"]
    findings.figures |= {
        "times_float32": short(of_float32),
        "times_autocast": short(of_autocast),
        "lowest_cosine_with_float32": round(cosine, 4),
        "dense_bf16_tflops": short(rate / 1e12),
        "share_of_dense_bf16": short(operations / residues * speeds["setclip_bf16"] / rate),
    }
    findings.must(cosine > 0.98, f"a feature in bf16 has a cosine of {cosine:.3f} with that of fair-esm in float32")
    findings.goal(of_float32 >= TIMES_FLOAT32, f"{of_float32:.1f} times fair-esm in float32")
    findings.goal(of_autocast >= TIMES_AUTOCAST, f"{of_autocast:.1f} times fair-esm under autocast")


def random_proteins(count: int, *, longest: int) -> list[str]:
    """Random residues at lengths like those of Swiss-Prot: log-normal, median 290, cut at ``longest``."""
    draw = random.Random(0)
    lengths = [max(5, min(longest, int(draw.lognormvariate(5.67, 0.65)))) for _ in range(count)]
    return ["".join(draw.choices("ACDEFGHIKLMNPQRSTVWY", k=length)) for length in lengths]


def fair_esm_features(model: Any, sequences: list[str], device: torch.device) -> Tensor:
    """(n, width) means over residues, as extract.py of fair-esm takes them: 4,096 tokens a batch, by length."""
    data = esm.FastaBatchedDataset([str(row) for row in range(len(sequences))], sequences)
    converter = model.alphabet.get_batch_converter(1022)
    features = torch.zeros(len(sequences), model.embed_dim)
    with torch.no_grad():
        for rows in data.get_batch_indices(4096, extra_toks_per_seq=1):
            labels, texts, tokens = converter([data[row] for row in rows])
            hidden = model(tokens.to(device), repr_layers=[model.num_layers])["representations"][model.num_layers]
            for at, label in enumerate(labels):
                features[int(label)] = hidden[at, 1 : len(texts[at]) + 1].mean(0).float().cpu()
    return features


def _with_our_attention(theirs: Any, layers: int, width: int, heads: int) -> Any:
    """Our ESM-2 with the same weights."""
    tensors = {
        ("encoder." if name.startswith("lm_head") else "encoder.sentence_encoder.") + name: tensor
        for name, tensor in theirs.state_dict().items()
    }
    settings = {
        "encoder_layers": layers,
        "encoder_embed_dim": width,
        "encoder_attention_heads": heads,
        "token_dropout": True,
    }
    return module_from_checkpoint({"cfg": {"model": settings}, "model": tensors}, Path("random"))


def _operations(sequences: list[str], layers: int, width: int) -> float:
    """Of the matrix products alone, 2 for each multiplication and addition; padding does not count."""
    tokens = [len(text) + 2 for text in sequences]
    return sum(2 * layers * (12 * width**2 * count + 2 * width * count**2) for count in tokens)
