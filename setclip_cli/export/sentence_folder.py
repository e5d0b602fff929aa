"""A RUN as one sentence-transformers model: a Router over modalities, behind it backbone and encoder of each tower.

DIR/modules.json, router_config.json, config_sentence_transformers.json    what `SentenceTransformer(DIR)` reads
DIR/<modality>_<n>_<Module>/    the n-th module behind a modality
DIR/setclip_*.py                the modules that the library lacks; loading them needs trust_remote_code=True
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setclip_cli.errors import UsageError
from setclip_cli.export.backbone_modules import TimmInTransformers, backbone_modules, require_plain
from setclip_cli.export.native import native_modules, require_plain_parts
from setclip_cli.files import atomic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from setclip_cli.dataset.modality import RowKind
    from setclip_cli.encoders import Encoder
    from setclip_cli.export.options import Form
    from setclip_cli.export.towers import Tower

OURS = "setclip_cli.export.modules."
# What the library calls the rows. It has no name for vectors.
READ_AS: dict[RowKind, str | None] = {"text": "text", "protein": "text", "image": "image", "vector": None}
_ROUTER = "sentence_transformers.base.modules.router.Router"
_OUR_ROUTER = "setclip_router.SetClipRouter"
_TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"


def write_sentence_transformers(
    folder: Path, towers: Sequence[Tower], encoders: Sequence[Encoder], form: Form
) -> list[str]:
    """Writes the model into an empty folder.

    Args:
        encoders: Of the form, see `encoders_of`.

    Returns:
        The names of the module files of ours that it needs; if there are any, it needs trust_remote_code.

    Raises:
        SetClipError: the form lacks modules for a part of it.
    """
    types: dict[str, str] = {}
    structure: dict[str, list[str]] = {}
    for tower, encoder in zip(towers, encoders, strict=True):
        modules = backbone_modules(tower.backbone, form) + _encoder_modules(encoder)
        for number, module in enumerate(modules):
            name = f"{tower.modality}_{number}_{_type_of(module).rpartition('.')[2]}"
            place = atomic.make_folder(folder / name)
            module.save(str(place))
            types[name] = _type_of(module)
            structure.setdefault(tower.modality, []).append(name)
    ours = any(kind.startswith("setclip_") for kind in types.values())
    router_type = _OUR_ROUTER if ours else _ROUTER  # ours refuses more, but it has to be trusted
    files = sorted(
        {f"{kind.split('.')[0]}.py" for kind in (*types.values(), router_type) if kind.startswith("setclip_")}
    )
    for file in files:
        atomic.write_text(folder / file, Path(__file__).with_name("modules").joinpath(file).read_text(encoding="utf-8"))
    routes = route_mappings(towers)
    router = {
        "types": types,
        "structure": structure,
        "parameters": {
            "default_route": None,  # what no tower reads is refused
            "allow_empty_key": False,
            "route_mappings": {str(key): route for key, route in routes.items()},
        },
    }
    atomic.write_json(folder / "router_config.json", router)
    atomic.write_json(folder / "config_sentence_transformers.json", _config(towers))
    modules_json = f'[\n  {{"idx": 0, "name": "0", "path": "", "type": "{router_type}"}}\n]\n'
    atomic.write_text(folder / "modules.json", modules_json)
    return files


def encoders_of(towers: Sequence[Tower], form: Form) -> Sequence[Encoder]:
    """The encoders that a form has: in the plain one the part that the library has modules for.

    Raises:
        SetClipError: the library lacks modules for every part of them, or for a backbone.
    """
    whole = [tower.encoder for tower in towers]
    if form == "full":
        return whole
    for tower in towers:
        require_plain(tower.backbone)
    return require_plain_parts(whole)


def has_plain_form(towers: Sequence[Tower]) -> bool:
    """Whether the plain form can be written."""
    try:
        encoders_of(towers, "plain")
    except UsageError:
        return False
    return True


def route_mappings(towers: Sequence[Tower]) -> dict[tuple[str | None, str | None], str]:
    """Which tower reads what: a modality by its name, and what the library recognizes by the first tower that fits."""
    routes: dict[tuple[str | None, str | None], str] = {(tower.modality, None): tower.modality for tower in towers}
    for tower in sorted(towers, key=lambda one: one.backbone.kind == "protein"):  # words are texts before residues are
        if (read_as := READ_AS[tower.backbone.kind]) is not None:
            routes.setdefault((None, read_as), tower.modality)
    return routes


def _encoder_modules(encoder: Encoder) -> list[Any]:
    native = native_modules(encoder)
    if native is not None:
        return native
    from setclip_cli.export.modules.setclip_encoder import SetClipEncoder

    made = SetClipEncoder(encoder.describe(), encoder.dim)
    made.network.load_state_dict(encoder.state_dict())
    return [made.eval()]


def _type_of(module: Any) -> str:
    if isinstance(module, TimmInTransformers):
        return _TRANSFORMER
    return f"{type(module).__module__}.{type(module).__name__}".removeprefix(OURS)


def _config(towers: Sequence[Tower]) -> dict[str, Any]:
    needed = {"sentence-transformers": ">=6.0"}
    if any(tower.backbone.spec.startswith("timm:") for tower in towers):
        needed["timm"] = ">=1.0.9"
    packages = {"sentence_transformers": "sentence-transformers", "transformers": "transformers", "pytorch": "torch"}
    return {
        "model_type": "SentenceTransformer",
        "__version__": {name: importlib.metadata.version(package) for name, package in packages.items()},
        "requirements": needed,
        "prompts": {},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    }
