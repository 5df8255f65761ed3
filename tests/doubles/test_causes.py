"""Cases that fail for one reason have one cause, so that the reports show it once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from doubles import suiterun
from doubles.asked import Asked
from doubles.bodies import Json
from doubles.defects import DEFECTS
from doubles.generation import Generation
from doubles.refusal import RefusedError
from doubles.server import Double
from doubles.wire import Connection, Request, Response


class Crashes(Double):
    """Every mistake of a client is answered 500, as by llama-cpp-python."""

    async def routed(self, request: Request, connection: Connection) -> Response | None:
        try:
            return await super().routed(request, connection)
        except RefusedError as error:
            if "multimodal" in error.message:  # asked by a probe, which has a finding of its own
                raise
            return self.error(500, f"1 validation error: {error.message}", "internal_server_error")


class CountsStreamsAnew(Double):
    """Usage of streams counts one token of the prompt less, and its chunk has an empty choice, as behind LiteLLM."""

    def closing(self, asked: Asked, head: Json, generations: Sequence[Generation]) -> Iterator[Json]:
        for chunk in super().closing(asked, head, generations):
            if chunk.get("usage"):
                chunk["choices"] = [{"index": 0, "delta": {}} if asked.chat else {"index": 0, "text": ""}]
                chunk["usage"] |= {name: chunk["usage"][name] - 1 for name in ("prompt_tokens", "total_tokens")}
            yield chunk


class SaysNothing(Double):
    """Refusals of streams have no message."""

    def error(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> Response:  # noqa: ARG002
        return Response(status=status, body=b"Bad Request", headers={"content-type": "text/plain"})


_ERRORS = ("integration/test_errors.py", "streaming/test_errors.py")
_OF_STREAMS = tuple(f"streaming/test_{name}.py" for name in ("structure", "sameness", "text", "many"))
_OF_ANSWERS = ("integration", "streaming/test_many.py", "streaming/test_disconnect.py", "streaming/test_structure.py")
_RUNS = {
    "validation": (Crashes, _ERRORS, {"server-error:validation"}),
    "messages": (SaysNothing, _ERRORS, {"error-body"}),
    "usage": (CountsStreamsAnew, _OF_STREAMS, {"stream-usage:count", "stream-usage:place"}),
    "done": (DEFECTS["missing-done"].make, _OF_STREAMS, {"stream-incomplete:no-done"}),
    "interrupted": (DEFECTS["a-second-request-interrupts"].make, _OF_STREAMS, {"stream-interrupted"}),
    "refused": (DEFECTS["streams-are-too-many"].make, _OF_STREAMS, {"refused-alone"}),
    "swapped": (DEFECTS["whole-requests-are-swapped"].make, _OF_ANSWERS, {"answers-swapped"}),
    "repeated": (DEFECTS["a-cache-without-the-prompt"].make, _OF_ANSWERS, {"answers-repeated"}),
    "lengths": (DEFECTS["a-cache-of-lengths"].make, _OF_ANSWERS, {"answers-repeated"}),
    "choices": (DEFECTS["choices-share-an-index"].make, _OF_STREAMS, {"stream-choices"}),
}


@pytest.mark.parametrize("name", _RUNS)
def test_all_that_fails_has_the_causes_of_its_reason(name: str) -> None:
    make, cases, expected = _RUNS[name]
    found = suiterun.run(make, cases, patient=True)
    failed = {case for case, status in found.statuses.items() if status in ("failed", "errored")}
    other = {case: found.messages.get(case) for case in failed if found.causes.get(case) not in expected}
    assert not other
    assert {found.causes[case] for case in failed} == expected
