"""`setclip.fit` and what it returns: nothing of the user's is written or kept, new rows are mapped and scored."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from tiny import pools

import setclip_cli as setclip
from setclip_cli.recipe.presets import TRAINED_METHODS, TRAINING_FREE_METHODS

METHODS = (*TRAINED_METHODS, *TRAINING_FREE_METHODS)


def fitted(x: Any, y: Any, pairs: Any, method: Any, **options: Any) -> setclip.Aligned:
    return setclip.fit(x, y, pairs, method=method, recipe={"train": {"steps": 2, "batch": 32}}, **options)


def arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    left, right, pairs = pools()
    return left.numpy().copy(), right.numpy().copy(), pairs.numpy().copy()


@pytest.mark.parametrize("method", [*METHODS, pytest.param("set-clip-plus without pairs", marks=pytest.mark.slow)])
def test_arrays_are_neither_written_nor_kept(method: str, tmp_path: Path) -> None:
    """A write into a read-only memory map would end this process."""
    x, y, pairs = arrays()
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    known = () if method.endswith("without pairs") else pairs
    maps = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "xy"]
    of_maps = fitted(*maps, known, method.split()[0])
    aligned = fitted(x, y, known, method.split()[0])
    assert (x == maps[0]).all()
    assert (y == maps[1]).all()
    before = aligned.transform(maps[0], maps[1])
    x[:], y[:], pairs[:] = 7, 7, 0
    after = aligned.transform(maps[0], maps[1])
    for one, other, third in zip(before, after, of_maps.transform(*maps), strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, third)


@pytest.mark.parametrize("method", ["transport", "set-clip-plus"])
def test_every_form_of_the_same_numbers_gives_the_same_bytes(method: str) -> None:
    x, y, pairs = arrays()
    x = np.round(x * 4) / 4  # float16 holds them exactly
    expected = fitted(x, y, pairs, method).left(x)
    forms = [
        x.astype(np.float16),
        x.astype(">f8"),
        np.asfortranarray(x),
        torch.from_numpy(x),
        pa.array(x.tolist(), pa.list_(pa.float32(), x.shape[1])),
        x.tolist(),
    ]
    for form in forms:
        aligned = fitted(form, y, pairs.tolist(), method)
        np.testing.assert_array_equal(aligned.left(x), expected)
        np.testing.assert_array_equal(aligned.left(form), expected)


def test_new_rows_are_mapped_in_blocks_as_they_are_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, pairs = arrays()
    aligned = fitted(x, y, pairs, "transport")
    whole = aligned.left(x)
    assert aligned.transform(x).shape == whole.shape
    monkeypatch.setattr("setclip_cli.arrays.matrix._BLOCK", 7 * x.shape[1])
    np.testing.assert_allclose(aligned.left(x), whole, atol=1e-6)
    x[50, 0] = np.nan
    with pytest.raises(setclip.SetClipError, match="x: holds NaN or inf, first in row 50"):
        aligned.left(x)


def test_swapped_sides_are_named() -> None:
    x, y, pairs = arrays()
    aligned = fitted(x, y, pairs, "cca")
    for call in (lambda: aligned.transform(y, x), lambda: aligned.left(y)):
        with pytest.raises(
            ValueError, match=r"x: has 20 columns, and 12 were fitted\n.*x is for `left`, y for `right`"
        ):
            call()
    with pytest.raises(ValueError, match=r"y: has 12 columns, and 20 were fitted\n.*the other side"):
        aligned.right(x)
    with pytest.raises(ValueError, match=r"x: has 11 columns, and 12 were fitted\n.*of the same kind"):
        aligned.left(x[:, :11])


def test_what_is_fitted_can_be_copied() -> None:
    x, y, pairs = arrays()
    aligned = fitted(x, y, pairs, "transport")
    np.testing.assert_array_equal(copy.deepcopy(aligned).left(x), aligned.left(x))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "ccca"}, r"method: 'ccca' is not one of its choices \(did you mean 'cca'\?\)"),
        ({"goal": "partners"}, r"goal: 'partners' is not one of its choices \(did you mean 'partner'\?\)"),
        ({"seed": -1}, "seed: is -1"),
        ({"seed": None}, "seed: is None"),
        ({"seed": 0.5}, "seed: is 0.5"),
        ({"recipe": [1]}, "recipe: is a list"),
        ({"recipe": {"method": "cca"}}, "recipe: holds method\n  fix: give method to the function itself"),
        ({"recipe": {"trian": {}}}, r"unknown key 'trian' \(did you mean 'train'\?\)"),
        ({"method": "cca", "pairs": []}, "method 'cca': learns from known pairs alone .* there are none\n"),
        ({"goal": "partner", "pairs": [(0, 0)]}, "method 'transport': learns from known pairs alone .* there is 1\n"),
    ],
)
def test_what_is_wrong_with_an_argument_is_said_of_it(options: dict[str, Any], words: str) -> None:
    x, y, pairs = arrays()
    with pytest.raises(setclip.SetClipError, match=words) as caught:
        setclip.fit(x, y, **{"pairs": pairs, **options})
    assert "ingest" not in str(caught.value)


def test_a_seed_may_be_a_number_of_numpy_and_a_recipe_one_of_other_towers() -> None:
    x, y, pairs = arrays()
    one = setclip.fit(
        x, y, pairs, seed=np.int64(2), method="clip", recipe=setclip.load_recipe("quickstart", ["train.steps=2"])
    )
    assert one.origin.recipe.seed == 2
    assert one.origin.recipe.train.steps == 2
    assert {tower.backbone for tower in one.origin.recipe.towers.values()} == {"vector"}


def test_very_wide_features_take_a_table_of_their_rows_not_of_their_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns of zeros change nothing."""
    x, y, pairs = arrays()
    wide = np.zeros((len(x), 5000), np.float32)
    wide[:, :12] = x
    expected = setclip.fit(x, y, pairs, method="cca").similarity(x, y)
    decompose, sizes = torch.linalg.eigh, []
    monkeypatch.setattr(torch.linalg, "eigh", lambda table: sizes.append(len(table)) or decompose(table))
    found = setclip.fit(wide, y, pairs, method="cca").similarity(wide, y)
    assert max(sizes) <= 90
    np.testing.assert_allclose(found, expected, atol=1e-4)
