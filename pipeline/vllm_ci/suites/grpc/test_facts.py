"""What the service says of itself: routers size and place their requests by it."""

from __future__ import annotations

import hashlib
import io
import math
import zipfile

import grpc
import pytest

from vllm_ci.suites.grpc.client import SHORT_S, Engine
from vllm_ci.suites.grpc.contract import ENGINE, HEALTH


def test_the_model_is_described(engine: Engine) -> None:
    """Its name, the length of its context and the size of its vocabulary."""
    found = engine.call("GetModelInfo")
    assert found.is_generation, "the model is said not to generate, but Generate is tested"
    assert found.served_model_name or found.model_path, "GetModelInfo names no model"
    assert found.max_context_length > 0, "GetModelInfo has no length of the context"
    assert found.vocab_size > 0, "GetModelInfo has no size of the vocabulary"


def test_the_server_is_described(engine: Engine) -> None:
    """Its state; fields that a version does not fill are zero."""
    found = engine.call("GetServerInfo")
    assert math.isfinite(found.uptime_seconds), f"uptime_seconds is {found.uptime_seconds}"
    assert found.uptime_seconds >= 0, f"uptime_seconds is {found.uptime_seconds}"
    assert not found.is_paused, "the server says that it is paused, but serves"


def test_the_load_is_plausible(engine: Engine) -> None:
    """Routers send requests where the load is low."""
    found = engine.call("GetLoads")
    assert found.loads, "GetLoads has no entry"
    for load in found.loads:
        assert min(load.num_running_reqs, load.num_waiting_reqs) >= 0, f"negative number of requests: {load}"
        assert 0 <= load.token_usage <= 1, f"the share of the KV cache in use is {load.token_usage}"


def test_reflection_lists_what_is_served(engine: Engine) -> None:
    """Tools such as grpcurl find the methods by it."""
    listed = engine.contract.listed
    if not listed:
        pytest.skip(f"the server has no reflection; its messages are known from {engine.contract.source}")
    lacking = {ENGINE, HEALTH} - set(listed)
    assert not lacking, f"reflection does not list {', '.join(sorted(lacking))}"


def test_the_tokenizer_can_be_fetched_whole(engine: Engine) -> None:
    """Clients make token ids by it, so that it must be that of the model, and complete."""
    method = engine.method("GetTokenizer")
    try:
        asked = method.on(engine.channel)(method.request(), timeout=SHORT_S * engine.slowness, metadata=engine.metadata)
        pieces = list(asked)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            pytest.skip(f"the server does not implement GetTokenizer: {error.details()}")
        pytest.fail(f"GetTokenizer ends with {error.code().name}: {error.details()}", pytrace=False)
    data = b"".join(piece.data for piece in pieces)
    said = pieces[-1].sha256 if pieces else ""
    assert said == hashlib.sha256(data).hexdigest(), (
        f"SHA-256 of {len(data)} bytes is not the one that the server says: {said!r}"
    )
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None, "the archive of the tokenizer is damaged"
        assert archive.namelist(), "the archive of the tokenizer is empty"
