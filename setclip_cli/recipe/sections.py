"""The tables of a recipe: every key with its type, its default and what it does."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt

from setclip_cli import defaults

NonNegativeInt = Annotated[int, Field(ge=0)]
PathText = Annotated[str, BeforeValidator(lambda given: str(given) if isinstance(given, PurePath) else given)]


class Section(BaseModel):
    """A table of the recipe: unknown keys and wrong types are errors, and values cannot be changed.

    Raises:
        pydantic.ValidationError: made in Python with an unknown key or a wrong value.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def text(form: str, pattern: str, **options: Any) -> Any:
    """A field of text that has to match a pattern; ``form`` says in words what it may be."""
    return Field(pattern=pattern, json_schema_extra={"form": form}, **options)


class Tower(Section):
    """One modality's backbone and how it is used."""

    backbone: str = text(
        "esm:NAME, timm:NAME or sentence-transformers:NAME",
        r"^(esm|timm|sentence-transformers):.+",
        description="The pretrained model: esm reads proteins, timm images, sentence-transformers captions.",
    )
    weights: PathText = Field(
        default="auto",
        description="Where its weights come from: auto, a path, package:NAME or hub. auto tries all of them.",
    )
    pooling: str = Field(
        default="default",
        description="How token features become one vector: default (the backbone's own way); mean or cls for esm and "
        "sentence-transformers, avg or cls for timm; attention for a tuned tower.",
    )
    layer: int | Literal["best"] = Field(
        default=-1,
        description="Which block the features are taken from: -1 is the last, 1 the first; best is measured on the "
        "known pairs.",
    )
    trainable: str = text(
        "frozen, last-N, lora or full",
        r"^(frozen|full|lora|last-[1-9]\d*)$",
        default="frozen",
        description="Which weights of the backbone are trained: none (frozen), the last N blocks, low-rank adapters or "
        "all.",
    )
    lora_rank: PositiveInt = Field(default=8, description="Rank of the adapters of trainable = lora.")
    gradient_checkpointing: bool = Field(
        default=False,
        description="Compute activations again in the backward pass: this takes less memory and more time.",
    )

    @property
    def frozen(self) -> bool:
        return self.trainable == "frozen"


class Projection(Section):
    """The head that maps the features of a backbone to embeddings."""

    kind: Literal["mlp", "linear"] = Field(default="mlp", description="Shape of the head.")
    dim: PositiveInt = Field(
        default=256, description="Width of the head's embeddings. Extra encoders and an ensemble add to the width."
    )
    pca: NonNegativeInt = Field(
        default=64, description="How many principal axes of the features are kept; 0 keeps all."
    )


class Term(Section):
    """What every term of the objective has."""

    fixed_when_published: ClassVar[tuple[str, ...]] = ()  # keys that the published form does not read

    weight: NonNegativeFloat = Field(default=0.0, description="Factor of the term in the loss; 0 leaves the term out.")
    start_step: NonNegativeInt = Field(default=0, description="First step with the term.")
    end_step: PositiveInt | None = Field(default=None, description="First step without the term. It stays if left out.")
    warmup_steps: NonNegativeInt = Field(default=0, description="Steps in which the weight rises from 0, linearly.")


Form = Literal["stable", "published"]
FORM = "stable, or as the authors published it: that form has fixed settings of its own."


class Clip(Term):
    """Known pairs meet (contrastive loss)."""

    fixed_when_published = ("temperature", "learnable_temperature")

    form: Form = Field(default="stable", description=FORM)
    full_weight_at_pairs: NonNegativeInt = Field(
        default=0,
        description="Number of pairs from which the full weight applies. Fewer pairs give it less, in proportion, but "
        "at least 0.3 of it.",
    )
    temperature: PositiveFloat = Field(
        default=defaults.CLIP_TEMPERATURE, description="Divides the cosines: smaller is sharper."
    )
    learnable_temperature: bool = Field(default=False, description="Train the temperature too.")


