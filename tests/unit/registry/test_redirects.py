"""Where an upload or a download goes on: relative places, redirects, other hosts; and what does not go along."""

from __future__ import annotations

import dataclasses
import ssl
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme

from registries.images import add_image, layer_of, noise, small_image
from registries.proxy import Answer, FaultyProxy, faulty_proxy
from vllm_ci.domain.errors import RegistryError
from vllm_ci.registry.access import Access
from vllm_ci.registry.client import RemoteRepository
from vllm_ci.registry.credentials import Credentials
from vllm_ci.registry.errors import RefusedError
from vllm_ci.registry.layout import Layout
from vllm_ci.registry.transfer import pull, push


def located(answer: Answer, location: str) -> Answer:
    return answer[0], [*((name, text) for name, text in answer[1] if name != "Location"), ("Location", location)], answer[2]


def location_of(answer: Answer) -> str:
    return dict(answer[1]).get("Location", "")


WAYS: dict[str, Callable[[str, str], str]] = {
    "absolute": lambda url, _: url,
    "with the scheme in capitals": lambda url, _: url.replace("http:", "HTTP:"),
    "path": lambda url, _: url[len("http://") + len(urlsplit(url).netloc) :],
    "network path": lambda url, _: url.removeprefix("http:"),
    "last segment": lambda url, asked: url.rpartition("/")[2] if asked.endswith("/uploads/") else url,
    "fragment": lambda url, _: url + "#here",
    "URL in the query": lambda url, _: url + "&cb=http://x.example/y?z",
    "another name of the host": lambda url, _: url.replace("127.0.0.1", "localhost"),
}


@pytest.mark.slow
@pytest.mark.needs_registry
@pytest.mark.parametrize("way", WAYS)
def test_an_upload_goes_on_where_the_registry_says(way: str, proxy: FaultyProxy, access: Access, tmp_path: Path) -> None:
    def edit(request: BaseHTTPRequestHandler, answer: Answer) -> Answer:
        if "/uploads/" not in request.path or answer[0] not in (202, 204):
            return answer
        url = location_of(answer)
        url = f"http://{proxy.host}{url[url.index('/v2/') :]}"
        return located(answer, WAYS[way](url, urlsplit(request.path).path))

    proxy.edit = edit
    layout = Layout(tmp_path / "big")
    image = add_image(layout, layer_of({"model": noise(200_000)}))  # in chunks, and whole
    push(layout, image.digest, f"{proxy.host}/name", ["one"], access=access)
    assert pull(f"{proxy.host}/name", "one", tmp_path / "back", access=access).digest == image.digest


@pytest.mark.needs_registry
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirected_upload_takes_method_and_body_along(
    status: int, proxy: FaultyProxy, access: Access, tmp_path: Path
) -> None:
    seen: list[str] = []

    def guard(request: BaseHTTPRequestHandler) -> Answer | None:
        if request.command in ("POST", "PATCH", "PUT") and "r=1" not in request.path:
            seen.append(request.command)
            return status, [("Location", request.path + ("&" if "?" in request.path else "?") + "r=1")], b""
        return None

    proxy.guard = guard
    layout = Layout(tmp_path / "big")
    image = add_image(layout, layer_of({"model": noise(200_000)}))
    push(layout, image.digest, f"{proxy.host}/name", ["one"], access=access)
    assert {"POST", "PATCH", "PUT"} <= set(seen)
    proxy.guard = None
    assert pull(f"{proxy.host}/name", "one", tmp_path / "back", access=access).digest == image.digest


@pytest.mark.needs_registry
def test_see_other_is_no_place_to_upload_to(proxy: FaultyProxy, access: Access, tmp_path: Path) -> None:
    proxy.guard = lambda request: (303, [("Location", "/elsewhere")], b"") if request.command == "POST" else None
    layout, image = small_image(tmp_path / "one")
    with pytest.raises(RefusedError, match="refused") as caught:
        push(layout, image.digest, f"{proxy.host}/name", access=access)
    assert "303" in caught.value.why


@pytest.mark.needs_registry
def test_redirects_without_end_are_given_up(proxy: FaultyProxy, access: Access) -> None:
    asked: list[str] = []

    def guard(request: BaseHTTPRequestHandler) -> Answer | None:
        asked.append(request.path)
        return (307, [("Location", f"/v2/{len(asked)}")], b"") if len(asked) > 1 or "manifests" in request.path else None

    proxy.guard = guard
    with RemoteRepository(f"{proxy.host}/name", access) as repository, pytest.raises(RefusedError, match="redirects endlessly"):
        repository.manifest("one")
    assert len(asked) == 11


