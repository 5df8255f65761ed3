"""A request means the same however it is sent: HTTP allows several ways, and clients use all of them."""

from __future__ import annotations

import json

import pytest

from vllm_ci.suites.client import ApiClient, shown

pytestmark = pytest.mark.requires_capability("text")

_KINDS = ("application/json; charset=utf-8", "application/json;charset=UTF-8")
_LENGTH_REQUIRED, _NOT_IMPLEMENTED = 411, 501


@pytest.mark.parametrize("kind", _KINDS)
def test_a_charset_does_no_harm(client: ApiClient, kind: str) -> None:
    """Many clients add a charset to the content type; it has no effect (RFC 8259, section 11)."""
    answer = client.written(json.dumps(client.body("hello", max_tokens=1)).encode(), kind=kind)
    assert answer.status_code == 200, f"a request with the content type {kind!r} is answered {shown(answer)}"


def test_a_body_in_chunks_is_read(client: ApiClient) -> None:
    """Clients that do not know the length of a body send it in chunks (RFC 9112, section 7.1).

    A server may ask for the length (411), or say that it has no chunks (501).
    """
    body = json.dumps(client.body("hello", max_tokens=1)).encode()
    answer = client.written(iter((body[:10], body[10:])))
    if answer.status_code in (_LENGTH_REQUIRED, _NOT_IMPLEMENTED):
        pytest.skip(f"the server takes no body in chunks: {shown(answer)}")
    assert answer.status_code == 200, f"a body in chunks is answered {shown(answer)}"
