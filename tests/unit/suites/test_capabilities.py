"""The probes for what a server supports, against doubles."""

from __future__ import annotations

import ssl

import httpx
import pytest

from doubles.defects import DEFECTS
from doubles.running import running
from doubles.server import Double
from vllm_ci.suites.capabilities import Probing
from vllm_ci.suites.traffic import Traffic
from vllm_ci.suites.transport import PatientTransport

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
