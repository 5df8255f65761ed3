"""How large files come: with the user's certificates, proxies and netrc, and without what nobody asked for."""

from __future__ import annotations

import base64
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme

from vllm_ci.images.receiving import Broken, Connections, Receiver, Unreachable

CONTENT = bytes(range(256)) * 20_000


class Place:
    """A server that notes what it is asked, and can keep silent."""

    def __init__(self, *, context: ssl.SSLContext | None = None) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.silent = threading.Event()
        self.silent.set()
        self.reached = threading.Event()
        place = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                named = (self.path, self.headers.get("Authorization", ""), self.headers.get("Accept-Encoding", ""))
                place.asked.append(named)
                place.reached.set()
                place.silent.wait(30)
                if self.path.startswith("/moved/"):
                    self.send_response(302)
                    self.send_header("Location", f"http://localhost:{self.path.rpartition('/')[2]}/file")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(CONTENT)))
                self.end_headers()
                self.wfile.write(CONTENT)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Place]]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "NETRC", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    made: list[Place] = []
    yield made
    for each in made:
        each.silent.set()
        each.server.shutdown()
        each.server.server_close()


def started(places: list[Place], context: ssl.SSLContext | None = None) -> Place:
    places.append(Place(context=context))
    return places[-1]


def received(receiver: Receiver, place: str, folder: Path) -> bytes:
    with receiver.get(place, {"Accept-Encoding": "identity"}) as answer, (folder / "got").open("wb") as file:
        assert answer.status == 200
        answer.to(file)
    return (folder / "got").read_bytes()


def test_certificates_of_the_user_are_trusted_and_others_are_not(places: list[Place], tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    url = f"https://127.0.0.1:{started(places, context).port}/file"
    with Receiver(2, str(tmp_path / "ca.pem")) as receiver:
        assert received(receiver, url, tmp_path) == CONTENT
    with Receiver(2) as receiver, pytest.raises(Unreachable, match=r"CERTIFICATE_VERIFY_FAILED|certificate verify failed"):
        received(receiver, url, tmp_path)


def test_a_name_that_the_certificate_does_not_have_is_refused(places: list[Place], tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("another.example").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with Receiver(2, str(tmp_path / "ca.pem")) as receiver, pytest.raises(Unreachable):
        received(receiver, f"https://127.0.0.1:{started(places, context).port}/file", tmp_path)


def test_the_proxy_of_the_environment_is_used(places: list[Place], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = started(places)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
    with Receiver(2) as receiver:
        assert received(receiver, "http://index.example/file", tmp_path) == CONTENT
    assert [path for path, _, _ in proxy.asked] == ["http://index.example/file"]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    other = started(places)
    with Receiver(2) as receiver:
        assert received(receiver, f"http://127.0.0.1:{other.port}/file", tmp_path) == CONTENT
    assert len(proxy.asked) == 1


def test_names_and_passwords_of_addresses_and_of_netrc_go_to_their_host_alone(
    places: list[Place], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = started(places), started(places)
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login anna password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with Receiver(2) as receiver:
        received(receiver, f"http://127.0.0.1:{here.port}/file", tmp_path)
        received(receiver, f"http://ben:word@localhost:{here.port}/file", tmp_path)
        received(receiver, f"http://127.0.0.1:{here.port}/moved/{there.port}", tmp_path)
    basic = [f"Basic {base64.b64encode(each).decode()}" for each in (b"anna:secret", b"ben:word", b"anna:secret")]
    assert [sent for _, sent, _ in here.asked] == basic
    assert [sent for _, sent, _ in there.asked] == [""], "not to the host that the answer leads to"
    assert {encoding for _, _, encoding in (*here.asked, *there.asked)} == {"identity"}


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_server_that_keeps_silent_is_given_up_when_connections_are_broken(
    encrypted: bool, places: list[Place], tmp_path: Path
) -> None:
    context = None
    if encrypted:
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    place, connections = started(places, context), Connections()
    place.silent.clear()
    trusted = str(tmp_path / "ca.pem") if encrypted else ""
    url = f"http{'s' if encrypted else ''}://127.0.0.1:{place.port}/file"
    with Receiver(2, trusted, connections) as receiver, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(received, receiver, url, tmp_path)
        assert place.reached.wait(10)
        connections.shutdown()
        with pytest.raises(Broken):
            waiting.result(10)
        with pytest.raises((Broken, Unreachable)):
            received(receiver, url, tmp_path)


@pytest.mark.parametrize(
    "place", ["http://127.0.0.1:9/file", "http://[::1", "gopher://x/y", "http:///x", "https://no-such-host.invalid/x"]
)
def test_what_cannot_be_reached_is_an_error_of_its_own(place: str, places: list[Place], tmp_path: Path) -> None:
    del places
    with Receiver(2) as receiver, pytest.raises(Unreachable):
        received(receiver, place, tmp_path)
