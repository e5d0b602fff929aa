"""Maps and figures: stable, inside their frame, well-formed, and safe with any name."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from evaluation.test_metrics import unit
from setclip_cli.evaluation import figures, plane_map
from setclip_cli.evaluation.plane_map import sample_rows

RNG = np.random.default_rng(31)
X, Y = unit(RNG, 60, 9), unit(RNG, 45, 9)
HOSTILE = '<img src=x onerror="alert(1)"> & "quoted"'


@pytest.fixture
def no_umap(monkeypatch):
    monkeypatch.setattr(plane_map, "has_umap", lambda: False)


def test_a_principal_map_keeps_the_two_widest_directions_and_lies_in_the_unit_square(no_umap):
    drawn = plane_map.plane_map(X * np.linspace(3, 0.1, 9, dtype=np.float32), Y)
    assert drawn.method == "PCA"
    both = np.concatenate([drawn.left, drawn.right])
    assert (both.min(0), both.max(0)) == (pytest.approx([0, 0]), pytest.approx([1, 1]))


def test_a_map_does_not_turn_over_when_the_rows_are_reordered(no_umap):
    order = RNG.permutation(len(X))
    once, again = plane_map.plane_map(X, Y), plane_map.plane_map(X[order], Y)
    np.testing.assert_allclose(once.left[order], again.left, atol=1e-6)
    np.testing.assert_allclose(once.right, again.right, atol=1e-6)


def test_rows_on_one_line_still_make_a_map():
    line = np.array([[1.0], [-1.0], [1.0]], np.float32)
    assert np.isfinite(plane_map.plane_map(line, line).left).all()
    same = np.repeat(X[:1], 4, axis=0)
    assert np.isfinite(plane_map.plane_map(same, same).left).all()


def test_umap_is_used_where_it_is_installed():
    pytest.importorskip("umap", reason="umap-learn is not installed", exc_type=ImportError)
    near, far = RNG.normal(size=(2, 8)) * 5
    left, right = (
        np.concatenate([RNG.normal(size=(30, 8)) + near, RNG.normal(size=(30, 8)) + far]).astype(np.float32)
        for _ in range(2)
    )
    once, again = plane_map.plane_map(left, right), plane_map.plane_map(left, right)
    assert once.method == "UMAP"
    np.testing.assert_array_equal(once.left, again.left)
    for side in (once.left, once.right):
        assert side.min() >= 0
        assert side.max() <= 1
    apart = np.linalg.norm(once.left[:30].mean(0) - once.left[30:].mean(0))
    together = np.linalg.norm(once.left[:30].mean(0) - once.right[:30].mean(0))
    assert together < apart / 2


def test_a_few_rows_need_no_umap():
    assert plane_map.plane_map(X[:5], Y[:5]).method == "PCA"


def test_drawn_rows_are_all_of_few_and_a_sample_of_many():
    assert sample_rows(7).tolist() == list(range(7))
    many = sample_rows(10_000)
    assert len(set(many.tolist())) == plane_map.POINTS_PER_SIDE
    assert (np.diff(many) > 0).all()


DRAWINGS = {
    "recall": figures.recall_figure(
        {HOSTILE: [(1, 0.1), (10, 0.6), (60, 1.0)], "b": [(1, 0.0), (60, 1.0)]}, chance=[(1, 0.01), (60, 1.0)]
    ),
    "map": figures.map_figure(
        plane_map.plane_map(X, Y), ([HOSTILE] * 60, [None] * 45), ("image", "caption"), {HOSTILE: 3}
    ),
    "densities": figures.density_figure(
        {"similarity": [-0.5, 0, 0.5], "within_left": [0, 2, 0], "within_right": [1, 1, 0], "cross": [0, 0, 0]},
        ("a", "b"),
    ),
    "bands": figures.band_figure(
        {HOSTILE: [(0, 0.2, 0.1), (7, 0.3, 0.0), (700, 0.9, 0.05)]}, x_label="pairs", y_label="mAP", chance=0.1
    ),
    "one point": figures.band_figure({"a": [(7, 0.2, 0.1)]}, x_label="pairs", y_label="mAP", chance=None),
    "bars": figures.bar_figure([(HOSTILE, 0.5, 0.1, 3.0), ("b", 0.0, 0.0, None)], label="SDD", chance=0.1),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_figure_is_well_formed_describes_itself_and_stays_in_its_frame(name):
    root = ET.fromstring(DRAWINGS[name])
    assert len(root.attrib["aria-label"]) > 20
    _, _, width, height = (float(part) for part in root.attrib["viewBox"].split())
    numbers = [
        (float(x), float(y))
        for element in root.iter()
        for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", element.attrib.get("d", ""))
    ]
    assert all(-1 <= x <= width + 1 and -1 <= y <= height + 1 for x, y in numbers)
    assert "nan" not in DRAWINGS[name]
    assert not [element for element in root.iter() if element.tag.endswith("img")]


def test_a_figure_in_a_file_of_its_own_brings_its_colours_and_legend():
    text = figures.standalone_svg(DRAWINGS["bands"], legend=[HOSTILE, "b"], note="± sd")
    root = ET.fromstring(text)
    assert "prefers-color-scheme: dark" in text
    assert [element.text for element in root.iter() if element.attrib.get("class") == "name"] == [HOSTILE, "b"]
