"""A RUN as ONNX: one graph a tower, from what the tokenizer or the preprocessing gives to embeddings.

DIR/<modality>.onnx          the graph; with DIR/<modality>.onnx.data, if its weights take more than a protobuf holds
DIR/<modality>/              the tokenizer of a text tower, as transformers reads it
DIR/preprocessing.json       by modality: the inputs of its graph, and how items become them
"""

from __future__ import annotations

import importlib
import io
import logging
import warnings
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from setclip_cli.backbones.timm_image import TimmBackbone
from setclip_cli.backbones.video import VideoBackbone
from setclip_cli.errors import SetClipError, translated
from setclip_cli.export.backbone_modules import backbone_modules
from setclip_cli.export.check import ONNX_TOLERANCE, require_equal
from setclip_cli.export.modules.setclip_encoder import network
from setclip_cli.files import atomic

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from setclip_cli.encoders import Encoder
    from setclip_cli.export.towers import Tower

PREPROCESSING_NAME = "preprocessing.json"
OUTPUT = "item_embeddings"  # no name that the exporter itself gives to a node
_VECTORS = "vectors"
_ONE_FILE = 1_800_000_000  # bytes of weights that still fit into a protobuf of at most 2 GiB
_SIZES = {  # of each input, by the kind of rows
    "text": {0: "texts", 1: "tokens"},
    "protein": {0: "windows", 1: "tokens"},
    "image": {0: "images"},
    "video": {0: "videos", 1: "frames"},
    "vector": {0: "rows"},
}


def require_onnx() -> None:
    """Raises SetClipError if a package that writes or runs graphs is missing."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise SetClipError(f"--to onnx: needs the package {name}", fix="pip install 'setclip[export]'") from error


class Graph(nn.Module):
    """A tower as a function of tensors."""

    def __init__(self, modules: Sequence[Any], encoder: nn.Module, names: Sequence[str], fixed: dict[str, Any]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)
        self.encoder, self.names, self.fixed = encoder, list(names), fixed

    def forward(self, *inputs: Tensor) -> Tensor:
        features: dict[str, Any] = {**self.fixed, **dict(zip(self.names, inputs, strict=True))}
        if _VECTORS in features:
            features["sentence_embedding"] = features[_VECTORS]
        for part in self.parts:
            features = part(features)
        embeddings: Tensor = self.encoder(features["sentence_embedding"])
        return embeddings


def write_onnx(
    folder: Path,
    towers: Sequence[Tower],
    encoders: Sequence[Encoder],
    rows: Sequence[list[Any]],
    wanted: Sequence[npt.NDArray[np.float32]],
    opset: int,
) -> dict[str, float]:
    """Writes both graphs into an empty folder, runs them, and compares them with the RUN.

    Args:
        rows: Items of each tower to check with.
        wanted: The RUN's own embeddings of these items.

    Returns:
        By modality, the largest difference.

    Raises:
        SetClipError: a backbone cannot be written as a graph, or the graphs differ from the RUN.
    """
    described, differences = {}, {}
    for tower, encoder, items, own in zip(towers, encoders, rows, wanted, strict=True):
        modules = backbone_modules(tower.backbone, "full")
        inputs, fixed = _inputs(modules[0], tower, items)
        head = network(encoder.describe())
        head.load_state_dict(encoder.state_dict())
        graph = Graph(modules, head, list(inputs), fixed).eval()
        path = folder / f"{tower.modality}.onnx"
        _write_graph(path, graph, inputs, tower.backbone.kind, opset, tower.backbone.spec)
        difference = require_equal(tower.modality, own, _run(path, inputs), ONNX_TOLERANCE)
        alone, _ = _inputs(modules[0], tower, items[:1])  # a batch of another size
        one = require_equal(tower.modality, own[:1], _run(path, alone), ONNX_TOLERANCE)
        differences[tower.modality] = max(difference, one)
        described[tower.modality] = {
            "inputs": {name: _sizes(tower.backbone.kind, name, value) for name, value in inputs.items()},
            "output": OUTPUT,
            "dim": encoder.dim,
            **_preparing(tower, modules[0]),
        }
        if tower.backbone.kind == "text":
            tokenizer = modules[0].tokenizer
            tokenizer.save_pretrained(str(atomic.make_folder(folder / tower.modality)))
    atomic.write_json(folder / PREPROCESSING_NAME, {"opset": opset, "towers": described})
    return differences


def _sizes(kind: str, name: str, value: Tensor) -> dict[str, Any]:
    shape = [_dynamic(kind, name).get(place, size) for place, size in enumerate(value.shape)]
    return {"type": str(value.dtype).removeprefix("torch."), "shape": shape}


def _dynamic(kind: str, name: str) -> dict[int, str]:
    return {0: "proteins", 1: "windows"} if name == "windows" else _SIZES[kind]


def _inputs(first: Any, tower: Tower, items: list[Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors that a tower's first module makes of items, and what else it says about them."""
    if tower.backbone.kind == "image":
        return {"pixel_values": tower.backbone.prepare(items).contiguous()}, {"modality": "image"}
    if isinstance(tower.backbone, VideoBackbone):
        pixels = tower.backbone.prepare(items).pixels
        return {"pixel_values": pixels.unflatten(0, (len(items), -1)).contiguous()}, {}
    if tower.backbone.kind == "vector":
        return {_VECTORS: torch.from_numpy(np.array(items, np.float32))}, {}
    given = [{"text": item} for item in items] if first_reads_images(first) else items
    made = first.preprocess(given)
    tensors = {name: value for name, value in made.items() if isinstance(value, Tensor)}
    return tensors, {name: value for name, value in made.items() if isinstance(value, str)}


