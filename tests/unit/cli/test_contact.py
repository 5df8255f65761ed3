"""What a server may do at the first contact, and the one message that each ends with."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from doubles.legal_servers import NewerLimitChatOnly, OneTemperatureChatOnly
from doubles.running import running
from doubles.server import Double
from doubles.wire import Connection, Request, Response
from unit.cli.contacted import ANSWER, LISTED, Scripted, closed_port, command, html, models, of
from vllm_ci.cli.contact import contact
from vllm_ci.domain.errors import ErroredError, InconclusiveError

KEY = "LLM_TEST_KEY"

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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_surface_that_is_always_refused_does_not_keep_the_other_one_from_being_tested() -> None:
    begun = time.monotonic()
    with running(ChatIsTooMuch) as (url, _):
        contact(of(url), None)
    assert time.monotonic() - begun < 20


def test_a_rate_limit_is_waited_for_and_then_inconclusive() -> None:
    limited = {"GET /v1/models": (429, {"retry-after": "600"}, {"error": "slow down"})}
    with Scripted(answers=limited).running() as port, pytest.raises(InconclusiveError, match="Retry-After: 600"):
        contact(of(f"http://127.0.0.1:{port}"), None)


@pytest.mark.slow
def test_the_command_ends_with_one_message_and_a_report(tmp_path: Path) -> None:
    done = command(tmp_path, "--url", f"http://127.0.0.1:{closed_port()}/v1", "--json")
    assert done.returncode == 3
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["vllm-ci:", "do:"]
    result = json.loads(done.stdout)
    assert result["verdict"] == "errored"
    assert Path(result["report_dir"], "junit.xml").is_file()


@pytest.mark.parametrize("option", ["--ca-file", "--api-key-env"])
def test_options_for_a_server_are_refused_without_its_url(option: str, tmp_path: Path) -> None:
    (tmp_path / "given").touch()
    done = command(tmp_path, option, "given")
    assert done.returncode == 2
    assert f"{option} has no effect here" in done.stderr


@pytest.mark.slow
def test_the_command_says_that_the_key_is_wrong(tmp_path: Path) -> None:
    with running(lambda: Double(key="right")) as (url, _):
        done = command(tmp_path, "--url", f"{url}/v1", "--api-key-env", KEY, **{KEY: "wrong"})
    assert done.returncode == 3
    assert "refuses the API key" in done.stderr
    assert "wrong" not in done.stderr
    assert len(done.stderr.splitlines()) == 2
