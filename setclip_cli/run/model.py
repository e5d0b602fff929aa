"""A trained pair of towers, and its files in a RUN folder.

RUN/config.json            method, backbone and encoder of each tower, and the hashes of the files
RUN/model.safetensors      the encoders' tensors, "<modality>.<tensor>"
RUN/initial.safetensors    the same before training, for the "before" of the report
RUN/tuned-<modality>.safetensors   the weights of the backbone that training changed, for a tower that is not frozen
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from setclip_cli.dataset.modality import KINDS_OF_NAMES, Modality, plural
from setclip_cli.encoders import Encoder, encoder_from_description
from setclip_cli.errors import SetClipError, UsageError, argument, translated
from setclip_cli.files import atomic
from setclip_cli.files.documents import write_document
from setclip_cli.ingest.sources.video import frames_at
from setclip_cli.options import path_of
from setclip_cli.pixels.video import FRAMES, UnusableVideoError
from setclip_cli.pixels.video_decoders import Decoders
from setclip_cli.remote.arguments import takes_places
from setclip_cli.remote.run_files import CONFIG_NAME, tuned_name
from setclip_cli.run import checkpoint
from setclip_cli.run.config import (
    INITIAL_NAME,
    MODEL_NAME,
    ModelConfig,
    RunFile,
    TowerConfig,
    advice,
    identity_of,
    load_config,
    require_file,
    require_unchanged,
)
from setclip_cli.vectors import unusable_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt
    import torch
    from PIL import Image

    from setclip_cli.backbones.base import Backbone

    ImageLike = str | Path | bytes | Image.Image


@dataclass(frozen=True)
class Model:
    """Two towers, ready to encode features.

    Attributes:
        encoders: By modality, the left one first: features (n, p) to unit-norm embeddings (n, d).
        initial: The same encoders as they were before training.
    """

    config: ModelConfig
    encoders: dict[Modality, Encoder]
    initial: dict[Modality, Encoder]
    identity: str  # sha256 of the trained tensors and their configuration
    run: Path
    _backbones: dict[Modality, Backbone] = field(default_factory=dict, repr=False, compare=False)

    def embed(
        self,
        *,
        proteins: Sequence[str] | None = None,
        images: Sequence[ImageLike] | None = None,
        captions: Sequence[str] | None = None,
        device: torch.device | str = "cpu",
        **others: Sequence[Any] | npt.NDArray[Any] | None,
    ) -> npt.NDArray[np.float32]:
        """(n, d) embeddings, rows of length 1, of items of one modality. Its backbone is loaded once.

        Args:
            proteins: Residues, one letter each.
            images: Paths, bytes of image files, or Pillow images; TIFF files for a tower of images of bands.
            captions: Texts.
            device: Where to compute.
            others: The same for a modality with another name, such as ``sar=["a.tif"]``; vectors as rows of a matrix;
                videos as paths of files or of folders of frames, or as lists of encoded pictures.

        Raises:
            SetClipError: not exactly one kind of items, a kind that the RUN has no tower for, an item that cannot be
                read, or weights that are missing or have changed.
        """
        given = {"protein": proteins, "image": images, "caption": captions, **others}
        names = [modality for modality, items in given.items() if items is not None]
        if len(names) != 1 or names[0] not in self.encoders:
            raise UsageError(
                f"embed: needs items of one modality, {' or '.join(map(keyword, self.encoders))}; "
                f"got {' and '.join(map(keyword, names)) or 'none'}",
                fix="call it once for each modality",
            )
        items = given[names[0]]
        kind = self.config.towers[names[0]].info(names[0]).kind
        if not isinstance(items, list | tuple) and not (kind == "vector" and isinstance(items, np.ndarray)):
            raise UsageError(
                f"{argument(keyword(names[0]))}: is a {type(items).__name__}, not a list",
                fix="give a list of vectors, or a matrix" if kind == "vector" else "put it into a list",
            )
        return self._embedded(names[0], items, device)

    def similarity(self, left: Sequence[Any], right: Sequence[Any]) -> npt.NDArray[np.float32]:
        """(n, m) cosines between items of the left and of the right tower, in the order of `encoders`.

        Args:
            left, right: Items as `embed` takes them, or embeddings that it gave. An array is taken as embeddings; for a
                tower of vectors, if its rows have the width of embeddings and length 1.

        Raises:
            SetClipError: an array is neither; or as `embed` does.
        """
        sides = (
            np.asarray(items) if self._are_embeddings(modality, items) else self._embedded(modality, items, "cpu")
            for modality, items in zip(self.encoders, (left, right), strict=True)
        )
        of_left, of_right = sides
        if of_left.shape[1:] != of_right.shape[1:]:
            raise UsageError(
                f"similarity: left has the shape {of_left.shape}, and right {of_right.shape}",
                fix="give embeddings, as embed gives them, or the items themselves",
            )
        return np.asarray(of_left @ of_right.T, dtype=np.float32)

    def _are_embeddings(self, modality: Modality, items: Any) -> bool:
        """Whether items of `similarity` are embeddings. A matrix can also hold vectors that are to be embedded."""
        if not isinstance(items, np.ndarray):
            return False
        if self.config.towers[modality].info(modality).kind != "vector":
            return True
        if items.ndim != 2 or items.shape[1] != self.encoders[modality].dim:
            return False
        return bool(np.allclose(np.linalg.norm(items.astype(np.float64), axis=1), 1, atol=0.01))

    def _embedded(self, modality: Modality, items: Any, device: torch.device | str) -> npt.NDArray[np.float32]:
        import torch

        if modality not in self._backbones:
            self._backbones[modality] = self.load_backbone(modality, device)
        kind = self._backbones[modality].kind
        for item in items if kind in ("protein", "text") else ():
            if not isinstance(item, str):
                raise UsageError(f"embed: {item!r} is not a {modality}", fix="give text, one string for each item")
        if kind == "vector":
            items = _matrix(items, modality)
        if kind == "image":
            items = [_file_bytes(item) for item in items]
        elif kind == "video":
            count = self.config.towers[modality].frames or FRAMES
            with Decoders() as decoders:
                items = [_frames(item, count, decoders) for item in items]
        encoded = self._backbones[modality].encode(items)
        for place, reason in encoded.failed.items():
            raise SetClipError(f"embed: {modality} {place} {reason}", fix="leave it out, or repair it")
        with torch.inference_mode():
            embeddings: npt.NDArray[np.float32] = self.encoders[modality](encoded.features).numpy()
        for place, reason in unusable_rows(embeddings).items():
            raise SetClipError(f"embed: {modality} {place}: its embedding {reason}", fix="leave it out")
        return embeddings

    def load_backbone(
        self, modality: Modality, device: torch.device | str = "cpu", *, initial: bool = False
    ) -> Backbone:
        """The backbone of a tower, with the weights that it had after training.

        Args:
            initial: Take the weights before training instead, for the `initial` encoders.

        Raises:
            SetClipError: the weights are missing, or they or the preprocessing are not those of the training.
        """
        from setclip_cli.backbones import load_backbone

        tower = self.config.towers[modality]
        backbone = load_backbone(
            tower.spec,
            modality=modality,
            info=tower.info(modality),
            weights=tower.weights,
            pooling=tower.pooling,
            layer=tower.layer,
            joint=tower.joint,
            bands=tower.bands,
            device=device,
        )
        _require_same_preprocessing(self.run, modality, tower, backbone)
        if backbone.identity != tower.identity:
            raise SetClipError(
                f"{tower.spec}: the weights found (weights = {tower.weights!r}) are not those this RUN was trained on",
                fix="restore the weights the RUN names, or train again with `setclip align`",
            )
        if tower.tuned_sha256 is not None and not initial:
            from setclip_cli.backbones.tuning import apply_tuned

            apply_tuned(backbone, tower.trainable, self.tuned_tensors(modality), lora_rank=tower.lora_rank)
        return backbone

    def tuned_tensors(self, modality: Modality) -> dict[str, torch.Tensor]:
        """The weights of the backbone that training changed; empty for a frozen one.

        Raises:
            SetClipError: the file is missing or damaged, or not the one that config.json names.
        """
        expected = self.config.towers[modality].tuned_sha256
        if expected is None:
            return {}
        path = self.run / tuned_name(modality)
        require_unchanged(path, expected)
        return checkpoint.load_tensors(path, fix=advice(path))[0]


def _file_bytes(image: ImageLike) -> bytes:
    """The bytes of an image file; a Pillow image is written as PNG first."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | Path):
        with translated(image, OSError, found="cannot be read", fix="check the path"):
            return Path(image).read_bytes()
    if not hasattr(image, "save"):
        raise UsageError(
            f"embed: a {type(image).__name__} is not an image",
            fix="give paths, bytes of image files, or Pillow images",
        )
    written = io.BytesIO()
    image.save(written, "PNG")
    return written.getvalue()


