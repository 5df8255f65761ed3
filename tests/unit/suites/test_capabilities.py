"""The probes for what a server supports, against doubles."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import httpx
import pytest

from doubles import suiterun
from doubles.bodies import Json
from doubles.defects import DEFECTS
from doubles.running import running
from doubles.server import Double
from doubles.wire import Connection, Response
from vllm_ci.suites.capabilities import Probing
from vllm_ci.suites.machine import Seen
from vllm_ci.suites.traffic import Traffic
from vllm_ci.suites.transport import PatientTransport

pytestmark = pytest.mark.slow

_KEY = "a-key-of-the-tests"


@pytest.mark.parametrize("make", [Double, DEFECTS["a-kept-connection-keeps-the-key"].make], ids=["correct", "remembers a key"])
def test_a_server_that_remembers_the_key_of_a_connection_still_needs_one(make: type[Double]) -> None:
    with running(lambda: make(key=_KEY)) as (url, double):
        transport = PatientTransport(Traffic(), tls=ssl.create_default_context())
        with httpx.Client(base_url=url, transport=transport, headers={"authorization": f"Bearer {_KEY}"}) as http:
            http.get("/v1/models").raise_for_status()
            assert "auth" not in Probing(http=http, model=double.model, is_vllm=True, routes={}).absent()


def test_a_server_that_answers_without_a_key_needs_none() -> None:
    with running(Double) as (url, double):
        transport = PatientTransport(Traffic(), tls=ssl.create_default_context())
        with httpx.Client(base_url=url, transport=transport) as http:
            absent = Probing(http=http, model=double.model, is_vllm=True, routes={}).absent()
    assert absent["auth"] == "the server lists its models and answers without a key"


class OneAfterTheOther(Double):
    """So slow that requests that are sent together are not answered in time."""

    answers_s = 0.12

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.turn = asyncio.Lock()

    async def posted(self, path: str, body: Json, connection: Connection) -> Response | None:
        async with self.turn:
            await asyncio.sleep(self.answers_s)
        return await super().posted(path, body, connection)


class HangsAtTools(Double):
    async def posted(self, path: str, body: Json, connection: Connection) -> Response | None:
        if body.get("tools"):
            await asyncio.sleep(60)
        return await super().posted(path, body, connection)


def probed(make: type[Double], starved: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Probing, dict[str, str]]:
    """The probes of a double with a short timeout, on a machine that is starved or not, and what they found missing."""
    monkeypatch.setattr(Seen, "starved", property(lambda _: starved))
    with running(make) as (url, double):
        transport = PatientTransport(Traffic(), tls=ssl.create_default_context())
        with httpx.Client(base_url=url, transport=transport, timeout=0.7) as http:
            probing = Probing(http=http, model=double.model, is_vllm=True, routes={})
            absent = probing.absent()
            assert http.timeout == httpx.Timeout(0.7)
    return probing, absent


def test_a_probe_that_was_late_beside_others_is_asked_again_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    probing, absent = probed(OneAfterTheOther, "", monkeypatch)
    assert probing.broken == {}
    assert absent.keys() == probed(Double, "", monkeypatch)[1].keys()


def test_a_probe_that_hangs_is_a_finding_unless_the_machine_was_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    probing, absent = probed(HangsAtTools, "", monkeypatch)
    assert probing.broken["tools"] == absent["tools"] == "its probe is not answered in time"
    assert not probing.unknown
    probing, absent = probed(HangsAtTools, "9 tasks were runnable for each processor", monkeypatch)
    assert "the machine was busy (9 tasks were runnable for each processor)" in absent["tools"]
    assert probing.unknown.keys() == probing.broken.keys() != set()


def test_what_a_busy_machine_hid_makes_the_case_inconclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Seen, "starved", property(lambda _: "9 tasks were runnable for each processor"))
    case = "integration/test_errors.py::test_valid_requests_get_no_server_error"
    found = suiterun.run(HangsAtTools, [case], timeout_s=0.5)
    assert found.statuses[case] == "inconclusive"
    assert "the machine was busy" in found.messages[case]