class Sdd(Term):
    """Both sides are dense in the same places (semantic density distribution)."""

    fixed_when_published = ("bandwidth", "leave_one_out", "queue")

    form: Form = Field(default="stable", description=FORM)
    bandwidth: PositiveFloat | Annotated[list[PositiveFloat], Field(min_length=1)] = Field(
        default=defaults.SDD_BANDWIDTH,
        description="s of the kernel exp(-‖x-y‖²/s) between unit vectors; with a list, the mean over it. Results are "
        "alike from 0.05 to 0.4; smaller ones collapse.",
    )
    leave_one_out: bool = Field(
        default=False,
        description="A point does not count in its own density: no bias with small batches, but no gain in accuracy.",
    )
    queue: NonNegativeInt = Field(
        default=0, description="How many earlier rows, without gradient, a batch is compared with as well."
    )


class MkMmd(Term):
    """Both sides have the same distribution (maximum mean discrepancy)."""

    fixed_when_published = ("bandwidths", "unbiased")

    form: Form = Field(default="stable", description=FORM)
    bandwidths: list[PositiveFloat] = Field(
        default=[], description="s of the kernels that are summed; an empty list takes five around the median distance."
    )
    unbiased: bool = Field(default=False, description="Leave out the kernel of a point with itself.")


class SelfSupervised(Term):
    """Two views of an item meet, in each modality."""

    fixed_when_published = ("temperature",)

    form: Form = Field(default="stable", description=FORM)
    temperature: PositiveFloat = Field(
        default=defaults.SELF_SUPERVISED_TEMPERATURE, description="Divides the cosines: smaller is sharper."
    )
    noise: PositiveFloat = Field(
        default=1.5,
        description="Length of the noise that makes the second view of a frozen tower, where features have a mean "
        "length of 1.",
    )
    views: NonNegativeInt = Field(
        default=0, description="How many augmented views of each image are cached and used in place of the noise."
    )


class Neighbourhood(Term):
    """Neighbours in the features stay neighbours in the embeddings."""

    feature_temperature: PositiveFloat = Field(
        default=defaults.NEIGHBOURHOOD_TEMPERATURE,
        description="Divides the cosines of the features: smaller sees fewer.",
    )
    temperature: PositiveFloat = Field(
        default=defaults.NEIGHBOURHOOD_TEMPERATURE, description="Divides the cosines of the embeddings."
    )


class Teacher(Term):
    """Rows of both sides that random walks from the same pairs reach meet."""

    neighbours: Literal["auto"] | PositiveInt = Field(
        default="auto",
        description="Neighbours of each row in the graph; auto is a sixtieth of the rows, from 15 to 120.",
    )
    sharpness: PositiveFloat = Field(
        default=defaults.TEACHER_SHARPNESS, description="Entropic regularisation of the matching: smaller is sharper."
    )


class SClip(Term):
    """Captions of the pairs stand in for those that unpaired images lack (S-CLIP)."""

    temperature: PositiveFloat = Field(
        default=defaults.CLIP_TEMPERATURE, description="Divides the cosines: smaller is sharper."
    )
    regularisation: PositiveFloat = Field(
        default=defaults.S_CLIP_REGULARISATION, description="Entropic regularisation of the transport plan."
    )


class Objective(Section):
    """The terms of the loss. A weight that is left out is that of the method, else 0."""

    clip: Clip = Clip()
    sdd: Sdd = Sdd()
    mk_mmd: MkMmd = MkMmd()
    self_supervised: SelfSupervised = SelfSupervised()
    neighbourhood: Neighbourhood = Neighbourhood()
    teacher: Teacher = Teacher()
    s_clip: SClip = SClip()

    def active(self) -> dict[str, Term]:
        """The terms that count in some step, by name."""
        return {name: term for name in type(self).model_fields if (term := getattr(self, name)).weight > 0}


