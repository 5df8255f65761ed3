"""The target on this machine: replicas and gateway outlive their starter, and are found, repaired and ended by another."""

from __future__ import annotations

import httpx
import pytest

from standin.deployment import Place, revision
from vllm_ci.deploy.target import Route

pytestmark = [pytest.mark.anyio, pytest.mark.gateway]


async def test_a_release_serves_through_the_gateway(place: Place) -> None:
    target = place.target()
    a = revision("a")
    await target.start(a, 2)
    await target.route(Route(weights={a.name: 100}))
    current = await target.current()
    assert current.ready(a.name) == 2
    async with httpx.AsyncClient(base_url=current.address) as client:
        answer = await client.post("/v1/completions", json={"model": "m", "prompt": "x"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["text"] == "a"
    assert answer.headers["x-vllm-ci-revision"] == a.name
