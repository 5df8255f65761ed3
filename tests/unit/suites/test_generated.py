from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from vllm_ci.suites.security import test_generated as generated
from vllm_ci.suites.verdicts import Errored


@dataclass
class Made:
    """A generated request."""

    json: object = field(default_factory=dict)

    def as_transport_kwargs(self, base_url: str) -> dict[str, Any]:
        return {
            "method": "POST",
            "url": f"{base_url}/x",
            "json": self.json,
            "headers": {"a": "b"},
            "params": None,
            "auth": None,
        }


def verdict(answer: httpx.Response | Exception, json: object = None) -> str:
    def handle(_: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    with httpx.Client(base_url="http://h", transport=httpx.MockTransport(handle)) as http:
        found = generated._verdict("POST /x", Made(json), http)
    return str(found or "")


def test_a_crash_and_a_wait_are_findings_a_refusal_is_none() -> None:
    assert "generated-error:POST /x: 500" in verdict(httpx.Response(500), {"n": 1})
    assert "generated-slow:POST /x" in verdict(httpx.ReadTimeout("late"))
    for status in (200, 400, 401, 404, 422, 501):
        assert verdict(httpx.Response(status)) == ""
    assert verdict(httpx.LocalProtocolError("no header")) == ""


def test_operations_that_change_a_server_are_left_alone() -> None:
    operations = [SimpleNamespace(path="/v1/completions"), SimpleNamespace(path="/sleep")]
    schema = SimpleNamespace(get_all_operations=lambda: [SimpleNamespace(ok=lambda each=each: each) for each in operations])
    schemathesis = SimpleNamespace(openapi=SimpleNamespace(from_dict=lambda _: schema))
    assert [each.path for each in generated._operations(schemathesis, {})] == ["/v1/completions"]
    operations[:] = [SimpleNamespace(path="/sleep")]
    with pytest.raises(Errored, match="no operation"):
        generated._operations(schemathesis, {})
