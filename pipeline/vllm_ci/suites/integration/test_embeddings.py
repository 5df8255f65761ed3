"""Embeddings, if the model supports them."""

from __future__ import annotations

import base64
import binascii
import math
import struct

import pytest

from vllm_ci.suites.answers import read
from vllm_ci.suites.capabilities import REFUSED
from vllm_ci.suites.client import ApiClient, Json, at_once, shown
from vllm_ci.suites.integration.asking import required_of_vllm
from vllm_ci.suites.integration.refusals import REFUSALS
from vllm_ci.suites.mixing import SWAPPED, MixedUpError
from vllm_ci.suites.server import ServerFacts
from vllm_ci.suites.verdicts import Fault

pytestmark = pytest.mark.requires_capability("embeddings")

_CLOSE = 1e-3
# Longer texts would take too long here.
_PATIENCE_TOKENS = 16_384
_PATH = "/v1/embeddings"
_WHERE = f"POST {_PATH}"


def embed(client: ApiClient, what: object, **parameters: object) -> Json:
    """The whole answer to a request for embeddings."""
    return client.must(_PATH, {"model": client.model, "input": what, **parameters})


def vectors(client: ApiClient, what: object) -> list[list[float]]:
    """Embeddings of one or several texts."""
    answer = embed(client, what)
    entries = read(answer, _WHERE, "data", of=list)
    listed = [read(answer, _WHERE, "data", at, "embedding", of=list) for at in range(len(entries))]
    return [[float(value) for value in each] for each in listed]


def distance(one: list[float], two: list[float]) -> float:
    """Largest difference of two vectors.

    Raises:
        Fault: They have different lengths.
    """
    if len(one) != len(two):
        raise Fault(f"two embeddings have {len(one)} and {len(two)} numbers")
    return max(abs(a - b) for a, b in zip(one, two, strict=True))


def test_is_a_list_of_embeddings(client: ApiClient) -> None:
    """Clients dispatch on the object types."""
    answer = embed(client, "hello")
    found = read(answer, _WHERE, "object")
    assert found == "list", f"object is {found!r}"
    kinds = [read(answer, _WHERE, "data", at, "object") for at in range(len(read(answer, _WHERE, "data", of=list)))]
    assert kinds == ["embedding"], f"the objects in data are {kinds}"


def test_a_vector_is_finite_and_not_zero(client: ApiClient) -> None:
    """NaN and zero vectors would silently corrupt an index."""
    values = vectors(client, "hello")[0]
    assert all(map(math.isfinite, values)), "the vector contains numbers that are not finite"
    assert any(values), "the vector is zero"


def test_the_same_text_has_the_same_vector(client: ApiClient) -> None:
    """Queries to an index use vectors that were computed at another time."""
    one, two = at_once(lambda _: vectors(client, "hello world")[0], range(2))
    far = distance(one, two)
    assert far < _CLOSE, f"two embeddings of one text differ by {far:.4f}"


def test_different_texts_have_different_vectors(client: ApiClient) -> None:
    """Vectors that do not depend on the text are useless for search."""
    one, two = at_once(lambda text: vectors(client, text)[0], ("hello world", "an entirely different sentence"))
    far = distance(one, two)
    assert far > 0, "two texts have the same embedding"


def test_a_batch_keeps_its_order(client: ApiClient) -> None:
    """Each vector belongs to its text, by index and by value."""
    texts = ["first", "second of them", "third"]
    answer = embed(client, texts)
    indices = [read(answer, _WHERE, "data", at, "index") for at in range(len(read(answer, _WHERE, "data", of=list)))]
    assert indices == [0, 1, 2], f"indices are {indices}"
    alone = at_once(lambda text: vectors(client, text)[0], texts)
    for at, text in enumerate(texts):
        mine = [float(value) for value in read(answer, _WHERE, "data", at, "embedding", of=list)]
        nearest = min(range(3), key=lambda other: distance(alone[other], mine))
        assert nearest == at, f"{text!r} got the vector of {texts[nearest]!r}"


def test_concurrent_texts_get_their_own_vectors(client: ApiClient) -> None:
    """Vectors of requests that run together are those that the texts get alone."""
    texts = [f"{word} and nothing else but {word}" for word in ("music", "bread", "winter", "a fox", "numbers", "the sea")]
    alone = [vectors(client, text)[0] for text in texts]
    for text, own, mine in zip(texts, alone, at_once(lambda text: vectors(client, text)[0], texts), strict=True):
        far = distance(own, mine)
        others = [texts[at] for at, other in enumerate(alone) if other != own and distance(other, mine) + _CLOSE < far]
        if others:
            raise MixedUpError(SWAPPED, f"{text!r} got the vector of {others[0]!r}, which was asked for at the same time")


def test_a_text_over_the_limit_is_not_cut(client: ApiClient, server: ServerFacts) -> None:
    """A text that is too long is refused, or embedded as a whole; a vector of a part of it looks like any other one."""
    if not 0 < server.max_model_len <= _PATIENCE_TOKENS:
        pytest.skip(f"the longest text is unknown, or takes too long for this case: {server.max_model_len} tokens")
    words = server.max_model_len + 16
    answer = client.sent(_PATH, {"model": client.model, "input": "hello " * words})
    if answer.status_code in REFUSALS:
        return
    if answer.status_code != 200:
        raise Fault(f"a text of {words} words in a model of at most {server.max_model_len} tokens: {shown(answer)}")
    counted = (answer.json().get("usage") or {}).get("prompt_tokens") or 0
    required_of_vllm(server, holds=counted >= words, message=f"of a text of {words} words, {counted} tokens are embedded")


def test_base64_holds_the_same_numbers(client: ApiClient, server: ServerFacts) -> None:
    """The official SDK requests base64: 32-bit floats, little-endian."""
    asked = client.sent(_PATH, {"model": client.model, "input": "hello", "encoding_format": "base64"})
    if asked.status_code in REFUSED:
        required_of_vllm(server, holds=False, message=f"encoding_format base64 is refused: {shown(asked)}")
    text = read(embed(client, "hello", encoding_format="base64"), _WHERE, "data", 0, "embedding", of=(str, list))
    if isinstance(text, list):  # the SDK accepts it
        required_of_vllm(server, holds=False, message="encoding_format base64 is ignored")
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise Fault(f"the embedding {text[:60]!r} is no base64: {error}") from error
    values = list(struct.unpack(f"<{len(raw) // 4}f", raw[: len(raw) // 4 * 4]))
    far = distance(values, vectors(client, "hello")[0])
    assert far < _CLOSE, f"base64 contains numbers that differ by {far:.4f}"


def test_usage_counts_the_prompt_only(client: ApiClient, server: ServerFacts) -> None:
    """An embedding has no completion tokens."""
    answer = embed(client, "hello")
    required_of_vllm(server, holds=bool(answer.get("usage")), message="an embedding has no usage")
    total, prompt = (read(answer, _WHERE, "usage", name, of=int) for name in ("total_tokens", "prompt_tokens"))
    assert total == prompt > 0, f"usage is {answer['usage']}"
