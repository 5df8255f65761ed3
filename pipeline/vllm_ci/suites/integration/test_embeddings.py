"""Embeddings, if the model supports them."""

from __future__ import annotations

import base64
import math
import struct

import pytest

from vllm_ci.suites.client import ApiClient, Json

pytestmark = pytest.mark.requires_capability("embeddings")

_CLOSE = 1e-3


def embed(client: ApiClient, what: object, **parameters: object) -> Json:
    """The whole answer to a request for embeddings."""
    return client.must("/v1/embeddings", {"model": client.model, "input": what, **parameters})


def vector(client: ApiClient, text: str) -> list[float]:
    """Embedding of one text."""
    return [float(value) for value in embed(client, text)["data"][0]["embedding"]]


def test_is_a_list_of_embeddings(client: ApiClient) -> None:
    """Clients dispatch on the object types."""
    answer = embed(client, "hello")
    assert answer["object"] == "list", f"object is {answer['object']!r}"
    assert [entry["object"] for entry in answer["data"]] == ["embedding"], f"data is {str(answer['data'])[:200]}"


def test_a_vector_is_finite_and_not_zero(client: ApiClient) -> None:
    """NaN and zero vectors would silently corrupt an index."""
    values = vector(client, "hello")
    assert all(map(math.isfinite, values)), "the vector contains numbers that are not finite"
    assert any(values), "the vector is zero"


def test_the_same_text_has_the_same_vector(client: ApiClient) -> None:
    """Queries to an index use vectors that were computed at another time."""
    one, two = vector(client, "hello world"), vector(client, "hello world")
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < _CLOSE, "two embeddings of one text differ"


def test_different_texts_have_different_vectors(client: ApiClient) -> None:
    """Vectors that do not depend on the text are useless for search."""
    one, two = vector(client, "hello world"), vector(client, "an entirely different sentence")
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) > _CLOSE, "two texts have the same embedding"


def test_a_batch_keeps_its_order(client: ApiClient) -> None:
    """Each vector belongs to its text, by index and by value."""
    texts = ["first", "second of them", "third"]
    data = embed(client, texts)["data"]
    assert [entry["index"] for entry in data] == [0, 1, 2], f"indices are {[entry['index'] for entry in data]}"
    for text, entry in zip(texts, data, strict=True):
        alone = vector(client, text)
        assert max(abs(a - b) for a, b in zip(alone, entry["embedding"], strict=True)) < 0.05, f"{text!r} got another vector"


def test_base64_holds_the_same_numbers(client: ApiClient) -> None:
    """The official SDK requests base64: 32-bit floats, little-endian."""
    text = embed(client, "hello", encoding_format="base64")["data"][0]["embedding"]
    raw = base64.b64decode(text)
    values = struct.unpack(f"<{len(raw) // 4}f", raw)
    assert max(abs(a - b) for a, b in zip(values, vector(client, "hello"), strict=True)) < _CLOSE, (
        "base64 contains other numbers"
    )


def test_usage_counts_the_prompt_only(client: ApiClient) -> None:
    """An embedding has no completion tokens."""
    usage = embed(client, "hello")["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] > 0, f"usage is {usage}"