def _frames(video: Any, count: int, decoders: Decoders) -> Any:
    """The frames of a video, given as a path or as the frames themselves."""
    if isinstance(video, list | tuple):
        return [_file_bytes(frame) for frame in video]
    if not isinstance(video, str | Path):
        raise UsageError(
            f"embed: a {type(video).__name__} is not a video", fix="give paths of videos, or lists of their frames"
        )
    with translated(video, OSError, UnusableVideoError, found="cannot be read", fix="check the path"):
        return frames_at(Path(video), count, decoders=decoders)


def keyword(modality: Modality) -> str:
    """The argument of `Model.embed` for a modality: ``images``, or the name itself if it is the user's own."""
    return plural(modality) if modality in KINDS_OF_NAMES else modality


def _matrix(items: Any, modality: Modality) -> npt.NDArray[np.float32]:
    with translated(
        f"embed: {modality}", ValueError, TypeError, found="is not a matrix of numbers", fix="give one vector a row"
    ):
        values = np.asarray(items, np.float32)
    if values.ndim != 2:
        raise UsageError(f"embed: {modality} has the shape {values.shape}", fix="give a matrix, one vector a row")
    return values


def _require_same_preprocessing(run: Path, modality: Modality, tower: TowerConfig, backbone: Backbone) -> None:
    """Raises SetClipError if items would be prepared in another way than at training, such as in another size."""
    then, now = tower.preprocessing, json.loads(json.dumps(backbone.preprocessing))
    different = [] if then is None else sorted(key for key in {*then, *now} if then.get(key) != now.get(key))
    if then is not None and different:
        key = different[0]
        raise SetClipError(
            f"{run / CONFIG_NAME}: the {modality} tower was trained with {key} = {then.get(key)!r}, "
            f"and {tower.spec} now says {now.get(key)!r}",
            fix="restore the backbone's files, install the library version of the training, or train again",
        )


