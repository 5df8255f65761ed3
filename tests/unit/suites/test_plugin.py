"""The plugin as users meet it: its options, its fixtures, and what it does with a server that lacks something."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from doubles.legal import Plain
from doubles.running import running
from doubles.server import Double
from doubles.wire import Response, as_json

pytestmark = pytest.mark.slow

pytest_plugins = "pytester"


@pytest.fixture
def url() -> Iterator[str]:
    with running(Double) as (found, _):
        yield found


@pytest.fixture
def plain_url() -> Iterator[str]:
    with running(Plain) as (found, _):
        yield found


def ran(pytester: pytest.Pytester, source: str, *arguments: str) -> tuple[dict[str, str], dict[str, Any], pytest.RunResult]:
    """Status of every case, the whole report, and pytest's own result."""
    pytester.makepyfile(test_mine=source)
    options = ("-p", "vllm_ci.suites.plugin", "-p", "no:xdist", "--vllm-report", "out", "-W", "ignore::pytest.PytestWarning")
    result = pytester.runpytest(*options, *arguments)
    path = pytester.path / "out/cases.json"
    document: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"cases": []}
    return {case["name"].partition("::test_")[2]: case["status"] for case in document["cases"]}, document, result


def test_a_users_own_tests_get_the_same_fixtures(pytester: pytest.Pytester, url: str) -> None:
    found, document, _ = ran(
        pytester,
        """
        def test_server(server): assert server.can("chat") and server.max_model_len == 2048
        def test_client(client): assert client.chat("hello", max_tokens=2)["usage"]["completion_tokens"] == 2
        def test_sse(sse, server):
            stream = sse.stream("/v1/completions", {"model": server.model, "prompt": "x", "max_tokens": 3, "ignore_eos": True})
            assert stream.complete
        def test_canary(canary): assert canary() != canary()
        def test_metric(metric): metric("answer_tokens", 3)
        """,
        "--base-url",
        url,
    )
    assert found == dict.fromkeys(("server", "client", "sse", "canary", "metric"), "passed")
    assert document["session"]["server"]["double"] is True
    assert len(json.loads((pytester.path / "out/canaries.json").read_text())) == 2


def test_a_missing_capability_is_a_skip_with_the_reason(pytester: pytest.Pytester, plain_url: str) -> None:
    source = """
        import pytest

        @pytest.mark.requires_capability("chat", "tools")
        def test_tools(client): assert False

        @pytest.mark.requires_capability("chat")
        def test_chat(client): pass
        """
    found, document, _ = ran(pytester, source, "--base-url", plain_url)
    assert found == {"tools": "skipped", "chat": "passed"}
    assert "lacks tools" in document["cases"][0]["message"]
    assert "tools is not supported here" in document["cases"][0]["message"]


def test_a_missing_capability_that_the_profile_requires_is_a_failure(pytester: pytest.Pytester, plain_url: str) -> None:
    source = """
        import pytest
        pytestmark = pytest.mark.requires_capability("tools")
        @pytest.fixture(scope="module")
        def called(client): return client.must("/no-such-route", {})
        def test_tools(called): pass
        """
    found, document, result = ran(pytester, source, "--base-url", plain_url, "--vllm-require", "chat,tools")
    assert found == {"tools": "failed"}
    assert "required, but the server lacks tools" in document["cases"][0]["message"]
    assert result.ret == 1


def test_an_unknown_capability_is_refused(pytester: pytest.Pytester, url: str) -> None:
    _, _, result = ran(pytester, "def test_x(): pass", "--base-url", url, "--vllm-require", "tolls")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*unknown*tolls*"])
    found, _, _ = ran(
        pytester,
        "import pytest\n@pytest.mark.requires_capability('tolls')\ndef test_x(): pass",
        "--base-url",
        url,
    )
    assert found == {"x": "errored"}


def test_a_server_that_is_not_there_is_an_error_not_a_failure(pytester: pytest.Pytester) -> None:
    found, document, _ = ran(pytester, "def test_x(client): pass", "--base-url", "http://127.0.0.1:9")
    assert found == {"x": "errored"}
    assert "cannot be reached" in document["cases"][0]["message"]


def test_each_case_of_a_server_that_is_not_there_shows_the_error_once(pytester: pytest.Pytester) -> None:
    source = "import pytest\n@pytest.mark.parametrize('number', range(30))\ndef test_asks(server, number): pass"
    found, document, _ = ran(pytester, source, "--base-url", "http://127.0.0.1:9")
    assert set(found.values()) == {"errored"}
    lengths = [len(case["details"]) for case in document["cases"]]
    assert len(lengths) == 30
    assert max(lengths[1:]) <= lengths[0]


def test_a_model_that_is_not_listed_is_an_error(pytester: pytest.Pytester, url: str) -> None:
    found, document, _ = ran(pytester, "def test_x(client): pass", "--base-url", url, "--vllm-model", "other")
    assert found == {"x": "errored"}
    assert "no model 'other'" in document["cases"][0]["message"]


