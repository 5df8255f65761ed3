"""The token protocol: challenges, scopes, identity tokens, expiry; and where a password must not go."""

from __future__ import annotations

import base64
import dataclasses
import json
import socket
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from registries.images import small_image
from registries.proxy import Answer, Fault, FaultyProxy, faulty_proxy
from vllm_ci.domain.errors import RegistryError
from vllm_ci.registry.access import Access
from vllm_ci.registry.client import RemoteRepository
from vllm_ci.registry.credentials import Credentials
from vllm_ci.registry.errors import UnauthorizedError
from vllm_ci.registry.server import ReadOnlyRegistry

USER, PASSWORD, IDENTITY = "reader", "pass word", "identity-token"


@dataclass
class TokenServer:
    """Issues tokens `token-N`, each for the scopes it was asked for, and lets requests in that carry a valid one."""

    host: str = ""
    anonymous: bool = False
    expires_in: int = 300
    realm: str = ""
    issued: dict[str, list[str]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def __call__(self, request: BaseHTTPRequestHandler) -> Answer | None:
        if request.path.startswith("/token"):
            return self._token(request)
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        path = request.path.removeprefix("/v2/").partition("/manifests/")[0].partition("/blobs/")[0].partition("/tags/")[0]
        if f"repository:{path}:pull" in self.issued.get(token, []):
            return None
        realm = self.realm or f"http://{self.host}/token"
        challenge = f'Bearer realm="{realm}",service="registry of tests",scope="repository:{path}:pull"'
        return (
            401,
            [("WWW-Authenticate", challenge)],
            b'{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}',
        )

    def _token(self, request: BaseHTTPRequestHandler) -> Answer:
        if request.command == "POST":
            content = request.rfile.read(int(request.headers["Content-Length"])).decode()
            form = urllib.parse.parse_qs(content)
            allowed = form["refresh_token"] == [IDENTITY]
        else:
            form = urllib.parse.parse_qs(urllib.parse.urlsplit(request.path).query)
            expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            allowed = request.headers.get("Authorization") == expected or (
                self.anonymous and not request.headers.get("Authorization")
            )
        self.asked.append((request.command, form.get("service", [""])[0]))
        if not allowed:
            return 401, [], b'{"errors":[]}'
        token = f"token-{len(self.issued)}"
        self.issued[token] = [scope for value in form.get("scope", []) for scope in value.split()]
        name = "access_token" if request.command == "POST" else "token"
        return 200, [("Content-Type", "application/json")], json.dumps({name: token, "expires_in": self.expires_in}).encode()


@pytest.fixture(name="guarded")
def _guarded(tmp_path: Path) -> Iterator[tuple[FaultyProxy, TokenServer, str]]:
    """A registry behind a token server, and the digest of the image in it."""
    layout, image = small_image(tmp_path / "image")
    layout.put_manifest(image, tag="one")
    with ReadOnlyRegistry(layout) as registry:
        thread = threading.Thread(target=registry.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        with faulty_proxy(f"127.0.0.1:{registry.server_port}") as proxy:
            tokens = TokenServer(host=proxy.host)
            proxy.guard = tokens
            yield proxy, tokens, image.digest
        registry.shutdown()
        thread.join()


def with_login(access: Access, host: str, **login: str) -> Access:
    return dataclasses.replace(access, credentials={host: Credentials(source="a test", **login)})


def test_a_challenge_is_answered_once_and_its_token_used_again(
    guarded: tuple[FaultyProxy, TokenServer, str], access: Access
) -> None:
    proxy, tokens, digest = guarded
    with RemoteRepository(
        f"{proxy.host}/team/name", with_login(access, proxy.host, username=USER, password=PASSWORD)
    ) as repository:
        assert repository.resolve("one") == digest
        manifest = repository.manifest("one")
        assert repository.blob(manifest.blobs[0].digest)
    assert tokens.asked == [("GET", "registry of tests")]
    assert tokens.issued["token-0"] == ["repository:team/name:pull"]


def test_anonymous_tokens_and_identity_tokens(guarded: tuple[FaultyProxy, TokenServer, str], access: Access) -> None:
    proxy, tokens, digest = guarded
    with RemoteRepository(f"{proxy.host}/name", with_login(access, proxy.host, identity_token=IDENTITY)) as repository:
        assert repository.resolve("one") == digest
    assert tokens.asked == [("POST", "registry of tests")]
    with (
        RemoteRepository(f"{proxy.host}/name", access) as repository,
        pytest.raises(UnauthorizedError, match="refuses the login"),
    ):
        repository.resolve("one")
    tokens.anonymous = True
    with RemoteRepository(f"{proxy.host}/name", access) as repository:
        assert repository.resolve("one") == digest


def test_a_wrong_password_is_told_with_its_source_and_without_itself(
    guarded: tuple[FaultyProxy, TokenServer, str], access: Access
) -> None:
    proxy, _, _ = guarded
    wrong = with_login(access, proxy.host, username=USER, password="not the one")
    with RemoteRepository(f"{proxy.host}/name", wrong) as repository, pytest.raises(UnauthorizedError) as caught:
        repository.resolve("one")
    assert "a test" in caught.value.why
    assert "not the one" not in str(caught.value)


def test_a_token_that_ended_is_replaced(guarded: tuple[FaultyProxy, TokenServer, str], access: Access) -> None:
    proxy, tokens, digest = guarded
    tokens.anonymous = True
    with RemoteRepository(f"{proxy.host}/name", access) as repository:
        assert repository.resolve("one") == digest
        tokens.issued.clear()  # the registry does not take it any more
        assert repository.resolve("one") == digest
    assert len(tokens.asked) == 2


def test_a_password_never_goes_to_another_place_without_tls(
    guarded: tuple[FaultyProxy, TokenServer, str], access: Access
) -> None:
    proxy, tokens, _ = guarded
    tokens.realm = "http://tokens.example.com/token"
    login = with_login(access, proxy.host, username=USER, password=PASSWORD)
    with RemoteRepository(f"{proxy.host}/name", login) as repository, pytest.raises(UnauthorizedError, match="without TLS"):
        repository.resolve("one")
    tokens.realm = "ftp://tokens.example.com"
    with (
        RemoteRepository(f"{proxy.host}/name", login) as repository,
        pytest.raises(RegistryError, match="no usable token server"),
    ):
        repository.resolve("one")


@pytest.mark.parametrize("beside", [True, False])
def test_a_registry_chosen_without_tls_gets_the_login_and_so_does_only_its_own_token_server(
    guarded: tuple[FaultyProxy, TokenServer, str], access: Access, monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    proxy, tokens, digest = guarded
    port = proxy.host.rpartition(":")[2]
    ask = socket.getaddrinfo

    def names(host: str | bytes | None, *rest: Any, **more: Any) -> Any:
        return ask("127.0.0.1" if str(host).endswith(".example") else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", names)
    host = f"registry.example:{port}"
    tokens.realm = f"http://{'registry' if beside else 'tokens'}.example:{port}/token"
    login = dataclasses.replace(with_login(access, host, username=USER, password=PASSWORD), plain_http=(host,))
    with RemoteRepository(f"{host}/name", login) as repository:
        if beside:
            assert repository.resolve("one") == digest
        else:
            with pytest.raises(UnauthorizedError, match="without TLS"):
                repository.resolve("one")
    assert len(tokens.asked) == beside


def test_a_redirect_to_another_host_takes_no_authorization_along(
    guarded: tuple[FaultyProxy, TokenServer, str], access: Access
) -> None:
    proxy, tokens, _ = guarded
    tokens.anonymous = True
    with faulty_proxy(proxy.upstream) as store:
        seen: list[str] = []
        store.guard = lambda request: seen.append(request.headers.get("Authorization", "none"))
        with RemoteRepository(f"{proxy.host}/name", access) as repository:
            blob = repository.manifest("one").blobs[1].digest
            place = f"http://{store.host}/v2/name/blobs/{blob}"
            proxy.faults = [Fault(kind="status", status=307, path="blobs", headers={"Location": place})]
            assert repository.blob(blob)
        assert seen == ["none"]
