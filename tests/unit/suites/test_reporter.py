from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vllm_ci.suites.plugins.reporter import case_name

pytest_plugins = "pytester"


def report(
    pytester: pytest.Pytester, source: str, *arguments: str, name: str = "test_it"
) -> tuple[dict[str, Any], pytest.RunResult]:
    pytester.makepyfile(**{name: source})
    result = pytester.runpytest("-p", "vllm_ci.suites.plugins.reporter", "-p", "no:xdist", "--vllm-report", "out", *arguments)
    document: dict[str, Any] = json.loads((pytester.path / "out/cases.json").read_text())
    return document, result


def statuses(document: dict[str, Any]) -> dict[str, str]:
    return {case["name"].partition("::")[2]: case["status"] for case in document["cases"]}


def test_tells_failures_from_errors_and_skips_from_passes(pytester: pytest.Pytester) -> None:
    document, result = report(
        pytester,
        """
        import pytest
        from vllm_ci.suites.verdicts import Errored, inconclusive

        @pytest.fixture
        def broken_setup():
            raise RuntimeError("no server")

        @pytest.fixture
        def broken_teardown():
            yield
            raise RuntimeError("left over")

        @pytest.fixture
        def verdict_in_setup():
            pytest.fail("required, but absent")

        def test_passes(): pass
        def test_decided_before_the_call(verdict_in_setup): pass
        def test_fails(): assert 1 == 2, "one is not two"
        def test_raises(): {}["missing"]
        def test_setup(broken_setup): pass
        def test_teardown(broken_teardown): pass
        def test_client_broke(): raise Errored("recorder")
        def test_noise(): inconclusive("too noisy")
        @pytest.mark.skip(reason="no GPU")
        def test_skips(): pass
        @pytest.mark.xfail(reason="known")
        def test_known(): assert False
        @pytest.mark.xfail(strict=True)
        def test_unexpectedly_passes(): pass
        """,
    )
    assert statuses(document) == {
        "test_passes": "passed",
        "test_decided_before_the_call": "failed",
        "test_fails": "failed",
        "test_raises": "failed",
        "test_setup": "errored",
        "test_teardown": "errored",
        "test_client_broke": "errored",
        "test_noise": "inconclusive",
        "test_skips": "skipped",
        "test_known": "passed",
        "test_unexpectedly_passes": "failed",
    }
    messages = {case["name"].partition("::")[2]: case["message"] for case in document["cases"]}
    assert messages["test_fails"] == "one is not two"
    assert messages["test_raises"] == "KeyError: 'missing'"
    assert messages["test_setup"] == "RuntimeError: no server"
    assert messages["test_noise"] == "too noisy"
    assert messages["test_skips"] == "no GPU"
    assert document["format"] == 1
    assert document["collected"] == 11
    assert document["exit_status"] == 1
    assert result.ret == 1


def test_the_first_line_of_a_plain_assert_is_the_message(pytester: pytest.Pytester) -> None:
    document, _ = report(pytester, "def test_it():\n    assert [1] == [2]")
    assert document["cases"][0]["message"] == "assert [1] == [2]"
    assert "test_it.py" in document["cases"][0]["details"]


def test_no_tests_is_an_error_not_a_pass(pytester: pytest.Pytester) -> None:
    document, result = report(pytester, "x = 1")
    assert document["collected"] == 0
    assert [(case["status"], case["message"]) for case in document["cases"]] == [("errored", "no tests were collected")]
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.mark.slow
def test_a_file_that_does_not_import_is_an_error(pytester: pytest.Pytester) -> None:
    document, _ = report(pytester, "import nowhere_to_be_found")
    assert [case["status"] for case in document["cases"]] == ["errored"]
    assert "nowhere_to_be_found" in document["cases"][0]["message"]


def test_properties_become_metrics_and_facts_stay_with_the_session(pytester: pytest.Pytester) -> None:
    document, _ = report(
        pytester,
        """
        def test_it(metric, note):
            metric("ttft_ms", 12.5)
            metric("all_ms", (1, 2))
            metric("model", {"id": object})
            note("server", {"version": "0.32.0"})
        """,
        "--vllm-commit=" + "a" * 40,
        "--vllm-image-digest=sha256:" + "b" * 64,
    )
    properties = document["cases"][0]["properties"]
    assert properties["ttft_ms"] == 12.5
    assert properties["all_ms"] == [1, 2]
    assert document["session"] == {
        "commit": "a" * 40,
        "image_digest": "sha256:" + "b" * 64,
        "server": {"version": "0.32.0"},
    }


def test_junit_carries_the_commit_and_the_digest(pytester: pytest.Pytester) -> None:
    report(pytester, "def test_it(): pass", "--junitxml=j.xml", "--vllm-commit=" + "a" * 40, "--vllm-image-digest=sha256:bb")
    text = (pytester.path / "j.xml").read_text()
    assert f'<property name="commit" value="{"a" * 40}"' in text
    assert '<property name="image_digest" value="sha256:bb"' in text