def save_model(
    run: Path,
    config: ModelConfig,
    encoders: dict[Modality, Encoder],
    initial: dict[Modality, Encoder],
    *,
    beside: Callable[[str], None] = lambda _: None,
) -> None:
    """Writes the encoders, then config.json, which marks the RUN as finished and holds the hashes of its files.

    Args:
        beside: Writes what else belongs to the encoders; it gets the sha256 of model.safetensors.

    Raises:
        SetClipError: a value is not finite.
    """
    both = {INITIAL_NAME: _named_tensors(initial), MODEL_NAME: _named_tensors(encoders)}
    for name, tensors in both.items():
        for key, value in tensors.items():
            if not bool(value.isfinite().all()):
                raise SetClipError(
                    f"{run / name}: is not written, since {key} holds values that are not finite",
                    fix="train again with a lower optim.lr",
                )
    atomic.remove_file(run / CONFIG_NAME)  # it describes the files that are now replaced
    for name, tensors in both.items():
        checkpoint.save_tensors(run / name, tensors)
    files = {name: atomic.sha256_file(run / name) for name in get_args(RunFile) if (run / name).exists()}
    beside(files[MODEL_NAME])
    write_document(run / CONFIG_NAME, config.model_copy(update={"files": files}).as_json())


def _named_tensors(encoders: dict[Modality, Encoder]) -> dict[str, torch.Tensor]:
    return {
        f"{modality}.{key}": value
        for modality, encoder in encoders.items()
        for key, value in encoder.state_dict().items()
    }


@takes_places("run")
def load_model(run: Path | str) -> Model:
    """Opens a finished RUN.

    Raises:
        SetClipError: there is no RUN, it is not finished, or its files have changed or do not belong together.
    """
    run = path_of(run, "run")
    config = load_config(run)
    for name in (MODEL_NAME, INITIAL_NAME):
        require_file(run, config, name)
    towers = {name: config.towers[name] for name in config.modalities()}
    encoders = _encoders(run / MODEL_NAME, {name: tower.encoder for name, tower in towers.items()})
    initial = _encoders(run / INITIAL_NAME, {name: tower.initial for name, tower in towers.items()})
    return Model(config, encoders, initial, identity_of(run, config), run)


def _encoders(path: Path, descriptions: dict[Modality, dict[str, Any]]) -> dict[Modality, Encoder]:
    tensors, _ = checkpoint.load_tensors(path, fix=advice(path))
    encoders: dict[Modality, Encoder] = {}
    for modality in descriptions:
        prefix = f"{modality}."
        state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        with translated(
            path,
            Exception,
            found=f"does not hold the {modality} encoder that {CONFIG_NAME} describes",
            fix=advice(path, "train again, or restore both files from the same RUN"),
        ):
            encoder = encoder_from_description(descriptions[modality])
            encoder.load_state_dict(state)
        encoders[modality] = encoder.eval()
    return encoders