class ExtraEncoders(Section):
    """Extra encoders that are combined with the trained heads, each with its share of the cosine."""

    linear: NonNegativeFloat = Field(
        default=0.0,
        description="Share of regularised CCA on the pairs, where the heads have 1. Below 70 pairs it has less.",
    )
    diffused: NonNegativeFloat = Field(
        default=0.0,
        description="Share of heads and CCA averaged along the neighbour graph, where they have 1. Above 70 pairs it "
        "has less.",
    )
    shifted: NonNegativeFloat = Field(
        default=0.0,
        description="How far an embedding is moved to where embeddings of both sides are dense (mean shift).",
    )


class Train(Section):
    """The training loop."""

    split: str = Field(default="train", description="The split of the DATASET that is trained on.")
    steps: PositiveInt = Field(default=300, description="How many steps.")
    batch: Annotated[int, Field(ge=2)] = Field(
        default=64,
        description="Unpaired rows of each modality in a step. 64 did as well as 256 and is four times cheaper.",
    )
    balance: bool = Field(
        default=False,
        description="Draw unpaired rows so that those near each known pair come up as often on either side.",
    )
    pairs_per_batch: PositiveInt = Field(
        default=256, description="Known pairs in a step; all of them if there are fewer."
    )
    chunk: PositiveInt = Field(
        default=64, description="Rows whose activations a tuned backbone holds at a time. The batch may be larger."
    )
    checkpoint_every: PositiveInt = Field(default=500, description="Steps between two checkpoints.")
    keep_checkpoints: PositiveInt = Field(default=2, description="How many of the newest checkpoints are kept.")
    device: str = text(
        "auto, cpu, cuda, cuda:1 or mps",
        r"^(auto|cpu|cuda(:\d+)?|mps)$",
        default="auto",
        description="Where to train; auto takes a CUDA GPU if there is one.",
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="Precision of the towers; auto is bfloat16 on a GPU that has it. Losses are always float32.",
    )
    tf32: bool = Field(
        default=False, description="Let float32 products of the towers use TensorFloat-32 on CUDA. Losses never do."
    )
    compile: bool = Field(
        default=False, description="Compile tuned towers: the first steps take minutes, the others are faster."
    )
    loggers: list[Literal["tensorboard", "wandb", "mlflow"]] = Field(
        default=["tensorboard"], description="Where metrics go besides metrics.jsonl. Weights are never sent."
    )
    map_every: NonNegativeInt = Field(
        default=100, description="Steps between two maps and histograms in TensorBoard; 0 makes none."
    )


class Optim(Section):
    """The optimizer (AdamW)."""

    lr: PositiveFloat = Field(default=1e-3, description="Learning rate of the projections.")
    weight_decay: NonNegativeFloat = Field(default=0.01, description="Weight decay of the projections.")
    backbone_lr: PositiveFloat = Field(default=2e-5, description="Learning rate of tuned backbones.")
    backbone_weight_decay: NonNegativeFloat = Field(default=0.01, description="Weight decay of tuned backbones.")
    schedule: Literal["constant", "cosine", "linear"] = Field(
        default="cosine",
        description="How learning rates fall after the warm-up; cosine and linear reach 0 at the last step.",
    )
    warmup_steps: NonNegativeInt = Field(default=0, description="Steps in which learning rates rise from 0.")
    clip_norm: PositiveFloat | None = Field(
        default=None, description="Largest norm of the whole gradient. It is not clipped if left out."
    )
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="Decay of the averaged weights that the RUN keeps; 0 keeps the last weights."
    )


class Validation(Section):
    """Early stopping on a held-out split: by the recall of its pairs, or by the density gap if it has none."""

    split: str = Field(default="val", description="The held-out split.")
    every: NonNegativeInt = Field(
        default=0, description="Steps between two validations; 0 trains all steps, keeps the last."
    )
    patience: PositiveInt = Field(default=5, description="Validations without a better one before training stops.")
