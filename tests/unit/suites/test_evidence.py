"""What proves entry, what an error shows, what a log shows, and which versions of TLS a server speaks."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from vllm_ci.suites import leaks
from vllm_ci.suites.raw import RawResponse
from vllm_ci.suites.security import details, evidence, handshakes

JSON, HTML, EVENTS = "application/json", "text/html; charset=utf-8", "text/event-stream"


def answer(status: int, body: object, kind: str = JSON) -> RawResponse:
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return RawResponse(status=status, body=raw, headers={"content-type": kind})


@pytest.mark.parametrize(
    ("found", "shows", "expected"),
    [
        (answer(200, {"choices": [{"text": ""}]}), ("choices",), True),
        (answer(201, {"data": [1]}), ("data",), True),
        (answer(200, 'data: {"choices": [{"delta": {}}]}\n\ndata: [DONE]\n\n', EVENTS), ("choices",), True),
        (answer(200, 'data: {"error": {"code": 401}}\n\n', EVENTS), ("choices",), False),
        (answer(200, {"choices": []}), ("choices",), False),
        (answer(200, {"error": {"message": "no key"}, "choices": [1]}), ("choices",), False),
        (answer(200, {"object": "error", "data": [1]}), ("data",), False),
        (answer(200, "<html>choices</html>", HTML), ("choices",), False),
        (answer(200, ""), ("choices",), False),
        (answer(200, {"status": "ok"}), ("choices",), False),
        (answer(204, {"choices": [1]}), ("choices",), False),
        (answer(302, {"choices": [1]}), ("choices",), False),
        (answer(401, {"choices": [1]}), ("choices",), False),
        (answer(422, {"detail": []}), ("detail",), False),
        (answer(429, {"choices": [1]}), ("choices",), False),
        (answer(500, {"choices": [1]}), ("choices",), False),
        (answer(200, '# TYPE a counter\na{b="c"} 1.0\n', "text/plain"), ("#metrics",), True),
        (answer(200, "Not logged in", "text/plain"), ("#metrics",), False),
        (answer(200, "<p>a 1</p>", HTML), ("#metrics",), False),
        (answer(200, "<div id=swagger-ui>", HTML), ("#page",), True),
        (answer(200, "<div id=app>", HTML), ("#page",), False),
        (answer(200, {"server_load": 0}), ("server_load",), True),
    ],
)
def test_only_content_proves_that_a_request_was_served(found: RawResponse, shows: tuple[str, ...], expected: bool) -> None:
    assert evidence.served(found, shows) is expected


def test_responses_that_differ_in_the_path_and_in_numbers_only_are_alike() -> None:
    one, other = (
        {"error": f"no route /{word}", "id": number, "trace": trace}
        for word, number, trace in (("sleep", 1, "0123456789ab"), ("f00", 22, "ba9876543210"))
    )
    assert evidence.alike(answer(404, one), answer(404, other), "sleep", "f00")
    assert not evidence.alike(answer(404, one), answer(405, other), "sleep", "f00")
    assert not evidence.alike(answer(404, one), answer(404, {"error": "Method Not Allowed"}), "sleep", "f00")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('Traceback (most recent call last):\n  File "x.py", line 1', "traceback"),
        ("at com.example.Router.route(Router.java:118)", "traceback"),
        ("Error: x\\n    at Object.<anonymous> (/srv/app/index.js:10:5)", "traceback"),
        ("goroutine 7 [running]:\nmain.go:5", "traceback"),
        ("thread 'main' panicked at src/main.rs:4:5", "traceback"),
        ("at App.Handler.Get() in C:\\src\\Handler.cs:line 12", "traceback"),
        ("#0 /var/www/index.php(12): run()", "traceback"),
        ("app/server.rb:12:in 'call'", "traceback"),
        ("cannot open /usr/lib/python3.12/json/decoder.py", "file-path"),
        ("in site-packages/vllm/engine.py", "file-path"),
        ("HF_TOKEN=x", "environment"),
    ],
)
def test_internals_in_an_error_are_found(text: str, kind: str) -> None:
    assert kind in details.shown(json.dumps({"error": text}), "")


@pytest.mark.parametrize(
    "text",
    [
        "The model `no-such-model` does not exist. (path /v1/models)",
        "Invalid value at body.messages.0.content: see https://docs.example/app/errors/400",
        "1 validation error:\n  {'type': 'missing', 'loc': ('body', 'messages')}",
        "This model's maximum context length is 2048 tokens. at most 5:3 in choice 1/2",
        "usage: and/or, home/work",
    ],
)
def test_ordinary_errors_show_nothing(text: str) -> None:
    assert details.shown(text, "") == {}


def test_what_was_sent_and_names_of_models_are_no_internals() -> None:
    text = "no such file /etc/passwd; the model is /srv/models/llama"
    assert details.shown(text, "please open /etc/passwd", ["/srv/models/llama"]) == {}
    assert set(details.shown(text, "")) == {"file-path"}


@pytest.mark.parametrize(
    ("end", "found"),
    [("\n", True), ("\r\n", True), ("\r", True), ("\x0b", True), ("\\n", False), ("%0a", False), ("\u2028", False)],
)
def test_only_line_ends_that_a_terminal_follows_make_lines_of_a_log(end: str, found: bool) -> None:
    log = f"INFO model {leaks.forged('canary-1', end)}\nINFO next"
    assert [each.id for each in leaks.in_log(log, secrets={}, prompts=["canary-1"])] == (["log-injection"] if found else [])


def test_this_machine_can_offer_old_versions_or_says_why_not() -> None:
    for version in handshakes.OLD.values():
        assert isinstance(handshakes.untestable(version), str)


def test_a_control_that_fails_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshakes, "_CIPHERS", "TLS_AES_128_GCM_SHA256:@SECLEVEL=5")
    assert "cannot offer TLSv1" in handshakes.untestable(handshakes.OLD["TLSv1"])


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="the program openssl is not installed")


@needs_openssl
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("-tls1", "-cipher", "ALL:@SECLEVEL=0"), {"TLSv1"}),
        (("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"), {"TLSv1.1"}),
        (("-min_protocol", "TLSv1", "-cipher", "ALL:@SECLEVEL=0"), {"TLSv1", "TLSv1.1"}),
        (("-tls1_2",), set()),
        ((), set()),
    ],
)
def test_old_versions_of_tls_are_found_at_a_server_that_speaks_them(
    options: tuple[str, ...], expected: set[str], tmp_path: Path
) -> None:
    if reasons := list(filter(None, map(handshakes.untestable, handshakes.OLD.values()))):
        pytest.skip(reasons[0])
    with openssl_server(tmp_path, *options) as port:
        found = {name for name, version in handshakes.OLD.items() if handshakes.accepts("127.0.0.1", port, version)}
    assert found == expected


@contextmanager
def openssl_server(folder: Path, *options: str) -> Iterator[int]:
    certificate = trustme.CA().issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        port = line.getsockname()[1]
    argv = ["openssl", "s_server", "-accept", str(port), "-cert", str(folder / "server.pem"), "-quiet", *options]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(200):
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.05)
            yield port
        finally:
            process.kill()
