"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real measurement data beside the checkout; its tests skip where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the measurement data (shared/data beside the checkout) is not here")
    return SHARED / "data"


@pytest.fixture(scope="session")
def oracle() -> Path:
    """Values that the authors' released code printed."""
    if not (SHARED / "oracle").is_dir():
        pytest.skip("the oracle values (shared/oracle beside the checkout) are not here")
    return SHARED / "oracle"
