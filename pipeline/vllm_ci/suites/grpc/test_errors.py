"""Errors: a client's mistake is refused as one, with a message that helps, and harms nobody else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import grpc
import pytest

from vllm_ci.suites.findings import CommonCause, Finding
from vllm_ci.suites.grpc.answer import MISTAKES, Answer, Part
from vllm_ci.suites.grpc.client import Engine
from vllm_ci.suites.grpc.contract import ENGINE
from vllm_ci.suites.security.details import shown

_BOUND_S = 20.0
_RULE = "gRPC, status codes: INVALID_ARGUMENT is for a client's mistake; INTERNAL and UNKNOWN are for errors of the server"
INVALID = CommonCause(
    id="grpc-server-error:invalid-requests", title="invalid requests end with an error of the server", rule=_RULE
)
SILENT = CommonCause(id="grpc-error-without-message", title="errors say nothing", rule="gRPC, error handling")

Judge = Callable[[Iterable[Finding]], None]
Bad = dict[str, Any]

# Each is refused by vLLM's own checks of sampling parameters and prompts, whatever the model is.
BAD: dict[str, Bad] = {
    "no prompt": {"ids": None},
    "an empty prompt": {"ids": []},
    "an unknown token": {"ids": [37, 4_000_000_000]},
    "max_tokens 0": {"sampling": {"max_tokens": 0}},
    "temperature below 0": {"sampling": {"temperature": -1.0}},
    "temperature not a number": {"sampling": {"temperature": float("nan")}},
    "top_p above 1": {"sampling": {"top_p": 2.0}},
    "min_p above 1": {"sampling": {"min_p": 3.0}},
    "frequency_penalty above 2": {"sampling": {"frequency_penalty": 9.0}},
    "repetition_penalty below 0": {"sampling": {"repetition_penalty": -1.0}},
    "min_tokens above max_tokens": {"sampling": {"min_tokens": 20, "max_tokens": 4}},
    "logprobs far too many": {"sampling": {"logprobs": 1_000_000}},
    "an invalid regex": {"sampling": {"regex": "(("}},
    "an invalid schema": {"sampling": {"json_schema": "{not json"}},
    "an invalid grammar": {"sampling": {"grammar": "::= ::="}},
    "an empty stop string": {"sampling": {"stop": [""]}},
}
"""Requests that no server can serve as they are."""


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("bad", list(BAD))
def test_an_invalid_request_is_refused(engine: Engine, judge: Judge, bad: str, stream: bool) -> None:
    """With a status of a client's mistake and a message, without details of the server's code; others are served."""
    given = {"ids": engine.prompt(), **BAD[bad]}
    answer = engine.generate(stream=stream, timeout_s=_BOUND_S * engine.slowness, **given)
    judge(_findings(answer, bad))
    engine.generate(ids=engine.prompt(1), sampling={"max_tokens": 1}).served()


def test_a_prompt_longer_than_the_context_is_refused(engine: Engine, judge: Judge) -> None:
    """It cannot be answered; cut without being asked for, it would be answered wrongly."""
    context = int(engine.model.max_context_length) if engine.model is not None else 0
    if not 0 < context <= _LARGEST:
        pytest.skip(f"the length of the context is {context or 'unknown'}")
    answer = engine.generate(ids=engine.prompt(length=context + 50), timeout_s=_BOUND_S * engine.slowness)
    judge(_findings(answer, "a prompt longer than the context"))


_LARGEST = 1_000_000


def _findings(answer: Answer, name: str) -> list[Finding]:
    """What is wrong with the refusal of an invalid request."""
    if answer.code is grpc.StatusCode.OK:
        said = f"an invalid request is served: {name}; {answer.shape}"
        return [Finding(id=f"grpc-accepted:{name}", severity="medium", message=said)]
    found = []
    if answer.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        said = f"an invalid request is not answered within {answer.seconds:.0f} s: {name}"
        found.append(Finding(id=f"grpc-no-answer:{name}", severity="high", message=said))
    elif answer.code not in MISTAKES:
        said = f"an invalid request ends with {answer.said}: {name}"
        found.append(Finding(id=f"grpc-server-error:{name}", severity="medium", message=said, cause=INVALID))
    return [*found, *_words(answer.details, answer.code, name)]


def _words(details: str, code: Any, name: str) -> list[Finding]:
    """What is wrong with the message of an error."""
    found = []
    if not details.strip():
        said = f"{code.name} without a message: {name}"
        found.append(Finding(id=f"grpc-error-without-message:{name}", severity="medium", message=said, cause=SILENT))
    found += [
        Finding(id=f"grpc-{kind}:{name}", severity="medium", message=f"the error for {name} shows {what}")
        for kind, what in shown(details, "").items()
    ]
    return found


def test_an_unknown_method_is_not_implemented(engine: Engine) -> None:
    """Clients of a newer version fall back on it."""
    code, details = engine.raw(f"/{ENGINE}/NoSuchMethod")
    assert code is grpc.StatusCode.UNIMPLEMENTED, f"an unknown method ends with {code.name}: {details}"


def test_an_unknown_service_is_not_implemented(engine: Engine) -> None:
    """Also for a name that looks like a path, or is empty."""
    for path in ("/no.such.Service/Method", "/../etc/passwd", "/"):
        code, details = engine.raw(path)
        assert code is grpc.StatusCode.UNIMPLEMENTED, f"{path} ends with {code.name}: {details}"


@pytest.mark.parametrize("method", ["Generate", "GetModelInfo"])
def test_a_message_that_is_none_is_refused(engine: Engine, judge: Judge, method: str) -> None:
    """Bytes that are no message of the protocol end with an error, and others are served.

    INTERNAL is legal here: it is what gRPC's own libraries answer.
    """
    known = engine.method(method)
    code, details = engine.raw(known.path, b"\xff" * 24, streams=known.streams)
    assert code is not grpc.StatusCode.OK, "bytes that are no message are answered OK"
    assert code is not grpc.StatusCode.DEADLINE_EXCEEDED, "bytes that are no message are not answered"
    judge([found for found in _words(details, code, f"no message to {method}") if "without" not in found.id])
    engine.generate(ids=engine.prompt(1), sampling={"max_tokens": 1}).served()


def test_embeddings_of_a_model_without_them_are_refused(engine: Engine, judge: Judge) -> None:
    """A model that generates has no embeddings, as a rule; if it has, they are finite numbers."""
    method = engine.method("Embed")
    request = method.request(request_id="vllm-ci-embed", tokenized={"input_ids": engine.prompt()})
    try:
        found = method.on(engine.channel)(request, timeout=_BOUND_S * engine.slowness, metadata=engine.metadata)
    except grpc.RpcError as error:
        answer = Answer(parts=(), code=error.code(), details=error.details() or "", seconds=_BOUND_S, streamed=False)
        judge(_findings(answer, "embeddings"))
        return
    length = len(found.embedding)
    assert length == found.embedding_dim > 0, f"{length} numbers, but embedding_dim {found.embedding_dim}"
    assert all(map(math.isfinite, found.embedding)), "an embedding has numbers that are not finite"


def test_an_error_does_not_touch_other_streams(engine: Engine) -> None:
    """A stream that runs beside a refused request goes on to its end."""

    def disturb(_: Any, parts: list[Part]) -> None:
        if len(parts) == 3:
            engine.generate(ids=[37, 4_000_000_000], timeout_s=_BOUND_S * engine.slowness)

    answer = engine.generate(ids=engine.prompt(), stream=True, sampling={"max_tokens": 32}, during=disturb)
    assert len(answer.served().tokens()) == 32, f"{len(answer.tokens())} tokens instead of 32"