def first_reads_images(first: Any) -> bool:
    return "image" in getattr(first, "modalities", [])


def _write_graph(path: Path, graph: Graph, inputs: dict[str, Tensor], kind: str, opset: int, spec: str) -> None:
    dynamic = [_dynamic(kind, name) for name in inputs]
    sizes = {size: torch.export.Dim(size) for one in dynamic for size in one.values()}  # inputs share them
    axes = [{place: sizes[size] for place, size in one.items()} for one in dynamic]
    size = sum(tensor.numel() * tensor.element_size() for tensor in graph.state_dict().values())
    with (
        translated(
            path.stem,
            Exception,
            found=f"{spec} cannot be written as a graph of ONNX",
            fix="use --to sentence-transformers, or pip install -U torch onnx onnxscript",
        ),
        _quiet(),
        torch.no_grad(),
    ):
        torch.onnx.export(
            graph,
            tuple(inputs.values()),
            str(path),
            dynamo=True,
            opset_version=opset,
            input_names=list(inputs),
            output_names=[OUTPUT],
            dynamic_shapes={"inputs": tuple(axes)},
            external_data=size > _ONE_FILE,
            verbose=False,
        )


def _run(path: Path, inputs: dict[str, Tensor]) -> npt.NDArray[np.float32]:
    import onnxruntime

    with translated(
        path.name,
        Exception,
        found="onnxruntime cannot run it",
        fix="pip install -U onnxruntime, or lower --opset",
    ):
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found: npt.NDArray[np.float32] = session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's own talk off the screen."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _preparing(tower: Tower, first: Any) -> dict[str, Any]:
    """How items become the inputs of a graph."""
    backbone = tower.backbone
    if backbone.kind == "text":
        return {"kind": "text", "tokenizer": tower.modality, "max_tokens": backbone.preprocessing["max_tokens"]}
    if isinstance(backbone, TimmBackbone):
        return {"kind": "image", **first.get_config_dict()["data_config"], "bands": first.bands}
    if isinstance(backbone, VideoBackbone):
        data = first.images.get_config_dict()["data_config"]
        return {"kind": "video", **data, "bands": None, "frames": tower.frames, "pooling": backbone.pooling}
    if backbone.kind == "protein":
        kept = ("tokens", "pooling", "window", "overlap")
        return {"kind": "protein", **{key: getattr(first, key) for key in kept}}
    return {"kind": backbone.kind, **backbone.preprocessing}
