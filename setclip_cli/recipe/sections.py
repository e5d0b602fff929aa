"""The tables of a recipe: every key with its type, its default and what it does."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt

from setclip_cli import defaults
from setclip_cli.dataset.modality import Modality, in_order
from setclip_cli.recipe.presets import DEFAULT_METHOD, Method

NonNegativeInt = Annotated[int, Field(ge=0)]
PathText = Annotated[str, BeforeValidator(lambda given: str(given) if isinstance(given, PurePath) else given)]


class Section(BaseModel):
    """A table of the recipe: unknown keys and wrong types are errors, and values cannot be changed.

    Raises:
        pydantic.ValidationError: made in Python with an unknown key or a wrong value.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


def text(form: str, pattern: str, **options: Any) -> Any:
    """A field of text that has to match a pattern; ``form`` says in words what it may be."""
    return Field(pattern=pattern, json_schema_extra={"form": form}, **options)


class Tower(Section):
    """One modality's backbone and how it is used."""

    backbone: str = text(
        "esm:NAME, timm:NAME, sentence-transformers:NAME or vector", r"^((esm|timm|sentence-transformers):.+|vector)$"
    )
    """The pretrained model: esm reads proteins, timm images and videos, sentence-transformers texts; some of the last,
    such as clip-ViT-B-32, read images too. vector takes the vectors of the DATASET as they are, without a model."""
    weights: PathText = "auto"
    """Where its weights come from: auto, a path, package:NAME or hub. auto tries all of them."""
    pooling: str = "default"
    """How token features become one vector: default (the backbone's own way); mean or cls for esm and
    sentence-transformers, avg or cls for timm; attention for a tuned tower. For videos, how the features of the frames
    become one vector: mean (the default) or attention, also for a frozen tower."""
    layer: int | Literal["best"] = -1
    """Which block the features are taken from: -1 is the last, 1 the first; best is measured on the known pairs."""
    joint: bool = False
    """Both towers are aligned already: halves of one joint model such as clip-ViT-B-32, or with init_from those of
    that RUN. Training starts from its embeddings and moves away from them. Set it for both towers."""
    trainable: str = text("frozen, last-N, lora or full", r"^(frozen|full|lora|last-[1-9]\d*)$", default="frozen")
    """Which weights of the backbone are trained: none (frozen), the last N blocks, low-rank adapters or all."""
    lora_rank: PositiveInt = 8
    """Rank of the adapters of trainable = lora."""
    in_chans: PositiveInt | Literal["auto"] | None = None
    """For images of bands, as `setclip ingest --bands all` keeps them: how many bands the backbone reads, or auto for
    as many as the rows have. The first layer of a timm: backbone is adapted. Left out: pictures of three colours."""
    band_scale: PositiveFloat | None = None
    """With in_chans: the numbers of the bands are divided by this, as for weights that were trained on reflectance
    / 10000. Left out: each band has mean 0 and deviation 1 over the training rows."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: this takes less memory and more time."""

    @property
    def frozen(self) -> bool:
        return self.trainable == "frozen"


class Projection(Section):
    """The head that maps the features of a backbone to embeddings."""

    kind: Literal["mlp", "linear"] = "mlp"
    """Shape of the head."""
    dim: PositiveInt = 256
    """Width of the head's embeddings; with joint towers, of its inner layer. Extra encoders and an ensemble add to the
    width."""
    pca: NonNegativeInt = 64
    """How many principal axes of the features are kept; 0 keeps all. If it is left out, method transport has 384, and
    128 with joint towers and pairs = 0."""
    nested: Annotated[list[PositiveInt], Field(min_length=1)] | None = None
    """Widths, such as [64, 128, 256], at which the first values of an embedding are trained to be an embedding too; the
    last is dim. `embed --width` cuts to one of them. A recipe with it has no extra encoders."""


class Term(Section):
    """What every term of the objective has."""

    weight: NonNegativeFloat = 0.0
    """Factor of the term in the loss; 0 leaves the term out."""
    start_step: NonNegativeInt = 0
    """First step with the term."""
    end_step: PositiveInt | None = None
    """First step without the term. It stays if left out."""
    warmup_steps: NonNegativeInt = 0
    """Steps in which the weight rises from 0, linearly."""


class TermWithForms(Term):
    """A term that also has the form that the authors published."""

    fixed_when_published: ClassVar[tuple[str, ...]] = ()  # keys that the published form does not read

    form: Literal["stable", "published"] = "stable"
    """stable, or as the authors published it: that form has fixed settings of its own."""


class Clip(TermWithForms):
    """Known pairs meet (contrastive loss)."""

    fixed_when_published = ("temperature", "learnable_temperature")

    full_weight_at_pairs: NonNegativeInt = 0
    """Number of single pairs from which the full weight applies. Fewer pairs give it less, in proportion, but at least
    0.3 of it."""
    temperature: PositiveFloat = defaults.CLIP_TEMPERATURE
    """Divides the cosines: smaller is sharper."""
    learnable_temperature: bool = False
    """Train the temperature too."""


