"""The comment on a pull or merge request: one, replaced in place, never for a fork; a failing API changes no verdict."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vllm_ci
from unit.ci.forge import TOKEN, Forge, forge
from unit.report.pages import report
from vllm_ci.ci import comments
from vllm_ci.domain.report import Report
from vllm_ci.report import folder

pytestmark = pytest.mark.slow

PROVIDERS = ("github", "gitlab")


@pytest.fixture
def api() -> Iterator[Forge]:
    with forge() as made:
        yield made


def environment(provider: str, tmp_path: Path, api: Forge, **variables: str) -> dict[str, str]:
    """A run for pull request 7 of a branch of the same repository."""
    if provider == "gitlab":
        named = {"GITLAB_CI": "true", "CI_PIPELINE_SOURCE": "merge_request_event", "CI_API_V4_URL": api.url}
        projects = dict.fromkeys(("CI_MERGE_REQUEST_SOURCE_PROJECT_ID", "CI_MERGE_REQUEST_PROJECT_ID"), "1")
        return {**named, **projects, "CI_MERGE_REQUEST_IID": "7", "GITLAB_TOKEN": TOKEN, **variables}
    event = tmp_path / "event.json"
    repository = {"repo": {"full_name": "team/serving"}}
    event.write_text(json.dumps({"pull_request": {"number": 7, "head": repository, "base": repository}}))
    named = {"GITHUB_ACTIONS": "true", "GITHUB_EVENT_NAME": "pull_request", "GITHUB_EVENT_PATH": str(event)}
    about = {"GITHUB_REPOSITORY": "team/serving", "GITHUB_REF": "refs/pull/7/merge", "GITHUB_API_URL": api.url}
    return {**named, **about, "GITHUB_TOKEN": TOKEN, **variables}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_first_run_comments_and_later_ones_replace_it(provider: str, tmp_path: Path, api: Forge) -> None:
    for number in range(120):  # more than a page
        api.add(f"an opinion {number}", bot=False, author=9)
    found = comments.thread(environment(provider, tmp_path, api))
    address = comments.write(found, "first")
    assert comments.write(found, "second") == address == "https://forge.example.com/comment/220"
    assert api.bodies[120:] == ["<!-- vllm-ci:vllm-ci -->\nsecond"]
    comments.write(found, "another image", "cuda")
    assert len(api.comments) == 122, "a run with another name has a comment of its own"


@pytest.mark.parametrize(("provider", "of_job"), [("github", False), ("github", True), ("gitlab", False)])
def test_a_comment_of_somebody_else_with_our_marker_stays_as_it_is(
    provider: str, of_job: bool, tmp_path: Path, api: Forge
) -> None:
    """Also that of a member, whose comments the token may change."""
    api.of_job = of_job
    forged = "<!-- vllm-ci:vllm-ci -->\npassed, trust me"
    api.add(forged, bot=False, author=9)
    for text in ("failed", "failed again"):
        comments.write(comments.thread(environment(provider, tmp_path, api)), text)
    assert api.bodies == [forged, "<!-- vllm-ci:vllm-ci -->\nfailed again"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_comment_of_the_user_of_the_token_is_replaced(provider: str, tmp_path: Path, api: Forge) -> None:
    api.add("<!-- vllm-ci:vllm-ci -->\nfirst", bot=False, author=5)
    comments.write(comments.thread(environment(provider, tmp_path, api)), "second")
    assert api.bodies == ["<!-- vllm-ci:vllm-ci -->\nsecond"]


@pytest.mark.parametrize(("provider", "number"), [("github", "GITHUB_RUN_ID"), ("gitlab", "CI_PIPELINE_ID")])
def test_a_run_that_ends_after_a_later_one_does_not_replace_its_comment(
    provider: str, number: str, tmp_path: Path, api: Forge
) -> None:
    earlier, later = (comments.thread(environment(provider, tmp_path, api, **{number: run})) for run in ("999", "1000"))
    comments.write(earlier, "first")
    comments.write(later, "second")
    with pytest.raises(comments.NotPossible, match="a later run has commented already"):
        comments.write(earlier, "first, again")
    comments.write(later, "second, again")
    comments.write(comments.thread(environment(provider, tmp_path, api, **{number: "1001"})), "third")
    assert [body.rpartition("\n")[2] for body in api.bodies] == ["third"]


def test_a_comment_that_was_deleted_meanwhile_is_written_again(tmp_path: Path, api: Forge) -> None:
    found = comments.thread(environment("github", tmp_path, api))
    comments.write(found, "first")
    listed = json.dumps(api.comments).encode()
    api.comments.clear()
    api.answers.append((200, {}, listed))
    comments.write(found, "second")
    assert [body.partition("\n")[2] for body in api.bodies] == ["second"]


@pytest.mark.parametrize(
    ("provider", "variables"),
    [
        ("gitlab", {"CI_MERGE_REQUEST_SOURCE_PROJECT_ID": "2"}),
        ("gitlab", {"CI_MERGE_REQUEST_SOURCE_PROJECT_ID": ""}),
        ("gitlab", {"GITLAB_TOKEN": ""}),
        ("gitlab", {"CI_MERGE_REQUEST_IID": "7/../../8"}),
        ("gitlab", {"CI_API_V4_URL": "http://gitlab.example.com/api/v4"}),
        ("gitlab", {"CI_API_V4_URL": "http://[::1"}),
        ("github", {"GITHUB_EVENT_PATH": "/does/not/exist"}),
        ("github", {"GITHUB_TOKEN": ""}),
        ("github", {"GITHUB_TOKEN": "a\nX-Other: b"}),
        ("github", {"GITHUB_EVENT_NAME": "push", "GITHUB_REF": "refs/heads/main", "GITHUB_EVENT_PATH": ""}),
        ("github", {"GITHUB_ACTIONS": "", "JENKINS_URL": "https://jenkins.example.com/", "CHANGE_ID": "7"}),
        ("github", {"GITHUB_ACTIONS": ""}),
    ],
)
def test_nothing_is_sent_for_forks_without_a_token_or_without_tls(
    provider: str, variables: dict[str, str], tmp_path: Path, api: Forge
) -> None:
    with pytest.raises(comments.NotPossible):
        comments.thread(environment(provider, tmp_path, api, **variables))
    assert api.asked == []


def test_github_s_event_of_a_fork_gets_no_comment(tmp_path: Path, api: Forge) -> None:
    env = environment("github", tmp_path, api)
    head, base = ({"repo": {"full_name": name}} for name in ("eve/serving", "team/serving"))
    (tmp_path / "event.json").write_text(json.dumps({"pull_request": {"number": 7, "head": head, "base": base}}))
    with pytest.raises(comments.NotPossible, match="from a fork"):
        comments.thread(env)


REFUSALS = {
    "a bad token": ((401, {}, b'{"message": "Bad credentials"}'), "401: Bad credentials; is the token still valid"),
    "a limit": ((429, {"Retry-After": "60"}, b"{}"), "retry after 60 s"),
    "GitHub's limit": ((403, {"X-RateLimit-Remaining": "0"}, b'{"message": "rate"}'), "limit of requests is reached"),
    "a missing permission": ((403, {}, b'{"message": "Resource not accessible by integration"}'), "may it write comments"),
    "an error page": ((502, {}, b"<html>::error::x</html>"), "502: Bad Gateway"),
    "a redirect": ((302, {"Location": "http://127.0.0.1:1/steal"}, b""), "302"),
    "no list": ((200, {}, b'{"a": 1}'), "list of comments"),
    "no JSON": ((200, {}, b"hello"), "JSON"),
    "a list of other things": ((200, {}, b'["x", 1, null, {"body": 5}]'), ""),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_an_api_that_refuses_is_a_reason_and_no_crash(case: str, tmp_path: Path, api: Forge) -> None:
    answer, said = REFUSALS[case]
    api.answers.append(answer)
    found = comments.thread(environment("github", tmp_path, api))
    if not said:
        comments.write(found, "text")
        assert len(api.comments) == 1
        return
    with pytest.raises(comments.NotPossible, match=said):
        comments.write(found, "text")
    assert len(api.asked) == 1
    assert api.comments == []


def test_a_long_text_is_cut_off_where_a_line_ends(tmp_path: Path, api: Forge) -> None:
    comments.write(comments.thread(environment("github", tmp_path, api)), "one line of many\n" * 10_000)
    (body,) = api.bodies
    assert len(body) < 65_536
    assert body.endswith("one line of many\n\nCut off here: the report has the rest.\n")


def written(tmp_path: Path, name: str, made: Report) -> Path:
    return folder.write(tmp_path / name, made, {})


def call(tmp_path: Path, env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GITHUB_", "GITLAB_", "CI", "VLLM_CI_"))}
    python = {"PYTHONPATH": str(Path(vllm_ci.__file__).parents[1]), "VLLM_CI_HOME": str(tmp_path / "home")}
    return subprocess.run(
        [sys.executable, "-m", "vllm_ci", "report", "comment", *arguments],
        cwd=tmp_path,
        env={**kept, **python, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_command_says_the_verdict_and_what_is_new_against_the_base(tmp_path: Path, api: Forge) -> None:
    env = environment("github", tmp_path, api, GITHUB_SERVER_URL="https://github.com", GITHUB_RUN_ID="99")
    base, made = written(tmp_path, "base", report(2)), written(tmp_path, "new", report(60))
    done = call(tmp_path, {**env, "VLLM_CI_BASE_REPORT": str(base)}, str(made))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "commented: https://forge.example.com/comment/100\n"
    (body,) = api.bodies
    assert "vllm-ci: failed, 2 of 61 cases failed" in body
    assert "**New failures** (2)" in body
    assert "(<https://github.com/team/serving/actions/runs/99>)" in body


def test_a_bad_token_is_a_warning_that_does_not_show_it_and_exit_code_0(tmp_path: Path, api: Forge) -> None:
    env = environment("github", tmp_path, api, VLLM_CI_COMMENT_TOKEN="an-0ld-token")
    done = call(tmp_path, {**env, "VLLM_CI_BASE_REPORT": ""}, str(written(tmp_path, "new", report(3))))
    assert done.returncode == 0
    assert "no comment was written: 127.0.0.1 answered 401: Bad credentials" in done.stderr
    assert "0ld" not in done.stdout + done.stderr
    missing = call(tmp_path, env, str(tmp_path / "nothing"))
    assert missing.returncode == 2
    assert "there is no report" in missing.stderr


def test_a_base_that_is_no_report_is_said_in_the_comment(tmp_path: Path, api: Forge) -> None:
    made = written(tmp_path, "new", report(3))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "report.json").write_text("{}")
    for base in ("broken", "not-there"):
        done = call(tmp_path, environment("gitlab", tmp_path, api), str(made), "--base-report", base)
        assert done.returncode == 0, done.stderr
        assert ("No comparison with the base" in api.bodies[0]) == (base == "broken")
    assert len(api.comments) == 1