@pytest.mark.needs_registry
def test_no_login_goes_along_to_another_port(proxy: FaultyProxy, access: Access, tmp_path: Path) -> None:
    """Uploads and downloads are sent to a second server; the registry knows who asks, the second one is not told."""
    access = dataclasses.replace(access, credentials={proxy.host: Credentials(username="u", password="secret")})
    with faulty_proxy(proxy.upstream) as store:
        told: dict[str, list[str]] = {proxy.host: [], store.host: []}

        def at_home(request: BaseHTTPRequestHandler) -> Answer | None:
            told[proxy.host].append(request.headers.get("Authorization", ""))
            if not told[proxy.host][-1]:
                return 401, [("WWW-Authenticate", 'Basic realm="x"')], b""
            if "/uploads/" in request.path or (request.command == "GET" and "/blobs/" in request.path):
                return 307, [("Location", f"http://{store.host}{request.path}")], b""
            return None

        def elsewhere(request: BaseHTTPRequestHandler) -> Answer | None:
            told[store.host].append(request.headers.get("Authorization", ""))
            return None

        proxy.guard, store.guard = at_home, elsewhere
        layout, image = small_image(tmp_path / "one")
        push(layout, image.digest, f"{proxy.host}/name", ["one"], access=access)
        assert pull(f"{proxy.host}/name", "one", tmp_path / "back", access=access).digest == image.digest
        assert any(told[proxy.host])
        assert told[store.host]
        assert not any(told[store.host])


@pytest.mark.needs_registry
def test_a_host_that_was_redirected_to_is_not_told_who_asks_even_when_it_asks(proxy: FaultyProxy, access: Access) -> None:
    access = dataclasses.replace(access, credentials={proxy.host: Credentials(username="u", password="secret")})
    with faulty_proxy() as store:
        told: list[str] = []

        def elsewhere(request: BaseHTTPRequestHandler) -> Answer | None:
            told.append(request.headers.get("Authorization", ""))
            return 401, [("WWW-Authenticate", 'Basic realm="x"'), ("WWW-Authenticate", "Bearer realm=http://x/")], b"no"

        store.guard = elsewhere
        proxy.guard = lambda _: (307, [("Location", f"http://{store.host}/blob")], b"")
        with RemoteRepository(f"{proxy.host}/name", access) as repository, pytest.raises(RefusedError) as caught:
            repository.blob("sha256:" + "0" * 64)
        assert told == [""]
        assert store.host in caught.value.why  # who refused


@pytest.fixture(name="secure")
def _secure(tmp_path: Path) -> Iterator[tuple[FaultyProxy, Path]]:
    """A server with TLS, and its authority's file."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with faulty_proxy(tls=context) as server:
        yield server, tmp_path / "ca.pem"


@pytest.mark.parametrize("status", [301, 307])
def test_a_redirect_from_tls_to_none_is_refused(secure: tuple[FaultyProxy, Path], access: Access, status: int) -> None:
    server, authority = secure
    with faulty_proxy() as plain:
        asked: list[str] = []
        plain.guard = lambda request: (asked.append(request.path), (404, [], b""))[1]  # type: ignore[func-returns-value]
        server.guard = lambda request: (status, [("Location", f"http://{plain.host}{request.path}")], b"")
        with (
            RemoteRepository(f"{server.host}/name", dataclasses.replace(access, ca_file=authority)) as repository,
            pytest.raises(RegistryError, match="from https to http"),
        ):
            repository.manifest("one")
        assert asked == []


@pytest.mark.parametrize("login", [None, Credentials(username="u", password="secret")])
def test_a_token_realm_without_tls_is_refused_by_a_registry_with_it(
    secure: tuple[FaultyProxy, Path], access: Access, login: Credentials | None
) -> None:
    server, authority = secure
    access = dataclasses.replace(access, ca_file=authority, credentials={server.host: login} if login else {})
    with faulty_proxy() as plain:
        asked: list[str] = []
        plain.guard = lambda request: (asked.append(request.path), (200, [], b'{"token":"t"}'))[1]  # type: ignore[func-returns-value]
        server.guard = lambda _: (401, [("WWW-Authenticate", f'Bearer realm="http://{plain.host}/token"')], b"")
        with RemoteRepository(f"{server.host}/name", access) as repository, pytest.raises(RegistryError, match="without TLS"):
            repository.manifest("one")
        assert asked == []


@pytest.mark.parametrize("location", ["", "http://", "ftp://x/y", "http://u:p@127.0.0.1/x", "http://[::1", "https://x:99999/"])
@pytest.mark.needs_registry
def test_a_place_that_cannot_be_used_is_an_error_of_ours(
    proxy: FaultyProxy, access: Access, tmp_path: Path, location: str
) -> None:
    proxy.guard = lambda request: (202, [("Location", location)], b"") if request.command == "POST" else None
    layout, image = small_image(tmp_path / "one")
    with pytest.raises(RegistryError, match=r"cannot be used|no upload location"):
        push(layout, image.digest, f"{proxy.host}/name", access=access)


@pytest.mark.needs_registry
def test_an_upload_waits_as_long_as_the_registry_asks(
    proxy: FaultyProxy, access: Access, waits: list[float], tmp_path: Path
) -> None:
    left = [("POST", "5"), ("PUT", "6"), ("PATCH", "7")]

    def guard(request: BaseHTTPRequestHandler) -> Answer | None:
        for method, after in left:
            if request.command == method and "/uploads/" in request.path:
                left.remove((method, after))
                return 429, [("Retry-After", after)], b""
        return None

    proxy.guard = guard
    layout = Layout(tmp_path / "big")
    image = add_image(layout, layer_of({"model": noise(200_000)}))
    push(layout, image.digest, f"{proxy.host}/name", access=dataclasses.replace(access, parallel=1))
    assert sorted(waits) == [5.0, 6.0, 7.0]