class Sdd(TermWithForms):
    """Both sides are dense in the same places (semantic density distribution)."""

    fixed_when_published = ("bandwidth", "leave_one_out", "queue")

    bandwidth: PositiveFloat | Annotated[list[PositiveFloat], Field(min_length=1)] = defaults.SDD_BANDWIDTH
    """s of the kernel exp(-‖x-y‖²/s) between unit vectors; with a list, the mean over it. Results are alike from
    0.05 to 0.4; smaller ones collapse."""
    leave_one_out: bool = False
    """A point does not count in its own density: no bias with small batches, but no gain in accuracy."""
    queue: NonNegativeInt = 0
    """How many earlier rows, without gradient, a batch is compared with as well."""


class MkMmd(TermWithForms):
    """Both sides have the same distribution (maximum mean discrepancy)."""

    fixed_when_published = ("bandwidths", "unbiased")

    bandwidths: list[PositiveFloat] = []
    """s of the kernels that are summed; an empty list takes five around the median distance."""
    unbiased: bool = False
    """Leave out the kernel of a point with itself."""


class SelfSupervised(TermWithForms):
    """Two views of an item meet, in each modality."""

    fixed_when_published = ("temperature",)

    temperature: PositiveFloat = defaults.SELF_SUPERVISED_TEMPERATURE
    """Divides the cosines: smaller is sharper."""
    noise: PositiveFloat = 1.5
    """Length of the noise that makes the second view of a frozen tower, where features have a mean length of 1."""
    views: NonNegativeInt = 0
    """How many augmented views of each image are cached and used in place of the noise."""


class Neighbourhood(Term):
    """Neighbours in the features stay neighbours in the embeddings."""

    feature_temperature: PositiveFloat = defaults.NEIGHBOURHOOD_TEMPERATURE
    """Divides the cosines of the features: smaller sees fewer."""
    temperature: PositiveFloat = defaults.NEIGHBOURHOOD_TEMPERATURE
    """Divides the cosines of the embeddings."""


class Teacher(Term):
    """Rows of both sides that random walks from the same pairs reach meet."""

    neighbours: Literal["auto"] | PositiveInt = "auto"
    """Neighbours of each row in the graph; auto is a sixtieth of the rows, from 15 to 120."""
    sharpness: PositiveFloat = defaults.TEACHER_SHARPNESS
    """Entropic regularisation of the matching: smaller is sharper."""


class SClip(Term):
    """Captions of the pairs stand in for those that unpaired images lack (S-CLIP)."""

    temperature: PositiveFloat = defaults.CLIP_TEMPERATURE
    """Divides the cosines: smaller is sharper."""
    regularisation: PositiveFloat = defaults.S_CLIP_REGULARISATION
    """Entropic regularisation of the transport plan."""


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

    linear: NonNegativeFloat = 0.0
    """Weight of a map fitted to the pairs (regularised CCA); the heads have weight 1. Below 70 pairs it has less."""
    diffused: NonNegativeFloat = 0.0
    """Share of heads and CCA averaged along the neighbour graph, where they have 1. Above 70 pairs it has less."""
    shifted: NonNegativeFloat = 0.0
    """How far an embedding is moved to where embeddings of both sides are dense (mean shift)."""
    partner: NonNegativeFloat = 0.0
    """Weight of the maps of method transport, fitted to the features after training; all before them have weight 1.
    They find the one partner of an item. They need two known pairs."""


class Train(Section):
    """The training loop."""

    split: str = "train"
    """The split of the DATASET that is trained on."""
    steps: PositiveInt = 300
    """How many steps."""
    batch: Annotated[int, Field(ge=2)] = 64
    """Unpaired rows of each modality in a step. 64 did as well as 256 and is four times cheaper."""
    landmarks: Annotated[int, Field(ge=1000)] = 100_000
    """Of a pool with more than twice as many rows: how many stand for it in graphs, fits in closed form and
    probabilities. The steps draw from all rows."""
    balance: bool = False
    """Draw unpaired rows so that those near each known pair come up as often on either side."""
    pairs_per_batch: PositiveInt = 256
    """Known pairs in a step; all of them if there are fewer."""
    chunk: PositiveInt = 64
    """Rows whose activations a tuned backbone holds at a time. The batch may be larger."""
    checkpoint_every: PositiveInt = 500
    """Steps between two checkpoints."""
    keep_checkpoints: PositiveInt = 2
    """How many of the newest checkpoints are kept."""
    device: str = text("auto, cpu, cuda, cuda:1 or mps", r"^(auto|cpu|cuda(:\d+)?|mps)$", default="auto")
    """Where to train; auto takes a CUDA GPU if there is one."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the towers; auto is bfloat16 on a GPU that has it. Losses are always float32."""
    tf32: bool = False
    """Let float32 products of the towers use TensorFloat-32 on CUDA. Losses never do."""
    kernels: Literal["auto", "triton", "torch"] = "auto"
    """What computes the kernel sums of sdd and mk_mmd: triton is for CUDA GPUs; auto takes it if it agrees with plain
    torch on the first batch, and says so."""
    compile: bool = False
    """Compile tuned towers: the first steps take minutes; whether the others are faster depends on the machine."""
    loggers: list[Literal["tensorboard", "wandb", "mlflow"]] = ["tensorboard"]
    """Where metrics go besides metrics.jsonl. Weights are never sent."""
    map_every: NonNegativeInt = 100
    """Steps between two maps and histograms in TensorBoard; 0 makes none."""


