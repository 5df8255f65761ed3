"""Small parts of the suites: the text format of metrics, routes and the ways to spell them, requests as given, certificates."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import trustme

from vllm_ci.domain.stage import SEVERITIES
from vllm_ci.suites.findings import Finding
from vllm_ci.suites.metrics import parse
from vllm_ci.suites.raw import send
from vllm_ci.suites.security import test_image, test_transport
from vllm_ci.suites.security.hostile import ATTACKS
from vllm_ci.suites.security.routes import Route, catalogue, spellings
from vllm_ci.suites.security.ways import WAYS
from vllm_ci.suites.server import ServerFacts

SERVER = ServerFacts(
    url="",
    model="m",
    models=("m",),
    version="",
    routes={"/a": ("GET", "POST"), "/sleep": ("POST",)},
    absent={},
    max_model_len=0,
    double=True,
)


def test_metrics_are_summed_over_labels() -> None:
    text = """
# HELP x:y_total Something.
# TYPE x:y_total counter
x:y_total{engine="0",reason="stop"} 3.0
x:y_total{engine="1",reason="le\\"ngth, }"} 4 1700000000
plain 5e-1
nothing NaN
"""
    samples = parse(text)
    assert samples.total("x:y_total") == 7
    assert samples.total("x:y_total", engine="1") == 4
    assert samples.total("plain") == 0.5
    assert samples.total("absent") == 0
    assert "plain" in samples
    assert "absent" not in samples


def test_what_is_no_metric_is_refused() -> None:
    with pytest.raises(ValueError, match="not a sample"):
        parse("<html>")


def test_the_catalogue_of_routes_is_sound() -> None:
    known = catalogue()
    for name, entry in known.open.items():
        assert entry["severity"] is None or entry["severity"] in SEVERITIES, name
        assert entry["why"], name
    for name in (*known.open, *known.unlisted, *known.always):
        method, _, path = name.partition(" ")
        assert method in ("GET", "POST"), name
        assert path.startswith("/"), name
    assert not {way.path for way in WAYS} & set(known.development)


def test_routes_that_change_a_server_are_never_called() -> None:
    routes = catalogue().routes(SERVER)
    assert Route(method="POST", path="/a") in routes
    assert all(route.path != "/sleep" for route in routes)


def test_an_open_route_that_nobody_listed_is_a_high_finding() -> None:
    found = catalogue().finding(Route(method="GET", path="/admin"), "200 {}")
    assert found is not None
    assert found.id == "open-route:GET /admin"
    assert found.severity == "high"
    assert catalogue().finding(Route(method="GET", path="/health"), "200 {}") is None


def test_parameters_of_a_path_get_a_value() -> None:
    assert Route(method="GET", path="/v1/responses/{response_id}/cancel").target == "/v1/responses/none/cancel"


def test_spellings_are_many_and_none_is_the_path_itself() -> None:
    for path in ("/v1/models", "/sleep"):
        found = list(spellings(path))
        assert len(found) == len(set(found)) >= 12
        assert path not in found


def test_attacks_have_names_of_their_own_and_make_bytes() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(set(names)) == len(names) >= 40
    small = [
        attack for attack in ATTACKS if attack.name in ("huge-n", "deep-json", "five-thousand-digits", "lone-surrogate-model")
    ]
    assert all(isinstance(attack.make("m", chat), bytes) for attack in small for chat in (True, False))


class Echo(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"{self.requestline}|{self.headers.get('X-Y')}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def served(context: ssl.SSLContext | None = None) -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Echo)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http{'s' if context else ''}://localhost:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.slow
def test_a_request_goes_out_exactly_as_given() -> None:
    with served() as url:
        answer = send(url, "//a/../b%2f;x?y", headers={"X-Y": "z"})
    assert answer.status == 200
    assert answer.body == b"GET //a/../b%2f;x?y HTTP/1.1|z"


def verdict_of(case: object, server: ServerFacts) -> list[str]:
    found: list[str] = []

    def judge(findings: Iterator[Finding]) -> None:
        found.extend(finding.id for finding in findings)

    case(server, judge)  # type: ignore[operator]
    return found


@pytest.mark.slow
def test_a_certificate_that_nobody_trusts_is_a_finding() -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with served(context) as url:
        server = replace(SERVER, url=url)
        assert verdict_of(test_transport.test_the_certificate_holds, server) == ["bad-certificate"]


@pytest.mark.slow
def test_a_certificate_that_ends_soon_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datetime as dt

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(days=2)
    authority.issue_cert("localhost", not_after=soon).configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    with served(context) as url:
        assert verdict_of(test_transport.test_the_certificate_holds, replace(SERVER, url=url)) == ["certificate-ends-soon"]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8000", []),
        ("http://localhost:8000", []),
        ("http://vllm:8000", []),
        ("http://[::1]:8000", []),
        ("https://models.example", []),
        ("http://models.example", ["plain-http"]),
        ("http://10.0.0.7:8000", ["plain-http"]),
    ],
)
def test_plain_http_to_another_machine_is_a_finding(url: str, expected: list[str]) -> None:
    assert verdict_of(test_transport.test_plain_http_stays_on_the_machine, replace(SERVER, url=url)) == expected


GOOD = {
    "config": {"User": "2000:0", "Env": ["PATH=/usr/bin"], "Labels": {"org.opencontainers.image.revision": "a" * 40}},
    "history": [{"created_by": "vllm-ci torch"}],
}


@pytest.mark.parametrize(
    ("config", "case", "expected"),
    [
        (GOOD, "it_does_not_run_as_root", []),
        (GOOD, "its_environment_holds_no_secret", []),
        (GOOD, "its_history_holds_no_secret", []),
        (GOOD, "it_says_which_commit_it_was_built_from", []),
        ({}, "it_does_not_run_as_root", ["runs-as-root"]),
        ({"config": {"User": "0:0"}}, "it_does_not_run_as_root", ["runs-as-root"]),
        ({"config": {"Env": ["API_TOKEN=x"]}}, "its_environment_holds_no_secret", ["secret-in-env:API_TOKEN"]),
        ({"config": {"Env": ["X=hf_" + "a" * 30]}}, "its_environment_holds_no_secret", ["secret-in-env:X"]),
        ({"history": [{"created_by": "ghp_" + "a" * 30}]}, "its_history_holds_no_secret", ["secret-in-history:0"]),
        ({"config": {"Labels": {}}}, "it_says_which_commit_it_was_built_from", ["no-revision"]),
    ],
)
def test_facts_of_an_image_are_judged(config: dict[str, object], case: str, expected: list[str]) -> None:
    found: list[str] = []
    getattr(test_image, f"test_{case}")(config, lambda findings: found.extend(each.id for each in findings))
    assert found == expected


def test_the_value_of_a_label_may_contain_any_character() -> None:
    assert parse('x{model="one\u2028two\x85three"} 3\n').total("x") == 3
