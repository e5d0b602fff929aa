"""Feature extractors: ESM-2, timm, sentence-transformers, and stored vectors as they are.

Importing this package does not import torch.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast

from setclip_cli.backbones.fetch import fetch_weights
from setclip_cli.backbones.joint import named_space, not_joint
from setclip_cli.backbones.weights import KINDS, Spec, locate_weights, parse_spec
from setclip_cli.dataset.modality import KINDS_OF_NAMES, plural
from setclip_cli.errors import SetClipError, UsageError, argument, first_line

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from setclip_cli.backbones.base import Backbone
    from setclip_cli.backbones.timm_image import TimmBackbone
    from setclip_cli.backbones.weights import Kind
    from setclip_cli.dataset.modality import Modality, RowKind
    from setclip_cli.dataset.schemas import ModalityInfo
    from setclip_cli.pixels.bands import BandScale

__all__ = [
    "FRAME_POOLINGS",
    "POOLINGS",
    "ROWS_READ_BY",
    "check_backbone",
    "check_reads_bands",
    "describe_weights",
    "empty_backbone",
    "load_backbone",
    "poolings_of",
]

ROWS_READ_BY: dict[Kind, tuple[RowKind, ...]] = {
    "esm": ("protein",),
    "timm": ("image", "video"),  # of a video, each frame
    "sentence-transformers": ("text", "image"),  # images: some of its models, and only their weights say which
    "vector": ("vector",),
}
POOLINGS: dict[Kind, tuple[str, ...]] = {
    "esm": ("mean", "cls", "attention"),  # the first is the default
    "timm": ("default", "avg", "cls", "attention"),
    "sentence-transformers": ("default", "mean", "cls", "attention"),
    "vector": ("default",),
}
FRAME_POOLINGS = ("mean", "attention")  # of videos: how the features of the frames become one vector


def poolings_of(backbone: Kind, rows: RowKind | None) -> tuple[str, ...]:
    """The poolings of a kind of backbone for a kind of rows; the first is the default."""
    return FRAME_POOLINGS if rows == "video" else POOLINGS[backbone]


def check_backbone(spec: str, *, modality: Modality, kind: RowKind | None = None, pooling: str = "default") -> Spec:
    """Checks a backbone's name, the rows that it reads, and its pooling; needs neither weights nor torch.

    Args:
        kind: Of the modality's rows; None if its name says it, or the backbone does.

    Raises:
        SetClipError: there is no such kind or name, it reads other rows, or it does not have this pooling.
    """
    parsed = parse_spec(spec)
    reads = ROWS_READ_BY[parsed.kind]
    kind = kind or KINDS_OF_NAMES.get(modality, reads[0])
    if kind not in reads:
        other = next(other for other in KINDS if kind in ROWS_READ_BY[other])
        raise UsageError(
            f"towers.{modality}.backbone {spec!r}: reads {' or '.join(map(plural, reads))}, not {plural(kind)}",
            fix=f"give the {modality} tower "
            + ('backbone = "vector"' if other == "vector" else f"a {other}: backbone"),
        )
    poolings = poolings_of(parsed.kind, kind)
    if pooling != "default" and pooling not in poolings:
        of = " for the frames of videos" if kind == "video" else ""
        raise UsageError(
            f"pooling {pooling!r} of {spec}: {parsed.kind} backbones do not have it{of}",
            fix=f"choose one of: {', '.join(dict.fromkeys(('default', *poolings)))}",
        )
    return parsed


def check_reads_bands(spec: Spec, modality: Modality, bands: int) -> None:
    """Raises SetClipError if a backbone cannot read images of any number of bands: only timm models can."""
    if spec.kind != "timm":
        raise UsageError(
            f"{spec} reads no images of bands, and the {modality} rows have {bands} of them; timm: backbones read them",
            fix=f"choose a timm: backbone for the {modality} rows, or ingest three of the bands as pictures with "
            f"{argument('bands')} R,G,B",
        )


def describe_weights(spec: str, weights: str = "auto") -> dict[str, Any]:
    """Says where the weights would come from, without loading them: spec, offline, origin, path, tried, ways.

    Raises:
        SetClipError: as `locate_weights` does.
    """
    location = locate_weights(spec, weights)
    return {
        "spec": spec,
        "offline": location.offline,
        "origin": location.origin,
        "path": None if location.path is None else str(location.path),
        "tried": list(location.tried),
        "ways": list(location.ways),
    }


def load_backbone(
    spec: str,
    *,
    modality: Modality,
    info: ModalityInfo | None = None,
    weights: str = "auto",
    pooling: str = "default",
    layer: int = -1,
    joint: bool = False,
    bands: BandScale | None = None,
    device: torch.device | str = "cpu",
) -> Backbone:
    """Loads a backbone, in evaluation mode and float32.

    Args:
        modality: The name of the modality whose rows it is to read.
        info: The kind of these rows, and the width of vectors; None if the name of the modality says the kind, or the
            backbone reads one kind only.
        weights: ``auto``, ``hub``, ``package:NAME`` or a path; see `locate_weights`.
        pooling: ``default`` or one of ``POOLINGS`` of its kind.
        layer: The block whose features are taken: counted from 1, or back from the last, which is -1.
        joint: Load half of a joint model, with its projection into the space of both: see ``space`` of the result.
        bands: Read images of as many bands, whose numbers are scaled so; None for pictures and other rows.

    Raises:
        SetClipError: as `check_backbone` does, or the weights are missing or do not fit the backbone, or it is to be
            half of a joint model and is none.
    """
    import torch

    backbone = _load(spec, modality=modality, info=info, weights=weights, pooling=pooling, joint=joint, bands=bands)
    backbone.modality = modality
    if layer != -1:
        backbone.cut(layer)
    return backbone.to(torch.device(device))


def _load(
    spec: str,
    *,
    modality: Modality,
    info: ModalityInfo | None,
    weights: str,
    pooling: str,
    joint: bool,
    bands: BandScale | None,
) -> Backbone:
    """The whole backbone, on the CPU."""
    parsed = check_backbone(spec, modality=modality, kind=info.kind if info else None, pooling=pooling)
    if parsed.kind == "vector":
        from setclip_cli.backbones.vector import VectorBackbone

        assert info is not None
        return VectorBackbone(modality, info, joint=joint)
    if bands is not None:
        check_reads_bands(parsed, modality, len(bands.mean))
    if joint and parsed.kind != "sentence-transformers" and named_space(spec) is None:
        raise not_joint(spec, "is not known to share a space with a model of texts")
    if joint and _row_kind(parsed, modality, info) == "video":
        raise not_joint(spec, "reads videos here, whose pooled frames are not in the space of a joint model")
    path = fetch_weights(locate_weights(parsed, weights))
    return _open(parsed, path, pooling, rows=_row_kind(parsed, modality, info), joint=joint, bands=bands)


def empty_backbone(
    spec: str,
    *,
    modality: Modality,
    info: ModalityInfo | None = None,
    weights: str = "auto",
    pooling: str = "default",
    layer: int = -1,
) -> Backbone | None:
    """The backbone as `load_backbone` gives it, but with shapes in place of numbers: to see what it has.

    It takes no memory, and no weights are read. Its identity is empty.

    Returns:
        None if this cannot be known before the weights are downloaded or loaded.

    Raises:
        SetClipError: as `load_backbone` does, apart from what only the weights show.
    """
    parsed = check_backbone(spec, modality=modality, kind=info.kind if info else None, pooling=pooling)
    path, rows = locate_weights(parsed, weights).path, _row_kind(parsed, modality, info)
    if parsed.kind == "vector" or (parsed.kind == "sentence-transformers" and (path is None or rows == "image")):
        return None
    backbone = _open(parsed, path, pooling, rows=rows, empty=True)
    backbone.modality = modality
    if layer != -1:
        backbone.cut(layer)
    return backbone


def _row_kind(parsed: Spec, modality: Modality, info: ModalityInfo | None) -> RowKind:
    """The kind of rows that a backbone is to read, of those that it can."""
    return info.kind if info else KINDS_OF_NAMES.get(modality, ROWS_READ_BY[parsed.kind][0])


def _open(
    parsed: Spec,
    path: Path | None,
    pooling: str,
    *,
    rows: RowKind,
    joint: bool = False,
    empty: bool = False,
    bands: BandScale | None = None,
) -> Backbone:
    """A backbone with its weights, or without them; then the path may be missing if the name says all."""
    if rows == "video":
        from setclip_cli.backbones.video import VideoBackbone

        frames = FRAME_POOLINGS[0] if pooling == "default" else pooling
        of_images = _open(parsed, path, "default", rows="image", empty=empty)
        return VideoBackbone(cast("TimmBackbone", of_images), pooling=frames)
    chosen = POOLINGS[parsed.kind][0] if pooling == "default" else pooling
    if parsed.kind == "esm":
        try:
            from setclip_cli.backbones.esm2 import load_esm2
        except ImportError as error:  # another package on the registry is imported as esm, too
            raise SetClipError(
                f"{parsed}: the installed package `esm` is not fair-esm ({first_line(error)})",
                fix=f"{sys.executable} -m pip uninstall esm, then pip install --force-reinstall fair-esm",
            ) from error
        return load_esm2(parsed, path, pooling=chosen, empty=empty)
    if parsed.kind == "timm":
        from setclip_cli.backbones.timm_image import load_timm

        return load_timm(parsed, path, pooling=chosen, joint=joint, empty=empty, bands=bands)
    assert path is not None
    if rows == "image":
        from setclip_cli.backbones.sentence_image import load_sentence_image

        return load_sentence_image(parsed, path, pooling=chosen, joint=joint)
    from setclip_cli.backbones.sentence import load_sentence

    return load_sentence(parsed, path, pooling=chosen, joint=joint, empty=empty)
