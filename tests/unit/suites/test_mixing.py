"""Mixed-up answers are told from those of models that repeat themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from doubles.asked import Asked
from doubles.bodies import Json
from doubles.defects import DEFECTS
from doubles.generation import Generation
from doubles.legal import SeparatorsOfLines
from doubles.legal_servers import ChatOnly, CountsNothing, Rounds
from doubles.running import running
from doubles.server import Double
from doubles.wire import Connection, Response
from vllm_ci.suites.client import ApiClient
from vllm_ci.suites.mixing import REPEATED, SWAPPED, Mixing, swaps_of
from vllm_ci.suites.server import probe

pytestmark = pytest.mark.slow


class SaysTheSame(Double):
    """A model that gives the same answer to every prompt."""

    def generations(self, asked: Asked) -> list[Generation]:
        return [
            Generation(asked=asked, prompt=(5, 6, 7), choice=each, index=each, sampling=self.sampling(asked))
            for each in range(asked.n)
        ]


class SaysNothing(Double):
    """A model whose answers are empty."""

    async def completed(self, asked: Asked, body: Json, connection: Connection) -> Response | None:
        return await super().completed(Asked(**{**vars(asked), "stop_ids": frozenset(range(10**4))}), body, connection)


class CachesOnlyStreams(DEFECTS["a-cache-of-lengths"].make):  # type: ignore[misc]
    """Repeats answers in streams only."""

    def key_of(self, asked: Asked) -> Any:
        return super().key_of(asked) if asked.stream else asked.prompts


@contextmanager
def mixing(make: type[Double]) -> Iterator[Mixing]:
    with running(make) as (url, _), httpx.Client(base_url=url, trust_env=False, timeout=30) as http:
        server = probe(http)
        yield Mixing(client=ApiClient(http=http, model=server.model, server=server))


@pytest.mark.parametrize("make", [Double, SaysTheSame, SaysNothing, ChatOnly, CountsNothing, Rounds, SeparatorsOfLines])
def test_nothing_is_held_against_a_server_that_answers_each_prompt(make: type[Double]) -> None:
    with mixing(make) as found:
        found.repeated()
        found.swapped()
        assert found.cause() is None


@pytest.mark.parametrize(
    "name", ["whole-requests-are-swapped", "streams-are-swapped", "chats-are-swapped", "prompts-are-shared"]
)
def test_swapped_answers_are_seen(name: str) -> None:
    with mixing(DEFECTS[name].make) as found:
        assert found.cause() == SWAPPED


@pytest.mark.parametrize("name", [name for name in DEFECTS if name.startswith("a-cache-")])
def test_repeated_answers_are_seen_whatever_the_cache_looks_at(name: str) -> None:
    with mixing(DEFECTS[name].make) as found:
        assert found.cause() == REPEATED


def test_repeated_streams_are_seen() -> None:
    with mixing(CachesOnlyStreams) as found:
        assert found.cause() == REPEATED


def test_an_answer_of_nobody_is_no_swap() -> None:
    alone = [("the first answer", 1), ("the second answer", 1)]
    assert swaps_of(alone, [("the second answer", 1), ("rounded otherwise", 1)]) == [(0, 1)]
    assert swaps_of(alone, [("the first answer", 1), ("the other answer", 1)]) == []
    assert swaps_of([("a", 1), ("b", 1)], [("b", 1), ("a", 1)]) == [], "too short to tell"
