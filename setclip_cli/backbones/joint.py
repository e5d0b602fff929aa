"""Joint models: an image tower and a text tower of one such model give features that can be compared.

A sentence-transformers model that reads images and texts holds both towers. A timm model holds the image tower alone,
so it needs a text model of the same space, and only names can tell that: `SPACES` lists those that are known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from setclip_cli.errors import UsageError

if TYPE_CHECKING:
    from setclip_cli.backbones.base import Backbone

# Space -> the backbones that lead into it. OpenAI's models were trained with the activation that timm calls quickgelu;
# timm has the same weights under names without it, which compute something else.
SPACES = {
    "OpenAI CLIP ViT-B/32": (
        "sentence-transformers:clip-ViT-B-32",
        "sentence-transformers:clip-ViT-B-32-multilingual-v1",  # texts only
        "sentence-transformers:openai/clip-vit-base-patch32",
        "timm:vit_base_patch32_clip_quickgelu_224.openai",
    ),
    "OpenAI CLIP ViT-B/16": (
        "sentence-transformers:clip-ViT-B-16",
        "sentence-transformers:openai/clip-vit-base-patch16",
        "timm:vit_base_patch16_clip_quickgelu_224.openai",
    ),
    "OpenAI CLIP ViT-L/14": (
        "sentence-transformers:clip-ViT-L-14",
        "sentence-transformers:openai/clip-vit-large-patch14",
        "timm:vit_large_patch14_clip_quickgelu_224.openai",
    ),
}
_OWNER = "sentence-transformers:sentence-transformers/"  # may be left out of a name


def named_space(spec: str) -> str | None:
    """The space that a backbone is known by its name to lead into."""
    name = spec.replace(_OWNER, "sentence-transformers:", 1) if spec.startswith(_OWNER) else spec
    return next((space for space, members in SPACES.items() if name in members), None)


def not_joint(spec: str, why: str) -> UsageError:
    """The error of a backbone that was asked for as half of a joint model."""
    return UsageError(
        f"joint = true: {spec} {why}",
        fix="take a model that reads images and texts for both towers, such as sentence-transformers:clip-ViT-B-32, "
        "or leave joint out",
    )


def strangers_by_name(left: str, right: str) -> str | None:
    """What is wrong with two backbones as halves of a joint model, as far as their names tell; None if nothing is."""
    if left == right == "vector":
        return None
    for spec in (left, right):
        if not spec.startswith("sentence-transformers:") and named_space(spec) is None:
            return (
                f"joint = true: {spec} is not known to share a space with a model of texts; sentence-transformers "
                "models that read images and texts do, such as sentence-transformers:clip-ViT-B-32"
            )
    spaces = named_space(left), named_space(right)
    both_texts = all(spec.startswith("sentence-transformers:") for spec in (left, right))
    if spaces[0] == spaces[1] or (both_texts and None in spaces):
        return None  # what is in the files decides
    told = [f"{spec} ({space or 'of no known space'})" for spec, space in zip((left, right), spaces, strict=True)]
    return f"joint = true: {told[0]} and {told[1]} are not halves of one joint model; give both towers the same model"


def require_one_space(left: Backbone, right: Backbone) -> None:
    """Checks that two backbones, each loaded as half of a joint model, are halves of the same one.

    Raises:
        SetClipError: they lead into different spaces.
    """
    names = named_space(left.spec), named_space(right.spec)
    known = names[0] is not None and names[0] == names[1] and left.spec != right.spec
    if (known or left.space == right.space) and left.dim == right.dim:
        return
    told = [
        f"{side.spec} ({', '.join([*([name] if name else []), f'{side.dim} values'])})"
        for side, name in zip((left, right), names, strict=True)
    ]
    same = " with other weights" if left.spec == right.spec else ""
    raise UsageError(
        f"joint = true: {told[0]} and {told[1]}{same} are not known to share a space, so their embeddings cannot be "
        "compared",
        fix="give both towers the same model and weights, or leave joint out to align them as strangers",
    )
