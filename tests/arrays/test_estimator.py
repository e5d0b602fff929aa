"""`Aligner` has the habits of scikit-learn, as far as two unpaired views can have them."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted
from tiny import pools

import setclip_cli as setclip

# scikit-learn's checks that do not hold, and why. docs/python.md has the same list.
OWN_WORDS = "refused with a ValueError, in our own words"
NOT_CHECKED = {
    "check_complex_data": OWN_WORDS,
    "check_estimators_empty_data_messages": OWN_WORDS,
    "check_n_features_in_after_fitting": OWN_WORDS,
    "check_dtype_object": "arrays of Python objects are refused, also if all of them are numbers",
    "check_fit2d_1feature": "rows of one number have one direction, so there is nothing to align",
    "check_fit2d_1sample": "one row is one pair at most, and methods that learn from pairs need two",
}


class OneView(setclip.Aligner):
    """The checks know one matrix and a target. Here the second view is made of the first, and all rows are pairs."""

    def fit(self, X: Any, y: Any = None) -> Self:  # type: ignore[override]  # noqa: N803
        return super().fit(X, *_second_view(X))

    def transform(self, X: Any) -> Any:  # type: ignore[override]  # noqa: N803
        return super().transform(X)

    def fit_transform(self, X: Any, y: Any = None) -> Any:  # type: ignore[override]  # noqa: N803
        return self.fit(X).transform(X)

    def score(self, X: Any, y: Any = None) -> float:  # type: ignore[override]  # noqa: N803
        return super().score(X, *_second_view(X))


def _second_view(x: Any) -> tuple[Any, Any]:
    rows = np.asarray(x)
    if rows.ndim != 2 or rows.dtype.kind not in "fiu":
        return rows, None
    return 2.0 * rows[:, ::-1] + 1, np.arange(len(rows)).repeat(2).reshape(-1, 2)


@pytest.mark.slow
def test_the_checks_of_scikit_learn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as: it does not inherit from BaseEstimator
        results = check_estimator(OneView(method="cca"), on_fail=None, on_skip=None)
    failed = {each["check_name"]: each["exception"] for each in results if each["status"] == "failed"}
    assert failed.keys() == NOT_CHECKED.keys() & {each["check_name"] for each in results}, failed
    for name, reason in NOT_CHECKED.items():
        if reason == OWN_WORDS:
            assert "should contain one of" in str(failed[name]) or "does not check for" in str(failed[name])
    assert sum(each["status"] == "passed" for each in results) >= 35


@pytest.fixture
def views() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    left, right, pairs = pools()
    return left.numpy(), right.numpy(), pairs.numpy()


def test_it_fits_as_the_function_does(views: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    x, y, pairs = views
    aligner, aligned = setclip.Aligner(method="cca", seed=3), setclip.fit(x, y, pairs, method="cca", seed=3)
    assert aligner.fit(x, y, pairs) is aligner
    np.testing.assert_array_equal(aligner.transform(x), aligned.left(x))
    for one, other in zip(aligner.transform(x, y), aligned.transform(x, y), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(setclip.Aligner("cca", seed=3).fit_transform(x, y, pairs), aligned.left(x))
    assert (aligner.method_, aligner.n_features_in_) == ("cca", 12)
    assert aligner.score(x, y, pairs) == aligned.score(x, y, pairs)["retrieval/mean_recall"]


def test_parameters_are_read_set_cloned_and_shown() -> None:
    aligner = setclip.Aligner(method="ridge", recipe={"projection": {"pca": 8}})
    assert aligner.get_params() == {
        "method": "ridge",
        "goal": "auto",
        "seed": 0,
        "recipe": {"projection": {"pca": 8}},
        "names": ("left", "right"),
    }
    assert repr(aligner) == "Aligner(method='ridge', recipe={'projection': {'pca': 8}})"
    copied = clone(aligner.set_params(seed=2))
    assert copied is not aligner
    assert copied.get_params() == aligner.get_params()
    with pytest.raises(ValueError, match=r"has no parameter 'sed' \(did you mean 'seed'\?\)"):
        aligner.set_params(sed=1)


def test_a_pipeline_prepares_x_and_passes_the_pairs(views: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    x, y, pairs = views
    pipeline = make_pipeline(StandardScaler(), setclip.Aligner(method="cca"))
    pipeline.set_params(aligner__seed=1).fit(x, y, aligner__pairs=pairs)
    scaled = StandardScaler().fit_transform(x)
    expected = setclip.fit(scaled, y, pairs, method="cca", seed=1)
    np.testing.assert_allclose(pipeline.transform(x), expected.left(scaled), atol=1e-6)
    made = make_pipeline(StandardScaler(), setclip.Aligner(method="cca")).fit_transform(x, y, aligner__pairs=pairs)
    np.testing.assert_allclose(made, expected.left(scaled), atol=1e-6)


def test_it_is_not_fitted_before_fit(views: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    x, y, pairs = views
    aligner = setclip.Aligner(method="cca")
    for call in (lambda: aligner.transform(x), lambda: aligner.score(x, y, pairs), lambda: check_is_fitted(aligner)):
        with pytest.raises(NotFittedError, match=r"(?i)this Aligner"):
            call()
    with pytest.raises(setclip.SetClipError, match=r"is not fitted yet\n  fix: call fit"):
        aligner.transform(x)
    check_is_fitted(aligner.fit(x, y, pairs))


def test_names_of_columns_are_kept_and_compared(views: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    x, y, pairs = views
    frame = pd.DataFrame(x, columns=[f"f{place}" for place in range(12)])
    aligner = setclip.Aligner(method="cca").fit(frame, y, pairs)
    assert aligner.feature_names_in_.tolist() == list(frame.columns)
    expected = aligner.transform(frame)
    np.testing.assert_array_equal(aligner.transform(x), expected)
    for other in (frame[frame.columns[::-1]], pa.Table.from_pandas(frame[frame.columns[::-1]])):
        with pytest.raises(ValueError, match="column 0 is 'f11', and 'f0' was fitted"):
            aligner.transform(other)
    with pytest.raises(ValueError, match="column 11 is None, and 'f11' was fitted"):
        aligner.transform(frame.drop(columns="f11"))
    assert not hasattr(aligner.fit(x, y, pairs), "feature_names_in_")


def test_a_fitted_one_can_be_pickled(views: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    x, y, pairs = views
    aligner = setclip.Aligner(method="transport").fit(x, y, pairs)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(aligner)).transform(x), aligner.transform(x))


def test_it_needs_no_scikit_learn() -> None:
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import numpy as np, setclip_cli as setclip\n"
        "x = np.random.default_rng(0).normal(size=(20, 4)); pairs = np.arange(20).repeat(2).reshape(-1, 2)\n"
        "aligner = setclip.Aligner(method='cca')\n"
        "try: aligner.transform(x)\n"
        "except setclip.SetClipError as error: print(error)\n"
        "print(aligner.fit(x, x[:, ::-1], pairs).score(x, x[:, ::-1], pairs))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("this Aligner is not fitted yet")