def test_secrets_are_masked_everywhere(pytester: pytest.Pytester) -> None:
    document, result = report(
        pytester,
        """
        import pytest
        from vllm_ci.suites.plugins.stash import MASKS

        @pytest.fixture(autouse=True)
        def secret(request):
            request.config.stash[MASKS].append('s3"cret')

        def test_it(metric):
            print('key s3"cret printed')
            metric("header", 's3"cret')
            assert 's3"cret' == "x", 'got s3"cret'
        """,
        "--junitxml=j.xml",
    )
    assert document["cases"][0]["message"] == "got ***"
    for text in (
        (pytester.path / "out/cases.json").read_text(),
        (pytester.path / "out/cases.jsonl").read_text(),
        result.stdout.str(),
    ):
        assert "cret" not in text.replace("secret", "").replace("test_secrets", "")


@pytest.mark.slow
def test_the_case_that_was_running_is_known_when_the_run_is_killed(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it="import os\ndef test_one(): pass\ndef test_two(): os._exit(9)")
    result = pytester.runpytest_subprocess("-p", "vllm_ci.suites.plugins.reporter", "-p", "no:xdist", "--vllm-report", "out")
    assert result.ret == 9
    assert not (pytester.path / "out/cases.json").exists()
    lines = [json.loads(line) for line in (pytester.path / "out/cases.jsonl").read_text().splitlines()]
    assert lines[0] == {"collected": ["test_it.py::test_one", "test_it.py::test_two"]}
    assert lines[-1] == {"running": "test_it.py::test_two"}
    assert lines[2]["case"]["status"] == "passed"


@pytest.mark.slow
def test_an_old_report_does_not_stand_for_a_new_run(pytester: pytest.Pytester) -> None:
    (pytester.path / "out").mkdir()
    (pytester.path / "out/cases.json").write_text("{}")
    pytester.makepyfile(test_it="import os\ndef test_two(): os._exit(9)")
    pytester.runpytest_subprocess("-p", "vllm_ci.suites.plugins.reporter", "-p", "no:xdist", "--vllm-report", "out")
    assert not (pytester.path / "out/cases.json").exists()


@pytest.mark.slow
def test_works_with_workers(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it="def test_one(): pass\ndef test_two(): assert 0, 'no'\ndef test_three(): pass")
    pytester.runpytest_subprocess("-p", "vllm_ci.suites.plugins.reporter", "--vllm-report", "out", "-n", "2")
    document = json.loads((pytester.path / "out/cases.json").read_text())
    assert document["collected"] == 3
    assert statuses(document) == {"test_one": "passed", "test_two": "failed", "test_three": "passed"}


@pytest.mark.parametrize(
    ("nodeid", "location", "name"),
    [
        ("test_order.py::test_a", "../a/vllm_ci/suites/unit/test_order.py", "unit/test_order.py::test_a"),
        ("pipeline/vllm_ci/suites/streaming/test_order.py::test_a[x/y]", "", "streaming/test_order.py::test_a[x/y]"),
        ("../../opt/site-packages/vllm_ci/suites/unit/test_files.py::test_a", "", "unit/test_files.py::test_a"),
        ("vllm_ci/suites/unit/test_files.py::test_a", "", "unit/test_files.py::test_a"),
        ("tests/integration/test_mine.py::TestA::test_b", "", "tests/integration/test_mine.py::TestA::test_b"),
        ("../elsewhere/test_mine.py::test_b", "", "test_mine.py::test_b"),
    ],
)
def test_names_hold_no_path_of_the_machine(nodeid: str, location: str, name: str) -> None:
    assert case_name(nodeid, location) == name


@pytest.mark.slow
def test_needs_only_pytest_and_the_standard_library(pytester: pytest.Pytester) -> None:
    source = Path(__file__).parents[3] / "pipeline/vllm_ci/suites"
    script = pytester.makepyfile(
        look=f"""
        import sys
        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in ("httpx", "pydantic", "openai", "anyio", "click"):
                    raise ImportError(name)
        sys.meta_path.insert(0, Refuse())
        import vllm_ci.suites.plugins.reporter
        assert vllm_ci.suites.plugins.reporter.__file__.startswith({str(source)!r})
        assert "vllm_ci.domain" not in sys.modules
        """
    )
    assert pytester.runpython(script).ret == 0


@pytest.mark.slow
def test_the_cause_of_any_exception_is_recorded_and_a_fact_found_by_a_fixture_is_a_failure(pytester: pytest.Pytester) -> None:
    document, _ = report(
        pytester,
        """
        import pytest

        class BrokenError(AssertionError):
            cause = {"id": "stream-malformed", "title": "events are not JSON"}

        class OddError(Exception):
            cause = "text, as other libraries have it"

        @pytest.fixture(scope="module")
        def stream():
            raise BrokenError("half an object")

        def test_one(stream): pass
        def test_two(stream): pass
        def test_three(): raise BrokenError("half an object")
        def test_odd(): raise OddError("x")
        """,
    )
    assert set(statuses(document).values()) == {"failed"}
    causes = {case["name"].partition("::")[2]: case["properties"].get("cause") for case in document["cases"]}
    expected = {"id": "stream-malformed", "title": "events are not JSON"}
    assert causes == {"test_one": expected, "test_two": expected, "test_three": expected, "test_odd": None}
