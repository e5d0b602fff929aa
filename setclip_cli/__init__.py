"""Align two modalities from unpaired data and few pairs, or none.

The Python face: what a notebook types. Every command of the command line calls one of these functions. Importing it
loads no torch; each name is imported from its room when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from setclip_cli.version import __version__

if TYPE_CHECKING:
    from setclip_cli import losses
    from setclip_cli.arrays.aligned import Aligned
    from setclip_cli.arrays.estimator import Aligner
    from setclip_cli.arrays.fit import fit
    from setclip_cli.dataset.dataset import Dataset, open_dataset
    from setclip_cli.embedding.options import EmbedOptions
    from setclip_cli.errors import SetClipError
    from setclip_cli.evaluation.evaluate import evaluate
    from setclip_cli.evaluation.options import EvaluateOptions
    from setclip_cli.export.export import export_run
    from setclip_cli.export.options import ExportOptions
    from setclip_cli.hub.options import PushOptions
    from setclip_cli.hub.pull import pull
    from setclip_cli.hub.push import push
    from setclip_cli.ingest.options import IngestOptions
    from setclip_cli.inspection.check_pairs import check_pairs
    from setclip_cli.inspection.check_pairs_options import CheckPairsOptions
    from setclip_cli.inspection.inspect import inspect
    from setclip_cli.inspection.options import InspectOptions
    from setclip_cli.labelling.suggest import suggest
    from setclip_cli.labelling.suggest_options import SuggestOptions
    from setclip_cli.matching.match import match
    from setclip_cli.matching.options import MatchOptions
    from setclip_cli.recipe.recipe import Recipe, load_recipe
    from setclip_cli.run.model import Model, load_model
    from setclip_cli.serving.options import ServeOptions
    from setclip_cli.serving.serve import serve
    from setclip_cli.training.align import align
    from setclip_cli.viewing.options import ViewOptions
    from setclip_cli.viewing.view import view

__all__ = [
    "Aligned",
    "Aligner",
    "CheckPairsOptions",
    "Dataset",
    "EmbedOptions",
    "EvaluateOptions",
    "ExportOptions",
    "IngestOptions",
    "InspectOptions",
    "MatchOptions",
    "Model",
    "PushOptions",
    "Recipe",
    "ServeOptions",
    "SetClipError",
    "SuggestOptions",
    "ViewOptions",
    "__version__",
    "align",
    "check_pairs",
    "evaluate",
    "export_run",
    "fit",
    "inspect",
    "load_model",
    "load_recipe",
    "losses",
    "match",
    "open_dataset",
    "pull",
    "push",
    "serve",
    "suggest",
    "view",
]

_HOMES = {
    "Aligned": "arrays.aligned",
    "Aligner": "arrays.estimator",
    "CheckPairsOptions": "inspection.check_pairs_options",
    "Dataset": "dataset.dataset",
    "EmbedOptions": "embedding.options",
    "EvaluateOptions": "evaluation.options",
    "ExportOptions": "export.options",
    "IngestOptions": "ingest.options",
    "InspectOptions": "inspection.options",
    "MatchOptions": "matching.options",
    "Model": "run.model",
    "PushOptions": "hub.options",
    "Recipe": "recipe.recipe",
    "ServeOptions": "serving.options",
    "SetClipError": "errors",
    "SuggestOptions": "labelling.suggest_options",
    "ViewOptions": "viewing.options",
    "align": "training.align",
    "check_pairs": "inspection.check_pairs",
    "evaluate": "evaluation.evaluate",
    "export_run": "export.export",
    "fit": "arrays.fit",
    "inspect": "inspection.inspect",
    "load_model": "run.model",
    "load_recipe": "recipe.recipe",
    "match": "matching.match",
    "open_dataset": "dataset.dataset",
    "pull": "hub.pull",
    "push": "hub.push",
    "serve": "serving.serve",
    "suggest": "labelling.suggest",
    "view": "viewing.view",
}


def __getattr__(name: str) -> Any:
    if name == "losses":
        return import_module("setclip_cli.losses")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"setclip_cli.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
