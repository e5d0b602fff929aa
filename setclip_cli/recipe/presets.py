"""The methods, and the settings that each of them brings under a recipe's own."""

from __future__ import annotations

from typing import Any, Literal, get_args

Method = Literal[
    "auto",
    "set-clip-plus",
    "set-clip",
    "set-clip-published",
    "clip",
    "s-clip",
    "transport",
    "asif",
    "asif-graph",
    "cca",
    "procrustes",
    "ridge",
]
DEFAULT_METHOD: Method = "auto"
GOAL_METHODS: dict[str, Method] = {"partner": "transport", "kind": "set-clip-plus"}  # that auto takes
TRAINED_METHODS: tuple[Method, ...] = ("set-clip-plus", "set-clip", "set-clip-published", "clip", "s-clip")
TRAINING_FREE_METHODS: tuple[Method, ...] = ("transport", "asif", "asif-graph", "cca", "procrustes", "ridge")
# Known pairs of different items that a method needs; 0 for those that are not named. With one pair alone a method that
# learns from pairs has nothing to tell that pair from.
PAIRS_NEEDED: dict[str, int] = dict.fromkeys(("clip", "s-clip", *TRAINING_FREE_METHODS), 2)
# That can start from towers which are aligned already.
STARTING_METHODS: tuple[Method, ...] = (*TRAINED_METHODS, "transport", "auto")
assert set(TRAINED_METHODS) | set(TRAINING_FREE_METHODS) | {"auto"} == set(get_args(Method))

# Settings of the terms. The reasons are measured: benchmarks/results.md.
PRESETS: dict[Method, dict[str, dict[str, Any]]] = {
    "set-clip-plus": {
        # Few pairs push items of one kind apart: the full weight costs 2 points of mAP at 70 pairs. At 600 it pays.
        "clip": {"weight": 1.0, "full_weight_at_pairs": 700},
        "sdd": {"weight": 0.3},  # results are alike from 0.1 to 3 together with a structure term
        "neighbourhood": {"weight": 0.3},  # the structure term: without one, equal densities are worth nothing
        "teacher": {"weight": 1.0, "end_step": 100},  # in all steps it costs mAP at 7 pairs and adds little at 70
    },
    # The paper's four terms (arXiv 2406.05766) with the stable density term.
    "set-clip": {
        "clip": {"weight": 1.0},
        "sdd": {"weight": 0.3},
        "mk_mmd": {"weight": 1.0},
        "self_supervised": {"weight": 0.3},
    },
    # The released weights and forms (repository cauchy-max/Set-CLIP, commit cc575d7): an oracle, not a recommendation.
    "set-clip-published": {
        "clip": {"weight": 1.0, "form": "published"},
        "sdd": {"weight": 0.7, "form": "published"},
        "mk_mmd": {"weight": 0.2, "form": "published"},
        "self_supervised": {"weight": 0.15, "form": "published"},
    },
    "clip": {"clip": {"weight": 1.0}},
    "s-clip": {"clip": {"weight": 1.0}, "s_clip": {"weight": 1.0}},
}
# Keys of a term that belong to the method, also if the user set them: another method brings its own.
METHOD_KEYS = {"weight", "full_weight_at_pairs", "form", "start_step", "end_step", "warmup_steps"}

# Settings of other tables.
SECTION_PRESETS: dict[Method, dict[str, dict[str, Any]]] = {
    "set-clip-plus": {
        # linear: CCA is as good as the heads from some hundred pairs on; diffused: 3 to 5 points of mAP up to 70 pairs;
        # shifted: 1 to 4 of mAP with any number
        "extra_encoders": {"linear": 0.3, "diffused": 0.7, "shifted": 0.5},
        "train": {"balance": True},  # 2 points of mAP if the sides differ in their counts of classes, else none
    },
    "transport": {"projection": {"pca": 384}},  # 64 axes tell kinds apart best, single items need more
    "set-clip-published": {"train": {"batch": 42, "pairs_per_batch": 22}},  # as released: 64 rows, 22 of them pairs
}
# A part that a user switches off under auto, such as extra_encoders.shifted = 0, is off in the candidate that has it.
SECTION_PRESETS["auto"] = SECTION_PRESETS["set-clip-plus"]


# What is laid over a method's preset where the towers start aligned, measured from a start on Flickr8k to RSICD: with
# the settings of strangers and no pairs, recall ends below that of the start; with 20 known items their rate pays.
JOINT_TERMS: dict[Method, dict[str, dict[str, Any]]] = {"set-clip-plus": {"neighbourhood": {"weight": 1.0}}}
JOINT_RATE_WITHOUT_PAIRS = {"optim": {"lr": 3e-4}}
# Without pairs a weak start matches better on fewer axes: 4.5 and 20.6 (recall, mAP) in place of 3.6 and 19.1 with 384.
JOINT_AXES_WITHOUT_PAIRS = {"projection": {"pca": 128}}


def pairs_needed(method: str, *, joint: bool) -> int:
    """Known pairs of different items that a method needs, with towers that are aligned already or with strangers."""
    return 0 if joint and method == "transport" else PAIRS_NEEDED.get(method, 0)


def with_preset(document: dict[str, Any]) -> dict[str, Any]:
    """A recipe's document with its method's preset under the user's own keys. It may still hold mistakes.

    A user who sets the weight of a term takes over its schedule too: the preset adds nothing to that term.
    """
    method: Any = document.get("method", DEFAULT_METHOD)
    if method not in get_args(Method):
        return document
    joint = _any_tower(document, "joint", False)
    preset = PRESETS.get(method, {}) | (JOINT_TERMS.get(method, {}) if joint else {})
    objective = document.get("objective", {})
    if isinstance(objective, dict):
        terms = {
            name: values | objective.get(name, {})
            for name, values in preset.items()
            if isinstance(objective.get(name, {}), dict) and "weight" not in objective.get(name, {})
        }
        document = document | {"objective": objective | terms}
    careful: dict[str, dict[str, Any]] = {}
    if joint and document.get("pairs") == 0:
        careful = JOINT_AXES_WITHOUT_PAIRS if method == "transport" else JOINT_RATE_WITHOUT_PAIRS
    for name, values in (SECTION_PRESETS.get(method, {}) | careful).items():
        if name == "extra_encoders" and not _has_extra_encoders(document):
            continue
        if isinstance(document.get(name, {}), dict):
            document = document | {name: values | document.get(name, {})}
    return document


def _has_extra_encoders(document: dict[str, Any]) -> bool:
    """Whether a preset may add extra encoders: aligned towers need none, nested heads would not be nested beside them,
    and version 1 knew them for frozen ones."""
    projection = document.get("projection")
    if isinstance(projection, dict) and projection.get("nested"):
        return False
    return not _any_tower(document, "joint", False) and not (document.get("schema_version") == 1 and _tunes(document))


def _tunes(document: dict[str, Any]) -> bool:
    """Whether the document trains a backbone."""
    return _any_tower(document, "trainable", "frozen")


def _any_tower(document: dict[str, Any], key: str, default: Any) -> bool:
    """Whether a tower of the document has another value than the default."""
    towers = document.get("towers")
    tables = towers.values() if isinstance(towers, dict) else ()
    return any(isinstance(tower, dict) and tower.get(key, default) != default for tower in tables)
