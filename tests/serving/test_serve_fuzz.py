"""The service is asked at random, by its own description: no error of ours, and every answer fits its schema."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from serve_world import make_vectors, service_of, token_of
from untrained_pictures import make_pictures

schemathesis = pytest.importorskip("schemathesis")
checks = pytest.importorskip("schemathesis.specs.openapi.checks")
CHECKS = [
    pytest.importorskip("schemathesis.checks").not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]
EXAMPLES = 60  # of each request, valid by its schema and not
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # the library's own warnings


@pytest.mark.parametrize("kind", ["pictures", "vectors"])
def test_every_answer_to_a_random_request_is_as_described(
    tmp_path: Path, tiny_timm: Path, tiny_sentence: Path, kind: str
) -> None:
    if kind == "pictures":
        make_pictures(tmp_path, tiny_timm, tiny_sentence)
        item, row = {"text": "forest"}, ("image", "image-0")
    else:
        make_vectors(tmp_path)
        item, row = {"vector": [0.5] * 20, "as": "audio"}, ("audio", "a0")
    asked = Counter[int]()

    def repaired(body: Any) -> Any:
        """A random body with an item or a row that is there: what else is in it is as it was."""
        if "ids" in body:
            return body | {"modality": row[0], "ids": [row[1]]}
        if "items" in body:
            return {"items": [item] * len(body["items"])}
        return item | {name: value for name, value in body.items() if name == "top"}

    with service_of(tmp_path) as address:
        place, headers = address.partition("?")[0].rstrip("/"), {"Authorization": f"Bearer {token_of(address)}"}
        schema = schemathesis.openapi.from_url(f"{place}/openapi.json", headers=headers)
        for result in schema.get_all_operations():
            for mode in schemathesis.GenerationMode:
                strategy = result.ok().as_strategy(generation_mode=mode)

                @settings(
                    max_examples=EXAMPLES,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                    database=None,
                    derandomize=True,
                )
                @given(case=strategy)
                def ask(case: Any) -> None:
                    bodies = [case.body]
                    if isinstance(case.body, dict) and isinstance(case.body.get("items", []), list):
                        bodies.append(repaired(case.body))  # most random items are none of a tower's
                    for case.body in bodies:
                        answer = case.call_and_validate(headers=headers, checks=CHECKS)
                        asked[answer.status_code] += 1

                with suppress(Unsatisfiable):  # a request without parameters cannot be wrong
                    ask()
    assert asked[200] > EXAMPLES
    assert asked[422] > EXAMPLES
    assert set(asked) <= {200, 400, 404, 409, 422}, asked