def test_the_key_is_named_by_its_variable_and_shows_nowhere(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "key-that-nobody-may-see")
    with running(lambda: Double(key="key-that-nobody-may-see")) as (url, _):
        source = """
            def test_in(client): assert client.chat("hello", max_tokens=1)
            def test_shown(api_key): assert api_key == "x", f"the key is {api_key}"
            """
        arguments = ("--base-url", url, "--vllm-api-key-env", "MY_KEY", "--junitxml", "j.xml")
        found, _, result = ran(pytester, source, *arguments)
    assert found == {"in": "passed", "shown": "failed"}
    written = "".join((pytester.path / name).read_text() for name in ("out/cases.json", "out/cases.jsonl", "j.xml"))
    assert "key-that-nobody" not in written + result.stdout.str()


def test_a_key_that_is_not_set_is_refused(pytester: pytest.Pytester, url: str) -> None:
    _, _, result = ran(pytester, "def test_x(): pass", "--base-url", url, "--vllm-api-key-env", "NO_SUCH_VARIABLE")
    assert result.ret == pytest.ExitCode.USAGE_ERROR


FINDING = """
    from vllm_ci.suites.findings import Finding
    def test_x(judge): judge([Finding(id="a:b", severity="high", message="m")])
    """


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("", "failed"),
        ("- {id: 'a:b', reason: r, until: 2099-01-01}", "passed"),
        ("- {id: 'a:b', reason: r, until: 2020-01-01}", "failed"),
        ("- {id: 'a:c', reason: r, until: 2099-01-01}", "failed"),
    ],
)
def test_accepted_findings_are_read_from_a_file(pytester: pytest.Pytester, text: str, status: str) -> None:
    Path(pytester.path / "accept.yaml").write_text(text, encoding="utf-8")
    found, document, _ = ran(pytester, FINDING, "--vllm-accept", "accept.yaml")
    assert found == {"x": status}
    assert document["cases"][0]["properties"]["findings"] == [{"id": "a:b", "severity": "high", "message": "m"}]


def test_accepted_findings_may_be_given_as_json(pytester: pytest.Pytester) -> None:
    given = json.dumps([{"id": "a:b", "reason": "r", "until": "2099-01-01"}])
    assert ran(pytester, FINDING, "--vllm-accept", given)[0] == {"x": "passed"}


KNOWN = """
    from vllm_ci.suites.findings import Finding
    def test_x(server, judge): judge([Finding(id="open-route:POST /invocations", severity="high", message="is open")])
    """


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("- {known: vllm, until: 2099-01-01}", "passed"),
        ("- {known: vllm, until: 2020-01-01}", "failed"),
        ("- {known: vllm, up_to: medium, until: 2099-01-01}", "failed"),
        ("", "failed"),
    ],
)
def test_findings_that_are_known_of_the_version_that_the_server_reports_can_be_accepted(
    pytester: pytest.Pytester, url: str, text: str, status: str
) -> None:
    Path(pytester.path / "accept.yaml").write_text(text, encoding="utf-8")
    found, document, _ = ran(pytester, KNOWN, "--vllm-accept", "accept.yaml", "--base-url", url)
    (case,) = document["cases"]
    assert found == {"x": status}
    said = "known of vLLM 0.32.0, not fixed in any version known to this tool"
    assert case["properties"]["findings"][0]["known"] == said
    assert (said in case["message"]) is (status == "failed")


@pytest.mark.parametrize("version", ["", "9.9.9", "0.1.0", "latest"])
def test_nothing_is_known_of_a_server_with_another_version_or_without_one(pytester: pytest.Pytester, version: str) -> None:
    class Another(Double):
        def got(self, path: str) -> Response:
            return as_json({"version": version}) if path == "/version" else super().got(path)

    with running(Another) as (url, _):
        given = json.dumps([{"known": "vllm", "until": "2099-01-01"}])
        assert ran(pytester, KNOWN, "--vllm-accept", given, "--base-url", url)[0] == {"x": "failed"}


@pytest.mark.parametrize(
    "text",
    [
        *("{", "- {id: x}", "- 5", "- {id: x, reason: r, until: never}", "- {known: vllm}"),
        *("- {known: other, until: 2099-01-01}", "- {known: vllm, id: x, until: 2099-01-01}"),
        "- {known: vllm, up_to: critical, until: 2099-01-01}",
    ],
)
def test_a_list_that_cannot_be_read_does_not_pass_for_an_empty_one(pytester: pytest.Pytester, text: str) -> None:
    Path(pytester.path / "accept.yaml").write_text(text, encoding="utf-8")
    assert ran(pytester, FINDING, "--vllm-accept", "accept.yaml")[2].ret == pytest.ExitCode.USAGE_ERROR
    assert ran(pytester, FINDING, "--vllm-accept", "nowhere.yaml")[2].ret == pytest.ExitCode.USAGE_ERROR
