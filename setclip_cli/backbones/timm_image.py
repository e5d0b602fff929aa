"""timm image models: the bytes of an image file become pooled features, with the model's own preprocessing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from timm.models import adapt_input_conv
from torch import Tensor

from setclip_cli.backbones.base import counted_layer
from setclip_cli.backbones.devices import autocast
from setclip_cli.backbones.images import ImageBackbone
from setclip_cli.backbones.joint import named_space
from setclip_cli.backbones.pooling import AttentionPooling
from setclip_cli.backbones.tensors import identity_of, read_checkpoint
from setclip_cli.errors import SetClipError, translated

if TYPE_CHECKING:
    from pathlib import Path

    from setclip_cli.backbones.weights import Spec
    from setclip_cli.pixels.bands import BandScale

# Files whose tensors have other names than timm's, but the same order.
SAME_ORDER = {"efficientnet-lite0-57934424.pth"}


class TimmBackbone(ImageBackbone):
    """A timm model without its classifier; with its projection, if that leads into a space shared with texts.

    ``default`` pooling is the input of the model's classifier; ``avg`` is the mean over patch tokens (or the positions
    of the feature map), ``cls`` the class token, ``attention`` a learned mean over what ``avg`` averages. A layer is a
    block of a transformer or a stage of a convolutional model. For an inner layer, ``default`` is ``cls`` if the
    model's own classifier reads the class token, else ``avg``; ``pooled_by`` says which.
    """

    module: Any

    def __init__(
        self,
        spec: str,
        module: Any,
        *,
        pooling: str = "default",
        data_config: dict[str, Any],
        joint: bool = False,
        bands: BandScale | None = None,
    ) -> None:
        super().__init__()
        self.spec, self.bands = spec, bands
        self.dim = int(getattr(module, "head_hidden_size", None) or module.num_features)
        self.attention_pooling = None
        if joint:
            self.dim, self.space = int(module.num_classes), named_space(spec)
        if pooling == "attention":
            self.dim = int(module.num_features)
            self.attention_pooling = AttentionPooling(self.dim)
            module.add_module("attention_pooling", self.attention_pooling)
        self.module = module.eval().requires_grad_(False)
        self.layers = len(module.feature_info) if hasattr(module, "prune_intermediate_layers") else 1
        self.pooling = self.pooled_by = pooling
        self.cut_at: int | None = None  # place of the last layer that is left, if some were dropped
        self.data_config = data_config
        self.transform = create_transform(**data_config, is_training=False)
        self.preprocessing = _plain(data_config) | ({} if bands is None else {"in_chans": len(bands.mean)})
        self.identity = self._identity()

    def _identity(self) -> str:
        settings = {"kind": "timm", "name": self.spec, "pooling": self.pooling, "data": self.preprocessing}
        if self.space is not None:
            settings["space"] = self.space
        return identity_of(self.module.state_dict(), settings)

    def cut(self, layer: int) -> None:
        kept = counted_layer(layer, self)
        if kept == self.layers:
            return
        if self.pooling == "default":
            self.pooled_by = "cls" if getattr(self.module, "global_pool", "avg") == "token" else "avg"
        self.dim = int(self.module.feature_info[kept - 1]["num_chs"])
        if self.pooling == "attention":
            self.attention_pooling = self.module.attention_pooling = AttentionPooling(self.dim).requires_grad_(False)
        self.module.prune_intermediate_layers([kept - 1], prune_norm=True)
        self.layers, self.cut_at = kept, kept - 1
        self.identity = self._identity()

    def forward(self, pixels: Tensor) -> Tensor:
        """(b, 3, h, w) preprocessed pixels, or (b, bands, h, w), to (b, dim) float32."""
        with autocast(self.device, self.precision):
            hidden = self.module.forward_features(pixels.contiguous(memory_format=torch.channels_last))
            if self.pooled_by == "default":
                pooled = self.module.forward_head(hidden, pre_logits=self.space is None)
            elif self.pooled_by == "cls":
                pooled = hidden[:, 0]
            else:
                tokens = self._patches(hidden)
                pooled = tokens.mean(1) if self.attention_pooling is None else self._attended(tokens)
        features: Tensor = pooled.float()
        return features

    def _patches(self, hidden: Tensor) -> Tensor:
        """(b, t, d): the patch tokens, or the positions of the feature map."""
        if hidden.ndim == 3:
            return hidden[:, int(getattr(self.module, "num_prefix_tokens", 0)) :]
        last = getattr(self.module, "output_fmt", "NCHW") == "NHWC"
        return hidden.flatten(1, 2) if last else hidden.flatten(2).transpose(1, 2)

    def _attended(self, tokens: Tensor) -> Tensor:
        assert self.attention_pooling is not None
        even = tokens.new_full(tokens.shape[:2], 1 / tokens.shape[1], dtype=torch.float32)
        return torch.bmm(self.attention_pooling(tokens, even)[:, None].to(tokens.dtype), tokens)[:, 0]


def load_timm(
    spec: Spec,
    path: Path | None,
    *,
    pooling: str,
    joint: bool = False,
    empty: bool = False,
    bands: BandScale | None = None,
) -> TimmBackbone:
    """Builds the timm model of the name and fills it from the checkpoint.

    Args:
        path: The checkpoint; an empty model does not need it.
        bands: Read images of as many bands, and scale them so. The first layer of a checkpoint of pictures is adapted
            as timm does it; a checkpoint for as many bands is taken as it is.
        joint: Keep the projection into the space that the model shares with texts.
        empty: Leave out the numbers of the tensors (see `empty_backbone`).

    Raises:
        SetClipError: the tensors do not fit the model, or the model has no class token to pool.
    """
    if empty or path is None:
        with torch.device("meta"):
            module: Any = timm.create_model(
                spec.name, pretrained=False, in_chans=3 if bands is None else len(bands.mean)
            )
    else:
        module = _filled(spec, path, None if bands is None else len(bands.mean))
    if not joint:
        module.reset_classifier(0)
    if pooling == "cls" and not getattr(module, "num_prefix_tokens", 0):
        raise SetClipError(
            f"pooling 'cls' of {spec}: the model has no class token", fix="choose the pooling default or avg"
        )
    data_config = resolve_model_data_config(module)  # type: ignore[no-untyped-call]
    if joint:
        data_config["crop_pct"] = 1.0  # as CLIP was trained, and as its other loaders prepare images
    if bands is not None:
        size = (len(bands.mean), *data_config["input_size"][1:])
        data_config |= {"input_size": size, "mean": bands.mean, "std": bands.std}
        if data_config["crop_mode"] == "border":  # its borders have a colour, which bands do not have
            data_config["crop_mode"] = "center"
    module = module.to(memory_format=torch.channels_last)
    return TimmBackbone(str(spec), module, pooling=pooling, data_config=data_config, joint=joint, bands=bands)


def _filled(spec: Spec, path: Path, in_chans: int | None) -> Any:
    """The timm model with the tensors of the checkpoint and with its classifier.

    Without the classifier, timm would fill whatever is missing with random numbers.

    Args:
        in_chans: Number of bands that the model is to read; None for pictures.
    """
    tensors = read_checkpoint(path)
    for wrapper in ("state_dict_ema", "state_dict", "model"):
        if isinstance(tensors, dict) and isinstance(tensors.get(wrapper), dict):
            tensors = tensors[wrapper]
            break
    if path.name in SAME_ORDER:
        tensors = _in_timm_names(spec.name, tensors, path)
    if in_chans is None:
        return _created(spec, path, tensors)
    of_bands = timm.create_model(spec.name, pretrained=False, in_chans=in_chans)
    if _fits_first_layer(of_bands, tensors):
        return _created(spec, path, tensors, in_chans=in_chans, **_as_it_is(of_bands, tensors))
    return _adapted(spec, _created(spec, path, tensors), of_bands, in_chans)


def _created(spec: Spec, path: Path, tensors: dict[str, Tensor], *, in_chans: int = 3, **config: Any) -> Any:
    with translated(
        path,
        Exception,
        found=f"its tensors do not fit {spec}",
        fix=f"give the weights that timm publishes for {spec.name}",
    ):
        # the configuration again: timm pops the classifier if that of the weights has another width
        return timm.create_model(
            spec.name,
            pretrained=True,
            in_chans=in_chans,
            **{name: value for name, value in config.items() if name == "num_classes"},
            pretrained_cfg_overlay={"state_dict": tensors, **config},  # timm's own renaming applies
        )


def _fits_first_layer(module: Any, tensors: dict[str, Tensor]) -> bool:
    """Whether the first layer of a checkpoint reads as many bands as the model."""
    named = module.pretrained_cfg.get("first_conv") or ()
    keys = [f"{name}.weight" for name in ((named,) if isinstance(named, str) else named)]
    wanted = module.state_dict()
    return bool(keys) and all(key in tensors and tensors[key].shape == wanted[key].shape for key in keys)


def _as_it_is(module: Any, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """What keeps timm from adapting the first layer again, and from missing a classifier that self-supervised weights
    do not have."""
    classifier = module.pretrained_cfg.get("classifier")
    return {"first_conv": None} | ({} if f"{classifier}.weight" in tensors else {"num_classes": 0})


def _adapted(spec: Spec, module: Any, of_bands: Any, in_chans: int) -> Any:
    """The model of bands with the weights of the one of pictures: those of the first layer are repeated and scaled, as
    timm does it."""
    shapes = {key: tensor.shape for key, tensor in of_bands.state_dict().items()}
    tensors = module.state_dict()
    with translated(
        spec,
        Exception,
        found=f"its first layer cannot be adapted to {in_chans} bands",
        fix="choose another timm: backbone, such as timm:resnet50, or a checkpoint that reads as many bands",
    ):
        for key, tensor in tensors.items():
            if tensor.shape != shapes[key]:
                tensors[key] = adapt_input_conv(in_chans, tensor)
        of_bands.load_state_dict(tensors)
    return of_bands


def _in_timm_names(name: str, tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Gives each tensor the name of timm's tensor at its place; shapes and kinds must agree one by one."""
    expected = timm.create_model(name, pretrained=False).state_dict()
    pairs = list(zip(tensors.items(), expected.items(), strict=False))
    agree = all(
        found.shape == wanted.shape and theirs.rpartition(".")[2] == ours.rpartition(".")[2]
        for (theirs, found), (ours, wanted) in pairs
    )
    if len(tensors) != len(expected) or not agree:
        raise SetClipError(
            f"{path}: its {len(tensors)} tensors do not match the {len(expected)} of timm's {name} one by one",
            fix="install the package again, or give timm's own weights",
        )
    return {ours: found for (_, found), (ours, _) in pairs}


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}
