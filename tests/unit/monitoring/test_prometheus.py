"""The client of Prometheus, against servers that answer well and badly."""

from __future__ import annotations

import http.server
import json
from typing import Any

import pytest

from unit.monitoring.programs import free_port, serving
from vllm_ci.domain.errors import ErroredError, UsageError
from vllm_ci.monitoring.prometheus import Prometheus


def asked(body: Any, status: int = 200, *, seen: list[str] | None = None, token: str = "") -> dict[float, float]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            if seen is not None:
                seen.append(self.headers.get("Authorization", ""))
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as url:
        return Prometheus(url=url, token=token, sleep=lambda _: None).series("up", start=0, end=60, step=60)


def matrix(*series: list[list[Any]]) -> dict[str, Any]:
    return {
        "status": "success",
        "data": {"resultType": "matrix", "result": [{"metric": {}, "values": each} for each in series]},
    }


def test_numbers_are_read_and_those_that_are_none_are_left_out() -> None:
    assert asked(matrix([[0, "1.5"], [60, "NaN"], [120, "+Inf"]])) == {0.0: 1.5}


def test_no_series_is_no_data() -> None:
    assert asked(matrix()) == {}


def test_several_series_are_refused() -> None:
    with pytest.raises(ErroredError, match="2 series"):
        asked(matrix([[0, "1"]], [[0, "2"]]))


def test_the_reason_of_a_refused_query_is_told() -> None:
    with pytest.raises(ErroredError, match="parse error at char 3"):
        asked({"status": "error", "errorType": "bad_data", "error": "parse error at char 3"}, 400)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"",
        b"[]",
        b"null",
        b'{"status": "success"}',
        b'{"status": "success", "data": {"resultType": "matrix"}}',
        b"\xff\xfe",
    ],
)
def test_answers_of_something_else_are_errors(body: bytes) -> None:
    with pytest.raises(ErroredError):
        asked(body)


@pytest.mark.parametrize("values", [[["x", "1"]], [[0]], [[0, "one"]], 5, [[0, None]]])
def test_malformed_values_are_errors(values: Any) -> None:
    with pytest.raises(ErroredError, match="cannot be read"):
        asked(matrix(values))


@pytest.mark.slow
def test_a_server_error_is_tried_again_and_then_told() -> None:
    seen: list[str] = []
    with pytest.raises(ErroredError, match="status 503"):
        asked(b"", 503, seen=seen)
    assert len(seen) == 3


def test_a_token_is_sent_and_a_refusal_names_the_setting() -> None:
    seen: list[str] = []
    with pytest.raises(ErroredError, match="token_env"):
        asked(b"", 401, seen=seen, token="t0ken")
    assert seen == ["Bearer t0ken"]


def test_a_server_that_is_not_there_is_an_error_that_names_it() -> None:
    with pytest.raises(ErroredError, match="cannot be reached"):
        Prometheus(url=f"http://127.0.0.1:{free_port()}", sleep=lambda _: None).series("up", start=0, end=1, step=1)


@pytest.mark.parametrize("url", ["", "localhost:9090", "ftp://host", "http://"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="not the URL"):
        Prometheus(url=url)


def test_the_token_is_in_no_representation() -> None:
    assert "t0ken" not in repr(Prometheus(url="http://h", token="t0ken"))