class Optim(Section):
    """The optimizer (AdamW)."""

    lr: PositiveFloat = 1e-3
    """Learning rate of the projections. Joint towers have 0.0003 with pairs = 0."""
    weight_decay: NonNegativeFloat = 0.01
    """Weight decay of the projections."""
    backbone_lr: PositiveFloat = 2e-5
    """Learning rate of tuned backbones."""
    backbone_weight_decay: NonNegativeFloat = 0.01
    """Weight decay of tuned backbones."""
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    """How learning rates fall after the warm-up; cosine and linear reach 0 at the last step."""
    warmup_steps: NonNegativeInt = 0
    """Steps in which learning rates rise from 0."""
    clip_norm: PositiveFloat | None = None
    """Largest norm of the whole gradient. It is not clipped if left out."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the averaged weights that the RUN keeps; 0 keeps the last weights."""


class Validation(Section):
    """Early stopping on a held-out split: by the recall of its pairs, or by the density gap if it has none."""

    split: str = "val"
    """The held-out split."""
    every: NonNegativeInt = 0
    """Steps between two validations; 0 trains all steps, keeps the last."""
    patience: PositiveInt = 5
    """Validations without a better one before training stops."""


class Settings(Section):
    """The whole table of a recipe; `Recipe` adds the preset of the method and the checks."""

    schema_version: Literal[1, 2] = 2
    """Version of the recipe's form. A file has to state it. A recipe of version 1 keeps its meaning: pairs counts
    rows, and a tuned tower has no extra encoders unless the recipe asks for them."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        default=0,
        json_schema_extra={"form": "a whole number from 0 to below 2^63"},
    )
    """Random seed of the whole experiment."""
    pairs: Literal["all"] | Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)] = Field(
        default="all", json_schema_extra={"form": "'all', a count or a fraction between 0 and 1"}
    )
    """How many of the known pairs are used: all, a count or a fraction. More pairs only add to fewer. pairs_unit says
    what is counted."""
    pairs_unit: Literal["auto", "group", "row"] = "auto"
    """What pairs counts: group counts items, each with all its pairs, such as an image with all its captions; row
    counts single pairs. auto is group if captions have groups or an item of the left side is in several pairs, else
    row. A recipe of version 1 counts rows."""
    drop_suspect: Literal["auto"] | None = None
    """auto leaves out the known pairs that are likely wrong, and lists them in the RUN. By default all are used."""
    method: Method = DEFAULT_METHOD
    """How to align. It brings the weights of its terms; auto takes the one that is best for the goal. A recipe of
    version 1 takes set-clip-plus if it names none."""
    goal: Literal["auto", "partner", "kind"] = "auto"
    """What method auto aligns for: partner is the one item that belongs to another, kind is all items of its kind. auto
    is kind if both sides have labels and no known item has several partners, else partner."""
    unmatched: Literal["auto", "keep"] = "auto"
    """What method transport does with rows that seem to have no partner on the other side: auto leaves a row out with
    the probability that it has none, if it is certain that there are such rows; keep learns from all rows."""
    init_from: PathText | None = None
    """A RUN of the same towers: start a new training from its weights; with joint towers, from its embeddings."""
    ensemble: PositiveInt = 1
    """How many heads are trained, from as many seeds. Their embeddings are concatenated."""
    ensemble_distil: bool = False
    """Train one head to have the ensemble's cosines: embedding then costs as much as one."""
    towers: dict[Modality, Tower]
    """The two modalities to align, by the names that they have in the DATASET; the first is the left side."""
    projection: Projection = Projection()
    objective: Objective = Objective()
    extra_encoders: ExtraEncoders = ExtraEncoders()
    train: Train = Train()
    optim: Optim = Optim()
    validation: Validation = Validation()

    @property
    def joint(self) -> bool:
        """Whether the towers start from embeddings that are aligned already."""
        return any(tower.joint for tower in self.towers.values())

    @property
    def strangers(self) -> bool:
        """Whether training starts from random heads, so that nothing is known about how the towers belong together."""
        return not self.joint and self.init_from is None

    def modalities(self) -> tuple[Modality, Modality]:
        """(left, right): the two towers as the recipe names them; in version 1 always protein, image, caption."""
        left, right = self.towers if self.schema_version > 1 else in_order(self.towers)
        return left, right
