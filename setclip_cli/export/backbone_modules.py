"""A backbone as modules of sentence-transformers: the ones that the library has, or files of ours beside the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from setclip_cli.backbones.pooling import AttentionPooledText
from setclip_cli.backbones.sentence import SentenceBackbone
from setclip_cli.backbones.sentence_image import SentenceImageBackbone
from setclip_cli.backbones.timm_image import TimmBackbone
from setclip_cli.backbones.vector import VectorBackbone
from setclip_cli.backbones.video import VideoBackbone, pool_frames
from setclip_cli.errors import SetClipError, UsageError
from setclip_cli.export.native import FULL_FORM
from setclip_cli.files import atomic

if TYPE_CHECKING:
    from setclip_cli.backbones.base import Backbone
    from setclip_cli.export.options import Form


def backbone_modules(backbone: Backbone, form: Form) -> list[Any]:
    """The modules from raw items to features. For the plain form, `require_plain` has looked at it before."""
    plain = form == "plain"
    merge_lora(backbone.module)
    if isinstance(backbone, SentenceBackbone | SentenceImageBackbone):
        return _sentence_modules(backbone)
    if isinstance(backbone, TimmBackbone):
        return [TimmInTransformers(backbone) if plain else _image(backbone)]
    if isinstance(backbone, VideoBackbone):
        return [FramesOfVideos(_image(backbone.images), backbone.pooling)]
    if isinstance(backbone, VectorBackbone):
        from setclip_cli.export.modules.setclip_vector import SetClipVector

        return [] if plain else [SetClipVector(backbone.modality, backbone.dim, backbone.info.encoder)]
    return [_protein(backbone)]


def require_plain(backbone: Backbone) -> None:
    """Raises UsageError if sentence-transformers has no module for what a backbone does."""
    unlike: dict[str, bool] = {}
    if isinstance(backbone, TimmBackbone):
        unlike = {
            f"pooling {backbone.pooling} of images": backbone.pooling != "default",
            "an inner layer of a timm model": backbone.cut_at is not None,
            "images of bands": backbone.bands is not None,
            "the projection of a joint timm model": backbone.space is not None,
        }
    elif isinstance(backbone, SentenceBackbone):
        unlike = {"pooling attention": backbone.pooling == "attention"}
    elif backbone.kind == "protein":
        unlike = {"the mean over residues alone": True}
    for what, found in unlike.items():
        if found:
            raise UsageError(
                f"--form plain: sentence-transformers has no module for {what} ({backbone.spec})", fix=FULL_FORM
            )


def merge_lora(module: nn.Module) -> None:
    """Adds low-rank adapters to the weights that they adapt, so that the model has only layers that its library has."""
    parts: list[tuple[str, Any]] = list(module.named_modules())
    for name, part in parts:
        if hasattr(part, "base_layer") and hasattr(part, "merge"):
            part.merge()
            parent = module.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], part.base_layer)


def _sentence_modules(backbone: SentenceBackbone | SentenceImageBackbone) -> list[Any]:
    modules = list(backbone.model.children())
    _state_layers(backbone.model.transformers_model, backbone.blocks)
    for place, module in enumerate(modules):
        if isinstance(module, AttentionPooledText):
            from setclip_cli.export.modules.setclip_text import SetClipAttentionPooling

            query = module.attention_pooling.query
            pooling: Any = SetClipAttentionPooling(len(query))
            pooling.query.data.copy_(query)
            modules[place] = pooling
    return modules


def _state_layers(network: Any, blocks: nn.ModuleList) -> None:
    """Makes the configuration say how many blocks there are, where those after an inner layer were dropped."""
    for holder in network.modules() if network is not None else ():
        if any(child is blocks for child in holder.children()):
            config = getattr(holder, "config", network.config)
            if getattr(config, "num_hidden_layers", 0) > len(blocks):
                config.num_hidden_layers = len(blocks)


def _image(backbone: TimmBackbone) -> Any:
    from setclip_cli.export.modules.setclip_image import SetClipImage

    bands = backbone.bands
    made: Any = SetClipImage(
        backbone.module.pretrained_cfg["architecture"],
        {key: list(value) if isinstance(value, tuple) else value for key, value in backbone.data_config.items()},
        backbone.pooled_by,
        backbone.dim,
        layer=backbone.cut_at,
        bands=None if bands is None else {"mean": list(bands.mean), "std": list(bands.std)},
        projection=backbone.dim if backbone.space is not None else None,
    )
    tensors = dict(backbone.module.state_dict())
    query = tensors.pop("attention_pooling.query", None)
    made.model.load_state_dict(tensors)
    if query is not None:
        made.query.data.copy_(query)
    return made.eval()


class FramesOfVideos(nn.Module):
    """Pixels of frames (videos, frames, channels, height, width) to features (videos, d); for graphs of ONNX."""

    def __init__(self, images: Any, pooling: str) -> None:
        super().__init__()
        self.images, self.pooling = images, pooling

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        pixels = features["pixel_values"]
        of_frames = self.images.pooled(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2])
        features["sentence_embedding"] = pool_frames(of_frames, self.pooling)
        return features


class TimmInTransformers:
    """A folder that sentence-transformers' `Transformer` loads as a timm model of transformers."""

    def __init__(self, backbone: TimmBackbone) -> None:
        self.backbone = backbone

    def save(self, folder: str, **_: Any) -> None:
        from safetensors.torch import save_file

        module, data = self.backbone.module, self.backbone.data_config
        shown = {key: list(value) if isinstance(value, tuple) else value for key, value in data.items()}
        shown |= {"architecture": module.pretrained_cfg["architecture"], "fixed_input_size": True}
        config = {
            "model_type": "timm_wrapper",
            "architectures": ["TimmWrapperModel"],
            "architecture": shown["architecture"],
            "num_classes": 0,
            "num_features": self.backbone.dim,
            "do_pooling": True,
            "pretrained_cfg": shown,
        }
        reading = {
            "transformer_task": "feature-extraction",
            "modality_config": {"image": {"method": "forward", "method_output_name": "pooler_output"}},
            "module_output_name": "sentence_embedding",
        }
        atomic.write_json(Path(folder, "config.json"), config)
        atomic.write_json(Path(folder, "sentence_bert_config.json"), reading)
        tensors = {f"timm_model.{name}": value.contiguous() for name, value in module.state_dict().items()}
        save_file(tensors, Path(folder, "model.safetensors"), metadata={"format": "pt"})


def _protein(backbone: Any) -> Any:
    from setclip_cli.backbones.esm2 import ALPHABET
    from setclip_cli.export.esm_weights import esm_settings, esm_tensors
    from setclip_cli.export.modules.setclip_protein import SetClipProtein

    module = backbone.module
    final_norm = not isinstance(module.emb_layer_norm_after, nn.Identity)
    made: Any = SetClipProtein(
        esm_settings(module),
        list(ALPHABET.all_toks),
        backbone.pooling,
        backbone.window,
        backbone.overlap,
        final_norm=final_norm,
    )
    missing, unexpected = made.model.load_state_dict(esm_tensors(module), strict=False)
    left = [name for name in missing if not name.endswith(("inv_freq", "position_ids")) and "contact" not in name]
    if left or unexpected:
        raise SetClipError(
            f"{backbone.spec}: transformers' ESM-2 has other tensors than this one ({(left or unexpected)[0]})",
            fix="pip install -U transformers",
        )
    if backbone.attention_pooling is not None:
        made.query.data.copy_(backbone.attention_pooling.query)
    return made.eval()
