"""Two services for the tests of this room: one of vectors with a calibration, one of pictures and captions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serve_world import Caller, make_vectors, service_of
from untrained_pictures import make_pictures


@pytest.fixture(scope="session")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vectors(tmp_path_factory.mktemp("vectors"))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory, tiny_timm: Path, tiny_sentence: Path) -> Path:
    return make_pictures(tmp_path_factory.mktemp("pictures"), tiny_timm, tiny_sentence)


@pytest.fixture(scope="session")
def of_vectors(vectors: Path) -> Iterator[Caller]:
    with service_of(vectors) as address:
        yield Caller(address)


@pytest.fixture(scope="session")
def of_pictures(pictures: Path) -> Iterator[Caller]:
    with service_of(pictures, body_mib=1) as address:
        yield Caller(address)
