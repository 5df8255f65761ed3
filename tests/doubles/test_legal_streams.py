"""Nothing that is legal in a stream is held against a server, and a stream that hangs ends the suite soon with one cause."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest

from doubles import suiterun
from doubles.asked import Asked
from doubles.generation import Generation
from doubles.legal_streams import VARIATIONS
from doubles.server import Double
from doubles.wire import Connection

# The course of time and disconnects are the same for all of them.
TOUCHED = [f"streaming/test_{name}.py" for name in ("structure", "sameness", "text", "pieces", "errors", "many")]
_TIMED = {"OnlyReasoning", "FilterResultsFirst", "RoleInEveryChunk", "Compressed"}
# Each request takes a second: only the cases that look at the time of chunks.
_SLOW = {"LateFirstToken": ["streaming/test_delivery.py"]}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.timing if name in {*_TIMED, *_SLOW} else ()) for name in VARIATIONS]
)
def test_a_legal_stream_passes(name: str) -> None:
    cases = _SLOW.get(name, [*TOUCHED, *(["streaming/test_delivery.py"] if name in _TIMED else [])])
    found = suiterun.run(VARIATIONS[name], cases, patient=True)
    wrong = {case: found.messages.get(case) for case in found.with_status("failed", "errored")}
    assert not wrong
    assert found.with_status("passed")


class Hangs(Double):
    """A stream stops in the middle, and its connection stays open."""

    async def streamed(
        self,
        asked: Asked,  # noqa: ARG002 - as the method that it replaces
        name: str,
        created: int,  # noqa: ARG002
        generations: Sequence[Generation],  # noqa: ARG002
        connection: Connection,
    ) -> None:
        connection.begin({"content-type": "text/event-stream"})
        await connection.send(self.event({"id": name, "choices": []}))
        await asyncio.sleep(600)


def test_streams_that_hang_are_requested_twice_and_then_no_more() -> None:
    begun = time.monotonic()
    found = suiterun.run(Hangs, ["streaming/test_structure.py"], timeout_s=2)
    assert time.monotonic() - begun < 120
    assert "not run" in str(found.messages)
    assert not found.with_status("inconclusive")
    assert len([message for message in found.messages.values() if "timeout: after" in message]) <= 40
