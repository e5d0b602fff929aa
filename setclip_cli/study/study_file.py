"""STUDY.toml: a base recipe, its axes and variants, the seeds and the metrics of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator

from setclip_cli.evaluation.metric_names import metric_keys_between, nearest_metric, possible_metric
from setclip_cli.evaluation.options import RelevanceChoice
from setclip_cli.files.documents import read_settings

if TYPE_CHECKING:
    from pathlib import Path

SettingValue = str | int | float | bool


class Variant(BaseModel):
    """Settings that change the base recipe, under a name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1)]
    set: dict[str, SettingValue] = {}

    @field_validator("set", mode="before")
    @classmethod
    def _flatten(cls, value: Any) -> Any:
        return _dotted_keys(value) if isinstance(value, dict) else value


class Study(BaseModel):
    """STUDY.toml.

    Attributes:
        recipe: The base: a path relative to the study's file, or the name of a recipe that comes with the package.
        axes: Recipe key -> its values; every combination of values is run.
        variants: Named settings; each of them is combined with every combination of the axes.
        seeds: Number of seeds, from 0 up; every combination is run with each of them.
        relevance: What counts as a right answer for every run; ``auto`` takes what the data can answer.
        metrics: The metrics of the table; the first three are plotted.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1]
    title: str = "Study"
    recipe: str
    axes: dict[str, Annotated[list[SettingValue], Field(min_length=1)]] = {}
    variants: list[Variant] = []
    seeds: PositiveInt = 3
    split: str = "test"
    relevance: RelevanceChoice = "auto"
    metrics: Annotated[list[str], Field(min_length=1)]

    @field_validator("axes", mode="before")
    @classmethod
    def _flatten(cls, value: Any) -> Any:
        return _dotted_keys(value) if isinstance(value, dict) else value

    @field_validator("metrics")
    @classmethod
    def _are_metrics(cls, value: list[str]) -> list[str]:
        for key in value:
            if not possible_metric(key):
                raise ValueError(f"{key!r} is not a metric of a report{nearest_metric(key, metric_keys_between())}")
        return value

    @model_validator(mode="after")
    def _compares_something(self) -> Study:
        if not self.axes and not self.variants:
            raise ValueError("a study needs axes or variants")
        if "seed" in self.axes:
            raise ValueError("axes.seed: write seeds = COUNT instead")
        return self


def load_study(path: Path) -> Study:
    """Reads STUDY.toml.

    Raises:
        SetClipError: exit code 2; it is not valid TOML, or its keys are not those of a study.
    """
    return read_settings(path, Study, fix="compare it with one that comes with setclip: `setclip studies show pairs`")


def _dotted_keys(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one table with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _dotted_keys(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
