"""Errors about arrays. They are ValueErrors too: that is what scikit-learn and most callers catch."""

from __future__ import annotations

import sys

from setclip_cli.errors import UsageError


class InputError(UsageError, ValueError):
    """An array or an argument that cannot be used."""


class NotFittedError(UsageError, ValueError, AttributeError):
    """An estimator is used before `fit`."""


def not_fitted(name: str) -> NotFittedError:
    """The error for an estimator of this name; it is scikit-learn's error as well, if scikit-learn is loaded."""
    theirs = getattr(sys.modules.get("sklearn.exceptions"), "NotFittedError", None)
    kind: type[NotFittedError] = NotFittedError
    if theirs is not None:
        kind = type("NotFittedError", (NotFittedError, theirs), {"__module__": __name__})
    return kind(f"this {name} is not fitted yet", fix="call fit(x, y, pairs) first")
