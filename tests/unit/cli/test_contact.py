"""What a server may do at the first contact, and the one message that each ends with."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from doubles.legal_servers import NewerLimitChatOnly, OneTemperatureChatOnly
from doubles.running import running
from doubles.server import Double
from doubles.wire import Connection, Request, Response
from vllm_ci.cli.contact import contact
from vllm_ci.domain.errors import ErroredError, InconclusiveError, UsageError
from vllm_ci.domain.stage import StageSpec
from vllm_ci.stages.stage import StageContext

KEY = "LLM_TEST_KEY"
LISTED = {"object": "list", "data": [{"id": "m", "object": "model", "created": 1}]}
ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}]}


@dataclass(kw_only=True)
class Scripted:
    """A server with fixed answers: ``(status, headers, body)`` by method and path; 404 for all others."""

    answers: Mapping[str, tuple[int, Mapping[str, str], Any]] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None

    @contextmanager
    def running(self) -> Iterator[int]:
        """Serve on a port of this machine."""
        answers = self.answers

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("content-length") or 0))
                status, headers, body = answers.get(f"{self.command} {self.path}", (404, {}, {"detail": "Not Found"}))
                raw = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {"content-type": "application/json", **headers, "content-length": str(len(raw))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST = answer  # noqa: N815 - the names that the standard library calls

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """A handshake that fails is expected."""

        with Quiet(("127.0.0.1", 0), Handler) as server:
            if self.tls is not None:
                server.socket = self.tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            try:
                yield server.server_address[1]
            finally:
                server.shutdown()
                thread.join()


def of(url: str, *, model: str = "", key: str = "") -> StageContext:
    return StageContext(spec=StageSpec(name=""), url=url, model=model, api_key_env=key)


def html(status: int) -> tuple[int, Mapping[str, str], bytes]:
    return status, {"content-type": "text/html"}, b"<html><body>\n<h1>Welcome</h1>\n</body></html>"


def models(*cards: Any, **more: Any) -> dict[str, Any]:
    answers: dict[str, Any] = {"GET /v1/models": (200, {}, {"object": "list", "data": list(cards)})}
    return {**answers, "POST /v1/chat/completions": (200, {}, ANSWER), **more}


REFUSED: dict[str, tuple[dict[str, Any], str, str, str]] = {
    # name: (answers, --model, what the message says, what to do)
    "a page": ({"GET /v1/models": html(200)}, "", "no OpenAI-compatible API", "check the path"),
    "JSON without a list": ({"GET /v1/models": (200, {}, {"status": "ok"})}, "", "no OpenAI-compatible API", "check the path"),
    "a list of strings": ({"GET /v1/models": (200, {}, ["m"])}, "", "no OpenAI-compatible API", "check the path"),
    "404": ({}, "", "answered 404", "--model"),
    "404 as a page": ({"GET /v1/models": html(404)}, "", "answered 404 (text/html)", "--model"),
    "500": ({"GET /v1/models": (500, {}, {"error": "x"})}, "", "answered 500", "wait until the server is ready"),
    "502 as a page": ({"GET /v1/models": html(502)}, "", "answered 502", "wait until the server is ready"),
    "401": ({"GET /v1/models": (401, {}, {"error": "no"})}, "", "requires an API key", "--api-key-env"),
    "403": ({"GET /v1/models": (403, {}, {"error": "no"})}, "", "requires an API key", "--api-key-env"),
    "a redirect": ({"GET /v1/models": (308, {"location": "https://new/v1/models"}, b"")}, "", "redirects", "https://new"),
    "an empty list": (models(), "", "lists no models", "--model"),
    "cards without names": (models({"object": "model"}, {"id": 5}), "", "lists no models", "--model"),
    "no such model": (models({"id": "m"}), "other", "has no model 'other'; it lists m", "--model"),
    "another of 200": (models(*({"id": f"m{n}"} for n in range(200))), "x", "and 195 more", "--model"),
    "a model that answers nothing": (
        {"GET /v1/models": (200, {}, LISTED)},
        "",
        "answers neither chat nor completions",
        "look at the server's log",
    ),
    "the first of two answers nothing": (
        {"GET /v1/models": (200, {}, {"data": [{"id": "a"}, {"id": "b"}]})},
        "",
        "the first of 2 listed models",
        "--model",
    ),
    "an open list, and a guarded model": (
        models(
            {"id": "m"}, **{f"POST /v1/{name}": (401, {}, {}) for name in ("chat/completions", "completions", "embeddings")}
        ),
        "",
        "requires an API key",
        "--api-key-env",
    ),
    "plain HTTP on a port of nginx that speaks TLS": (
        {"GET /v1/models": (400, {"content-type": "text/html"}, b"<h1>The plain HTTP request was sent to HTTPS port</h1>")},
        "",
        "answered 400",
        "https://",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_server_that_cannot_be_tested_is_one_message_with_a_remedy(name: str) -> None:
    answers, model, what, remedy = REFUSED[name]
    with Scripted(answers=answers).running() as port, pytest.raises(ErroredError) as caught:
        contact(of(f"http://127.0.0.1:{port}", model=model), None)
    assert what in caught.value.message
    assert remedy in caught.value.remedy
    assert all("\n" not in part for part in (caught.value.message, caught.value.why, caught.value.remedy))


ACCEPTED: dict[str, tuple[dict[str, Any], str, str]] = {
    # name: (answers, --model, path of the URL)
    "plain": (models({"id": "m"}), "", ""),
    "with /v1": (models({"id": "m"}), "", "/v1"),
    "with a slash": (models({"id": "m"}), "", "/v1/"),
    "times as floats": (models({"id": "m", "created": 1.5}), "", ""),
    "cards without a type": (models({"id": "m", "created": None}), "", ""),
    "one card without a name": (models({"object": "model"}, {"id": "m"}), "", ""),
    "names with slashes": (models({"id": "org/team/m"}), "org/team/m", ""),
    "names with blanks": (models({"id": "my model (new)"}), "my model (new)", ""),
    "names in Unicode": (models({"id": "模型-β"}), "模型-β", ""),
    "200 models": (models(*({"id": f"m{n}"} for n in range(200))), "m199", ""),
    "no list, and a name": ({"POST /v1/chat/completions": (200, {}, ANSWER)}, "m", ""),
    "a prefix": (
        {"GET /openai/v1/models": (200, {}, LISTED), "POST /openai/v1/chat/completions": (200, {}, ANSWER)},
        "",
        "/openai/v1",
    ),
    "completions only": ({"GET /v1/models": (200, {}, LISTED), "POST /v1/completions": (200, {}, {"choices": []})}, "", ""),
    "embeddings only": ({"GET /v1/models": (200, {}, LISTED), "POST /v1/embeddings": (200, {}, {"data": []})}, "", ""),
    "a model that breaks": (models({"id": "m"}, **{"POST /v1/chat/completions": (500, {}, {})}), "", ""),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_server_that_can_be_tested_is_accepted(name: str) -> None:
    answers, model, path = ACCEPTED[name]
    with Scripted(answers=answers).running() as port:
        contact(of(f"http://127.0.0.1:{port}{path}", model=model), None)


def closed_port() -> int:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        return int(line.getsockname()[1])


@contextmanager
def silent() -> Iterator[int]:
    """Accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextmanager
def full() -> Iterator[int]:
    """Drops every further connection, as a firewall does: its queue is full."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(8):
            line = stack.enter_context(socket.socket())
            line.setblocking(False)
            line.connect_ex(server.getsockname())
        yield server.getsockname()[1]


@contextmanager
def closing() -> Iterator[int]:
    """Closes every connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def live() -> None:
            server.settimeout(0.05)
            while not stop.is_set():
                try:
                    server.accept()[0].close()
                except TimeoutError:
                    continue

        thread = threading.Thread(target=live, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        stop.set()
        thread.join()


@contextmanager
def nobody() -> Iterator[int]:
    yield closed_port()


UNREACHED: dict[str, tuple[Callable[[], Any], str, str, str, float]] = {
    # name: (server, URL, what the message says, what to do, most seconds)
    "nobody listens": (nobody, "http://127.0.0.1:{}", "cannot be reached", "check the host and port", 2),
    "nobody listens for TLS": (nobody, "https://127.0.0.1:{}", "cannot be reached", "check the host and port", 2),
    "no such host": (nobody, "http://no-such-host.invalid:{}", "is not known", "check the host name", 10),
    "a black hole": (full, "http://127.0.0.1:{}", "no answer within 5 s", "check the host and port", 8),
    "no answer": (silent, "http://127.0.0.1:{}", "does not answer GET /v1/models within", "wait until the server", 13),
    "a closed connection": (closing, "http://127.0.0.1:{}", "does not answer GET /v1/models in HTTP", "https://", 3),
}


@pytest.mark.parametrize("name", UNREACHED)
def test_a_server_that_cannot_be_reached_is_said_in_time(name: str) -> None:
    serve, url, what, remedy, most_s = UNREACHED[name]
    with serve() as port:
        begun = time.monotonic()
        with pytest.raises(ErroredError) as caught:
            contact(of(url.format(port)), None)
        took_s = time.monotonic() - begun
    assert what in caught.value.message
    assert remedy in caught.value.remedy
    assert took_s < most_s


@pytest.mark.parametrize("make", [NewerLimitChatOnly, OneTemperatureChatOnly])
def test_a_server_that_wants_a_field_in_other_words_is_contacted(make: type[Double]) -> None:
    with running(make) as (url, _):
        contact(of(url), None)


class ChatIsTooMuch(Double):
    """Every chat is answered 429."""

    async def routed(self, request: Request, connection: Connection) -> Response | None:
        if request.path == "/v1/chat/completions":
            return self.error(429, "Too many requests", "requests")
        return await super().routed(request, connection)


def test_a_surface_that_is_always_refused_does_not_keep_the_other_one_from_being_tested() -> None:
    begun = time.monotonic()
    with running(ChatIsTooMuch) as (url, _):
        contact(of(url), None)
    assert time.monotonic() - begun < 20


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def test_a_certificate_that_is_not_trusted_names_the_option(authority: trustme.CA) -> None:
    scripted = Scripted(answers=models({"id": "m"}), tls=server_context(authority))
    with scripted.running() as port, pytest.raises(ErroredError, match="is not trusted") as caught:
        contact(of(f"https://127.0.0.1:{port}"), None)
    assert "--ca-file FILE" in caught.value.remedy
    assert "SSL_CERT_FILE" in caught.value.remedy


def informal(folder: Path) -> tuple[Path, Path]:
    """Certificate of an authority that lacks the key usage of one, and a certificate by it with its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    issuer, subject = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("authority", "server"))
    identity = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    begun, end = now - dt.timedelta(1), now + dt.timedelta(1)
    root = x509.CertificateBuilder(issuer, issuer, key.public_key(), 1, begun, end)
    root = root.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    root = root.add_extension(identity, critical=False)
    leaf = x509.CertificateBuilder(issuer, subject, key.public_key(), 2, begun, end).add_extension(address, critical=False)
    leaf = leaf.add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identity), critical=False)
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    trusted, own = folder / "authority.pem", folder / "server.pem"
    trusted.write_bytes(root.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    own.write_bytes(plain + leaf.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    return trusted, own


def test_an_authority_without_the_key_usage_of_one_is_trusted_if_it_is_given(tmp_path: Path) -> None:
    """`openssl req -x509` makes such authorities, and curl and browsers accept them."""
    trusted, own = informal(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(own)
    with Scripted(answers=models({"id": "m"}), tls=tls).running() as port:
        contact(of(f"https://127.0.0.1:{port}"), trusted)


def test_a_certificate_for_another_name_is_not_trusted(authority: trustme.CA, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    tls = server_context(authority, "other.example")
    with Scripted(answers=models({"id": "m"}), tls=tls).running() as port, pytest.raises(ErroredError, match="is not trusted"):
        contact(of(f"https://127.0.0.1:{port}"), file)


def test_the_authorities_of_the_option_and_of_the_variable_are_trusted(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    with Scripted(answers=models({"id": "m"}), tls=server_context(authority)).running() as port:
        contact(of(f"https://127.0.0.1:{port}/v1"), file)
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        contact(of(f"https://127.0.0.1:{port}"), None)


def test_a_file_without_certificates_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("nothing")
    with pytest.raises(UsageError, match="cannot be read"):
        contact(of("https://127.0.0.1:9"), tmp_path / "x")


def test_plain_http_on_a_port_with_tls_and_the_reverse_name_the_other(authority: trustme.CA) -> None:
    scripted = Scripted(answers=models({"id": "m"}), tls=server_context(authority))
    with scripted.running() as port, pytest.raises(ErroredError) as caught:
        contact(of(f"http://127.0.0.1:{port}"), None)
    assert "https://" in caught.value.remedy
    with Scripted(answers=models({"id": "m"})).running() as port, pytest.raises(ErroredError) as caught:
        contact(of(f"https://127.0.0.1:{port}"), None)
    assert "http://" in caught.value.remedy


def test_a_rate_limit_is_waited_for_and_then_inconclusive() -> None:
    limited = {"GET /v1/models": (429, {"retry-after": "600"}, {"error": "slow down"})}
    with Scripted(answers=limited).running() as port, pytest.raises(InconclusiveError, match="Retry-After: 600"):
        contact(of(f"http://127.0.0.1:{port}"), None)


def command(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "VLLM_CI_HOME": str(folder / "home"), "NO_COLOR": "1", **environment}
    argv = [sys.executable, "-m", "vllm_ci", "test", "--engine", "host", "--report-dir", str(folder / "reports"), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, cwd=folder, env=env, timeout=120, check=False)


def test_the_command_ends_with_one_message_and_a_report(tmp_path: Path) -> None:
    done = command(tmp_path, "--url", f"http://127.0.0.1:{closed_port()}/v1", "--json")
    assert done.returncode == 3
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["vllm-ci:", "do:"]
    result = json.loads(done.stdout)
    assert result["verdict"] == "errored"
    assert Path(result["report_dir"], "junit.xml").is_file()


def test_the_command_says_that_the_key_is_wrong(tmp_path: Path) -> None:
    with running(lambda: Double(key="right")) as (url, _):
        done = command(tmp_path, "--url", f"{url}/v1", "--api-key-env", KEY, **{KEY: "wrong"})
    assert done.returncode == 3
    assert "refuses the API key" in done.stderr
    assert "wrong" not in done.stderr
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.slow
def test_a_stage_trusts_the_authorities_of_the_command(authority: trustme.CA, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    with Scripted(answers=models({"id": "m"}), tls=server_context(authority)).running() as port:
        done = command(
            tmp_path, "--url", f"https://127.0.0.1:{port}/v1/", "--ca-file", str(file), "--stage", "integration", "--json"
        )
    result = json.loads(done.stdout)
    assert result["stages"][0]["cases"]["passed"] > 0, done.stderr
    said = json.dumps(result)
    assert "certificate" not in said
    assert "CERTIFICATE" not in said
