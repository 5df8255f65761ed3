"""Controls for refused requests, against real servers."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Sequence

import pytest

from doubles.legal import OnlyEmbeddings
from doubles.legal_servers import ChatOnly, CompletionsOnly
from doubles.running import running
from doubles.server import Double
from doubles.wire import Connection, Request, Response, as_json
from vllm_ci.suites.control import Control

KEY = "key-of-the-control"


class Refuses(Double):
    """Some paths are always answered 429."""

    paths: Sequence[str] = ()
    asked_for = 0
    takes_s = 0.0

    async def routed(self, request: Request, connection: Connection) -> Response | None:
        self.asked_for += 1
        await asyncio.sleep(self.takes_s)
        if request.path in self.paths:
            return as_json({"error": {"message": "slow down"}}, 429)
        return await super().routed(request, connection)


def refusing(*paths: str) -> type[Refuses]:
    return type("Refusing", (Refuses,), {"paths": paths})


def served(make: type[Double], key: str = "", sent: str | None = None) -> bool:
    with running(lambda: make(key=key)) as (url, _):
        given = key if sent is None else sent
        headers = {"authorization": f"Bearer {given}"} if given else {}
        return Control(url, model=make.model, headers=headers, tls=ssl.create_default_context()).served()


@pytest.mark.parametrize("make", [Double, ChatOnly, CompletionsOnly, OnlyEmbeddings, refusing("/v1/embeddings")])
def test_a_server_that_answers_what_it_offers_serves_controls(make: type[Double]) -> None:
    assert served(make)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_one_refused_surface_is_no_limit_of_everything(path: str) -> None:
    assert served(refusing(path))


def test_a_server_that_refuses_text_limits_everything_whatever_embeddings_say() -> None:
    assert not served(refusing("/v1/completions", "/v1/chat/completions"))


def test_the_key_is_sent() -> None:
    assert served(Double, KEY)
    assert not served(Double, KEY, sent="wrong")


def test_a_server_that_is_gone_serves_nothing() -> None:
    with running(Double) as (url, _):
        pass
    assert not Control(url, model="double", headers={}, tls=ssl.create_default_context()).served()


@pytest.mark.slow
def test_requests_that_are_refused_together_share_a_control() -> None:
    made: list[Refuses] = []

    def make() -> Refuses:
        made.append(Refuses())
        made[-1].takes_s = 0.5  # all are refused before the first one has its answer
        return made[-1]

    with running(make) as (url, _):
        control = Control(url, model="double", headers={}, tls=ssl.create_default_context())
        threads = [threading.Thread(target=control.served) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert made[0].asked_for < 12
