"""The labels and captions of the quickstart: two tables, and the functions that apply them.

A label and a caption follow from the facts of a place (`maps.Place`), never from its picture. A caption states two to
four facts in one of several wordings. So one caption can fit places of several labels, as captions by people do. No
caption contains a label.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from setclip_cli.quickstart.maps import Place

# Label -> fact -> (lowest, highest). A place gets the first label whose facts all fit. A place between two scenes fits
# none and is left out. `zone` is the distance from the equator in degrees.
SCENES: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "deep ocean": {"land": (0, 0), "depth_m": (4300, 11000), "zone": (0, 60)},
    "ocean rise": {"land": (0, 0), "depth_m": (1200, 3600), "zone": (0, 60)},
    "shelf sea": {"land": (0, 0), "depth_m": (0, 350), "zone": (0, 75)},
    "island": {"land": (0.01, 0.15), "ice": (0, 0), "zone": (0, 65)},
    "coast": {"land": (0.3, 0.7), "ice": (0, 0.02), "zone": (0, 65)},
    "ice sheet": {"land": (0.9, 1), "ice": (0.9, 1), "zone": (0, 85)},
    "mountains": {"land": (0.93, 1), "height_m": (1500, 9000), "zone": (0, 60)},
    "desert": {"land": (0.93, 1), "height_m": (0, 1500), "rivers": (0, 0), "zone": (13, 48)},
    "rainforest": {"land": (0.93, 1), "height_m": (0, 800), "rivers": (0.01, 1), "zone": (0, 11)},
    "temperate plain": {"land": (0.93, 1), "height_m": (0, 800), "rivers": (0.02, 1), "zone": (27, 49)},
    "boreal plain": {"land": (0.93, 1), "height_m": (0, 900), "rivers": (0.005, 1), "zone": (51, 65)},
    "tundra": {"land": (0.93, 1), "ice": (0, 0.05), "zone": (66.5, 80)},
}

# Fact -> (the highest value for these wordings, the wordings). The first row that fits is used.
Wordings = tuple[tuple[float, tuple[str, ...]], ...]
ZONE: Wordings = (
    (12, ("near the hot, wet equator", "in the steamy belt about the equator", "in equatorial heat and rain")),
    (23.5, ("in the hot tropics", "under the tropical sun", "between the equator and the tropic line")),
    (35, ("in the warm subtropics", "just outside the tropics", "in a warm belt")),
    (50, ("at mild middle latitudes", "in a temperate belt", "in the zone of four seasons")),
    (66.5, ("in cool, damp latitudes", "where winters are long and cold", "in a cold belt short of the polar circle")),
    (90, ("inside the frozen polar circle", "in polar cold", "where the sun stays down for weeks in winter")),
)
DEPTH: Wordings = (
    (350, ("shallow water", "shallows", "water a hundred metres deep or so", "a shelf not far below the surface")),
    (1200, ("water of some hundred metres", "a slope under the sea")),
    (4000, ("an underwater ridge", "a drowned mountain chain", "ridges and rises under the sea", "a raised sea floor")),
    (11000, ("very deep water", "an abyss", "water many kilometres deep", "dark depths far down")),
)
HEIGHT: Wordings = (
    (200, ("low-lying ground", "low ground near sea level", "a lowland")),
    (500, ("a low plain", "ground a few hundred metres up", "slightly raised ground")),
    (1500, ("an upland", "ground about a kilometre up", "raised country")),
    (9000, ("high peaks and ridges", "very high, steep ground", "heights where the air is thin")),
)
RELIEF: Wordings = (
    (0.045, ("flat", "level", "even")),
    (0.1, ("rolling", "gently uneven", "slightly hilly")),
    (1, ("rough", "broken", "furrowed")),
)
RIVERS: Wordings = (
    (0, ("dry, with no rivers", "without any river or stream", "arid, as no river crosses it", "waterless")),
    (0.04, ("with a river or two", "crossed by a river", "with a few rivers")),
    (1, ("full of rivers", "drained by many streams", "laced with rivers")),
)
SHORE: Wordings = (
    (
        0.15,
        ("a small piece of land in the sea", "a scrap of land with water all round", "mostly sea, with a little land"),
    ),
    (0.5, ("a shore with more sea than land", "land running out into the sea", "the edge of the land at the sea")),
    (1, ("a shore with more land than sea", "land that ends at the sea", "the sea's edge along the land")),
)
ICE = ("ground under thick ice", "glacier ice piled on land", "land deep under ice and snow", "frozen ice over rock")

# Surface -> sentences, with the names of the facts that they state.
TEMPLATES: Mapping[str, Sequence[str]] = {
    "sea": (
        "Open sea over {depth}, the floor {relief}.",
        "Nothing but sea above {depth}; the bottom is {relief}.",
        "The sea {zone}: {depth} and no land.",
        "Sea on all sides, {depth}, a {relief} floor.",
        "Sea water {zone} over {depth}, {relief} at the bottom.",
        "{depth}, far out at sea, {zone}.",
        "{depth} and no coast near; the floor is {relief}.",
    ),
    "shore": (
        "{shore}.",
        "{shore}, {zone}.",
        "{shore}; {relief} where it is dry.",
        "Seen from above: {shore}, with {depth} off it.",
        "{shore}: {height} and {depth}.",
    ),
    "ice": (
        "{ice}.",
        "{ice}, {zone}.",
        "{ice}, {relief} and hard with cold.",
        "{ice}, its surface {relief}.",
        "{relief} as far as one sees: {ice}, {zone}.",
    ),
    "inland": (
        "{height}, {rivers}, {zone}.",
        "{zone}, {height}, {rivers}.",
        "{height} {zone}: {relief}, {rivers}.",
        "Inland {zone}: {height}, {relief}, {rivers}.",
        "{relief} land {zone}, {rivers}.",
    ),
}


def scene_label(place: Place) -> str | None:
    """The first label of `SCENES` that fits; None if none fits."""
    for label, bounds in SCENES.items():
        if all(low <= _fact(place, fact) <= high for fact, (low, high) in bounds.items()):
            return label
    return None


def caption(place: Place, draw: random.Random) -> str:
    """One sentence about the facts of the place, in a random wording."""
    sentence = draw.choice(TEMPLATES[_surface(place)]).format(
        zone=_wording(ZONE, _fact(place, "zone"), draw),
        depth=_wording(DEPTH, place.depth_m, draw),
        height=_wording(HEIGHT, place.height_m, draw),
        relief=_wording(RELIEF, place.shading, draw),
        rivers=_wording(RIVERS, place.rivers, draw),
        shore=_wording(SHORE, place.land, draw),
        ice=draw.choice(ICE),
    )
    return sentence[0].upper() + sentence[1:]


def _surface(place: Place) -> str:
    if place.ice > 0.5:
        return "ice"
    if place.land < 0.005:
        return "sea"
    return "inland" if place.land > 0.93 else "shore"


def _fact(place: Place, name: str) -> float:
    return abs(place.latitude) if name == "zone" else float(getattr(place, name))


def _wording(wordings: Wordings, value: float, draw: random.Random) -> str:
    return draw.choice(next(words for highest, words in wordings if value <= highest))
