"""The bodies of requests and answers: what the OpenAPI description is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from setclip_cli.serving.pictures import FORMATS_TOLD

if TYPE_CHECKING:
    from collections.abc import Iterable

LETTERS = 20_000  # of a text
RESIDUES = 10_000  # of the sequences of one request
ITEMS = 32  # of one request
TOP = 100
VALUES = 65_536  # of a vector
VIDEOS = 4  # files of one request
FRAMES = 64  # pictures of the frames of one request

_Numbers = Annotated[list[FiniteFloat], Field(min_length=1, max_length=VALUES)]
_Id = Annotated[str, Field(min_length=1, max_length=LETTERS)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _exactly_one(names: Iterable[str]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"oneOf": [{"required": [name]} for name in names]})


_ITEM_KINDS = ("text", "sequence", "image", "vector", "video", "frames")
_QUERY_KINDS = (*_ITEM_KINDS, "embedding", "id")


class Item(_Body):
    """One item: a text, a sequence, a picture, a vector, or a video as a file or as frames. Exactly one is given."""

    model_config = _exactly_one(_ITEM_KINDS)

    text: Annotated[str | None, Field(min_length=1, max_length=LETTERS, description="Words.")] = None
    sequence: Annotated[
        str | None, Field(min_length=1, max_length=RESIDUES, description="Residues of a protein, a letter each.")
    ] = None
    image: Annotated[
        str | None,
        Field(min_length=1, description=f"The bytes of a picture file in base64: {FORMATS_TOLD}."),
    ] = None
    vector: Annotated[_Numbers | None, Field(description="What a tower of vectors reads.")] = None
    video: Annotated[
        str | None, Field(min_length=1, description="The bytes of a video file in base64. Frames of it are taken.")
    ] = None
    frames: Annotated[
        list[Annotated[str, Field(min_length=1)]] | None,
        Field(
            min_length=1,
            max_length=FRAMES,
            description="The frames of a video, in the order of time: pictures as `image` has them.",
        ),
    ] = None
    query_modality: Annotated[
        str | None,
        Field(alias="as", max_length=32, description="Its modality, if several towers read such items."),
    ] = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        names = self._kinds()
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(names)}; got {' and '.join(given) or 'none'}")
        return self

    def _kinds(self) -> tuple[str, ...]:
        return _ITEM_KINDS


class EmbedRequest(_Body):
    items: Annotated[list[Item], Field(min_length=1, max_length=ITEMS)]


class EmbeddedItem(_Body):
    modality: str
    embedding: Annotated[list[float], Field(description="Of length 1.")]
    notes: Annotated[list[str], Field(description="What was done to the item, such as cut.")]


class EmbedAnswer(_Body):
    model: Annotated[str, Field(description="Identity of the model; equal ones give equal embeddings.")]
    dim: int
    embeddings: list[EmbeddedItem]


class SearchRequest(Item):
    """A query: one of the kinds of items, an embedding that /embed gave, or the id of a row."""

    model_config = _exactly_one(_QUERY_KINDS)

    embedding: Annotated[_Numbers | None, Field(description="An embedding of this model.")] = None
    id: Annotated[_Id | None, Field(description="A row of the EMBEDDINGS; `as` says its modality.")] = None
    modality: Annotated[
        str | None,
        Field(alias="in", max_length=32, description="Search rows of this modality (default: another one)."),
    ] = None
    top: Annotated[int, Field(ge=1, le=TOP)] = 10

    def _kinds(self) -> tuple[str, ...]:
        return _QUERY_KINDS


class Shown(_Body):
    """What a person sees of a row. Characters that are not seen, or move text, are escaped."""

    id: str
    kind: Literal["protein", "image", "text", "vector", "video"] | None = None
    text: str | None = None
    name: str | None = None
    organism: str | None = None
    enzyme: str | None = None
    residues: str | None = None
    length: str | None = None
    size: str | None = None
    picture: Annotated[str | None, Field(description="Where its picture is; add /small or /large.")] = None


class Hit(_Body):
    rank: int
    id: Annotated[str, Field(description="As it is in the DATASET.")]
    score: Annotated[float, Field(description="Cosine with the query.")]
    probability: Annotated[
        float | None, Field(description="That it is right, if the query has a partner here; null if unknown.")
    ]
    label: str | None
    split: str
    shown: Shown


class SearchAnswer(_Body):
    query_modality: Annotated[str | None, Field(description="Null for an embedding without `as`.")]
    modality: str
    searched: Annotated[int, Field(description="How many rows were compared.")]
    hits: list[Hit]
    why_no_probability: Annotated[str, Field(description="Empty if hits have one, or need none.")]
    notes: Annotated[list[str], Field(description="What was done to the query, such as cut.")]


class MatchRequest(_Body):
    modality: Annotated[str, Field(max_length=32, description="Of the rows.")]
    ids: Annotated[list[_Id], Field(min_length=1, max_length=ITEMS, description="Rows whose partners are wanted.")]
    top: Annotated[int, Field(ge=1, le=20)] = 5


class Partner(_Body):
    rank: int
    id: str
    score: Annotated[float, Field(description="Cosine.")]
    probability: Annotated[float | None, Field(description="That it is the partner; null if unknown.")]
    in_set: Annotated[bool | None, Field(description="Whether it is in the set that holds the partner.")]
    known: Annotated[bool, Field(description="Whether it is a known pair of the DATASET.")]
    shown: Shown


class Matched(_Body):
    id: str
    no_partner: Annotated[float | None, Field(description="Probability that no row is its partner; null if unknown.")]
    set_size: Annotated[int | None, Field(description="Rows in the set that holds the partner.")]
    partners: list[Partner]


class MatchAnswer(_Body):
    modality: str
    partner_modality: str
    split: Annotated[str, Field(description="Whose rows are compared.")]
    coverage: Annotated[float, Field(description="Of the sets: how often they hold the partner.")]
    matches: list[Matched]
    why_no_probability: str
    why_no_partner_unknown: Annotated[str, Field(description="Why `no_partner` is unknown; empty if it is known.")]


class Tower(_Body):
    modality: str
    kind: Literal["protein", "image", "text", "vector", "video"]
    searched: Annotated[int, Field(description="Rows that can be searched.")]


class Health(_Body):
    status: Literal["ok"]
    version: str


class About(_Body):
    """What is served."""

    model: str
    method: str
    dim: int
    towers: list[Tower]
    split: str | None
    match: Annotated[Literal["not asked for", "preparing", "ready", "failed"], Field(description="State of /match.")]


class Problem(_Body):
    error: str
    fix: str
