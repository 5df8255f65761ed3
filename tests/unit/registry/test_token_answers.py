"""What token servers answer: odd lives, no tokens, errors that pass."""

from __future__ import annotations

import dataclasses
import email.utils
import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from registries.proxy import Answer, FaultyProxy, faulty_proxy
from vllm_ci.domain.errors import RegistryError
from vllm_ci.registry.access import Access
from vllm_ci.registry.client import RemoteRepository
from vllm_ci.registry.credentials import Credentials
from vllm_ci.registry.errors import RefusedError, UnauthorizedError, UnreachableError

LIVES: tuple[object, ...] = (0, -1, "soon", [], {}, True, 1e400, "inf", "nan", 10**400)


class Tokens:
    """Answers `/token` with `answers`, the last of them for ever; everything else with 404 for the token `t`."""

    def __init__(self, host: str, *answers: Answer | None) -> None:
        self.host, self.answers = host, list(answers)
        self.asked = 0
        self.authorizations: list[str] = []

    def __call__(self, request: BaseHTTPRequestHandler) -> Answer | None:
        if not request.path.startswith("/token"):
            if request.headers.get("Authorization") == "Bearer t":
                return 404, [], b""
            return 401, [("WWW-Authenticate", f'Bearer realm="http://{self.host}/token",service="x"')], b""
        self.asked += 1
        self.authorizations.append(request.headers.get("Authorization", ""))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            request.close_connection = True
            request.connection.close()
            raise ConnectionResetError
        return answer


def said(value: object, status: int = 200, **headers: str) -> Answer:
    return status, [(name.replace("_", "-"), text) for name, text in headers.items()], json.dumps(value).encode()


@pytest.fixture(name="home")
def _home() -> Iterator[FaultyProxy]:
    with faulty_proxy() as server:
        yield server


@pytest.mark.parametrize(
    "value",
    [
        {"token": "t"},
        {"token": None, "access_token": "t", "expires_in": None},
        {"token": "", "access_token": "t", "expires_in": "300", "issued_at": "x"},
    ]
    + [{"access_token": "t", "expires_in": each} for each in LIVES],
)
def test_a_token_is_taken_whatever_is_said_of_its_life(home: FaultyProxy, access: Access, value: object) -> None:
    home.guard = Tokens(home.host, said(value))
    with RemoteRepository(f"{home.host}/name", access) as repository:
        assert repository.resolve("one") is None
        assert repository.resolve("one") is None
    assert home.guard.asked == 1


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"<!doctype html><title>Sign in</title>", b"null", b"[]", b'"t"', b"{}", b'{"token":null}', b'{"token":5}'),
        *(b'{"token":"a b"}', b'{"token":"a\\r\\nX-Injected: 1"}', '{"token":"\u00fc"}'.encode(), b"\xff\xfe", b"[" * 100_000),
    ],
)
def test_what_is_no_token_is_said_with_the_server_s_name(home: FaultyProxy, access: Access, content: bytes) -> None:
    home.guard = Tokens(home.host, (200, [("Content-Type", "text/html")], content))
    with (
        RemoteRepository(f"{home.host}/name", access) as repository,
        pytest.raises(RegistryError, match="returned no token") as caught,
    ):
        repository.resolve("one")
    assert "text/html" in caught.value.why
    assert home.host in caught.value.why


def test_errors_that_pass_are_waited_for(home: FaultyProxy, access: Access, waits: list[float]) -> None:
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    home.guard = Tokens(
        home.host, said({}, 429, Retry_After="7"), said({}, 503, Retry_After=date), said({}, 502), None, said({"token": "t"})
    )
    with RemoteRepository(f"{home.host}/name", access) as repository:
        assert repository.resolve("one") is None
    assert waits[0] == 7.0
    assert 25 <= waits[1] <= 30
    assert 1.0 <= waits[2] <= 2.0
    assert len(waits) == 4


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_token_server_that_keeps_failing_is_given_up_with_its_words(
    home: FaultyProxy, access: Access, waits: list[float], status: int
) -> None:
    home.guard = Tokens(home.host, said({"errors": [{"code": "TOOMANY", "message": "come back later"}]}, status))
    with RemoteRepository(f"{home.host}/name", access) as repository, pytest.raises(UnreachableError) as caught:
        repository.resolve("one")
    assert f"{home.host} answered {status} TOOMANY: come back later" in caught.value.why
    assert len(waits) == access.retry.attempts - 1
    assert home.guard.asked == access.retry.attempts


def test_a_token_server_that_hangs_up_is_given_up(home: FaultyProxy, access: Access, waits: list[float]) -> None:
    home.guard = Tokens(home.host, None)
    with RemoteRepository(f"{home.host}/name", access) as repository, pytest.raises(UnreachableError, match=home.host):
        repository.resolve("one")
    assert len(waits) == access.retry.attempts - 1


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (
            401,
            {"errors": [{"code": "UNAUTHORIZED", "message": "bad password"}]},
            UnauthorizedError,
            "UNAUTHORIZED: bad password",
        ),
        (400, {"error": "invalid_grant", "error_description": "expired"}, UnauthorizedError, "invalid_grant: expired"),
        (403, {"message": "blocked\u001b[2J by policy"}, UnauthorizedError, "blocked [2J by policy"),
        (404, {}, RefusedError, "404"),
    ],
)
def test_a_refusal_keeps_the_token_server_s_words(
    home: FaultyProxy, access: Access, status: int, body: object, kind: type[RefusedError], words: str
) -> None:
    home.guard = Tokens(home.host, said(body, status))
    with RemoteRepository(f"{home.host}/name", access) as repository, pytest.raises(kind) as caught:
        repository.resolve("one")
    assert words in caught.value.why
    assert home.guard.asked == 1


def test_a_login_is_not_sent_on_where_the_token_server_redirects(home: FaultyProxy, access: Access) -> None:
    with faulty_proxy() as other:
        elsewhere = Tokens(other.host, said({"token": "t"}))
        other.guard = elsewhere
        home.guard = Tokens(home.host, said({}, 307, Location=f"http://{other.host}/token"))
        password = dataclasses.replace(access, credentials={home.host: Credentials(username="u", password="p")})
        with RemoteRepository(f"{home.host}/name", password) as repository:
            assert repository.resolve("one") is None
        assert elsewhere.authorizations == [""]
        identity = dataclasses.replace(access, credentials={home.host: Credentials(identity_token="i")})
        with (
            RemoteRepository(f"{home.host}/name", identity) as repository,
            pytest.raises(RefusedError, match="redirects a login"),
        ):
            repository.resolve("one")
        assert elsewhere.asked == 1
