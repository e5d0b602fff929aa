"""What is said of a bucket that is not there: the bucket, not a file that setclip would have written in it."""

from __future__ import annotations

import pytest

from setclip_cli.remote.errors import trouble
from setclip_cli.remote.place import Place


@pytest.mark.parametrize("path", ["gone", "gone/data/.setclip/writer.json", "gone/data/image/test-00000.parquet"])
@pytest.mark.parametrize("scheme", ["s3", "gs"])
@pytest.mark.parametrize("said", ["NoSuchBucket", "The specified bucket does not exist"])
def test_a_bucket_that_is_not_there_is_named_alone(scheme: str, path: str, said: str) -> None:
    error = trouble(Place(scheme, path), FileNotFoundError(said), "be written")
    assert error.problem == f"{scheme}://gone: cannot be written: there is no bucket 'gone'"
    assert "make it first" in error.fix
