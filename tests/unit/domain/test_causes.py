from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_ci.domain.causes import Cause, causes_of, headline, skips_of
from vllm_ci.domain.plain import one_line
from vllm_ci.domain.report import Case, CaseStatus, StageResult, Verdict, verdict_of

FAILED, ERRORED, INCONCLUSIVE = CaseStatus.FAILED, CaseStatus.ERRORED, CaseStatus.INCONCLUSIVE


def failed(*messages: str, status: CaseStatus = FAILED, **properties: object) -> list[Case]:
    """A case for each message."""
    return [
        Case(name=f"suite/test_a.py::test_{number}", status=status, message=message, properties=properties)
        for number, message in enumerate(messages)
    ]


def stage(*cases: Case, name: str = "suite", message: str = "") -> StageResult:
    return StageResult(name=name, verdict=verdict_of(cases)[0], seconds=1.0, cases=cases, message=message)


def sizes(causes: tuple[Cause, ...]) -> list[int]:
    return [cause.count for cause in causes]


@pytest.mark.parametrize(
    ("one", "other", "title"),
    [
        ("the first chunk came after 191 ms", "the first chunk came after 12.5 ms", "the first chunk came after … ms"),
        ("no answer within 30 s", "no answer within 60 s", "no answer within … s"),
        ("no word canary-0a1b2c3d4e5f6a7b", "no word canary-ffffffffffffffff", "no word …"),
        ("id chatcmpl-1f00ab12 came twice", "id chatcmpl-9cde01ff came twice", "id … came twice"),
        ("id 6f1c2a34-0d5e-4b7a-9c1d-3e2f1a0b4c5d", "id 00000000-0d5e-4b7a-9c1d-3e2f1a0b4c5d", "id …"),
        ("no http://127.0.0.1:41233 there", "no http://127.0.0.1:8000 there", "no http://… there"),
        ("no http://localhost:41233 there", "no http://localhost:8000 there", "no http://localhost:… there"),
        ("at 2026-11-26T20:14:42Z it ended", "at 2027-01-02 03:04:05.678+01:00 it ended", "at … it ended"),
        ("<Stream object at 0x7f01ab34cd>", "<Stream object at 0x7f9911bb00>", "<Stream object at …>"),
        ("12 of 12 streams failed", "400 of 500 streams failed", "… of … streams failed"),
        ("got 404 tokens", "got 200 tokens", "got … tokens"),
        (
            "POST /v1/chat/completions: 500 boom",
            "POST /v1/completions: 500 boom",
            "POST /v1/chat/completions or /v1/completions: 500 boom",
        ),
        ("spaces   differ", "spaces differ ", "spaces differ"),
    ],
)
def test_messages_that_differ_in_what_varies_are_one_cause(one: str, other: str, title: str) -> None:
    (cause,) = causes_of(failed(one, other))
    assert (cause.count, cause.title) == (2, title)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("POST /v1/models: answered 400", "POST /v1/models: answered 500"),
        ("expected 400, got 404", "expected 400, got 422"),
        ('{"error": {"message": "no", "code": 401}}', '{"error": {"message": "no", "code": 403}}'),
        ("the answer is {500}", "the answer is {503}"),
        ("Error code: 429 - slow down", "Error code: 529 - slow down"),
        ("ended with exit code 1", "ended with exit code 137"),
        ("was killed by signal 9", "was killed by signal 11"),
        ("[Errno 111] it broke", "[Errno 104] it broke"),
        ("ReadError: it broke", "ConnectError: it broke"),
        ("KeyError: 'object'", "KeyError: 'created'"),
        ("speaks TLS 1.0", "speaks TLS 1.1"),
        ("answers in HTTP/1.1", "answers in HTTP/2"),
        ("GET /metrics is missing", "GET /health is missing"),
        ("no usage", "no [DONE]"),
        ("first line\nsecond line a", "first line\nsecond line b"),
    ],
)
def test_messages_that_differ_in_substance_are_different_causes(one: str, other: str) -> None:
    assert sizes(causes_of(failed(one, other))) == [1, 1]


def test_parameters_of_a_case_in_its_message_make_no_difference() -> None:
    cases = [
        Case(name=f"suite/test_a.py::test_x[{name}]", status=FAILED, message=f"the field {name} is ignored")
        for name in ("temperature", "top_p", "stop")
    ]
    (cause,) = causes_of(cases)
    assert cause.count == 3
    assert cause.title == "the field … is ignored"
    assert causes_of(cases[:2])[0].title == "the field temperature or top_p is ignored"


def test_a_parameter_beside_the_surface_makes_no_difference_either() -> None:
    messages = {
        f"{surface}-{what}": f"{surface}: {what} are broken"
        for surface in ("chat", "completions")
        for what in ("accents", "emoji")
    }
    cases = [Case(name=f"suite/test_a.py::test_x[{name}]", status=FAILED, message=text) for name, text in messages.items()]
    (cause,) = causes_of(cases)
    assert cause.title == "chat or completions: accents or emoji are broken"


def test_a_parameter_that_is_a_word_of_the_message_does_not_split_a_cause() -> None:
    names = ("suite/test_a.py::test_x[stream]", "suite/test_a.py::test_y", "suite/test_a.py::test_z[other]")
    assert sizes(causes_of(Case(name=name, status=FAILED, message="the stream has no [DONE]") for name in names)) == [3]


def test_a_message_around_the_message_of_other_cases_has_the_same_cause() -> None:
    inner = "POST /v1/completions streamed {} events: does not end with one [DONE]"
    messages = [inner.format(number) for number in range(5)]
    around = [f"{number} of 16 concurrent streams failed; stream 0: {inner.format(number)}" for number in range(3)]
    (cause,) = causes_of(failed(*messages, *around))
    assert cause.count == 8
    assert cause.title == inner.format("…")


def test_an_assertion_without_a_message_is_one_cause_for_each_function() -> None:
    names = ("suite/a.py::test_one[x]", "suite/a.py::test_one[y]", "suite/a.py::test_two")
    found = causes_of([Case(name=name, status=FAILED, message="assert 3 == 4") for name in names])
    assert [(cause.title, cause.count) for cause in found] == [("test_one: assert 3 == 4", 2), ("test_two: assert 3 == 4", 1)]


def test_cases_without_a_message_are_told_apart_by_the_end_of_their_details() -> None:
    one = Case(name="a", status=FAILED, details="Traceback\nOSError: no space left\n")
    other = Case(name="b", status=FAILED, details="Traceback\nValueError: no number\n")
    bare = Case(name="c::test_bare", status=ERRORED)
    titles = [cause.title for cause in causes_of([one, other, bare])]
    assert sorted(titles) == ["OSError: no space left", "ValueError: no number", "test_bare: no message"]


def test_an_error_in_a_fixture_and_the_same_one_in_a_test_are_one_cause_that_failed() -> None:
    (cause,) = causes_of([*failed("ReadError: gone"), *failed("", "ReadError: gone", status=ERRORED)[1:]])
    assert cause.status is FAILED
    assert [case.status for case in cause.cases] == [FAILED, ERRORED]


def test_what_is_inconclusive_is_never_a_failure() -> None:
    causes = causes_of([*failed("held back"), *failed("", "held back", status=INCONCLUSIVE)[1:]])
    assert [cause.status for cause in causes] == [FAILED, INCONCLUSIVE]


RECORDED = {"id": "no-done", "title": "a stream ends without [DONE]", "rule": "OpenAI reference", "severity": "high"}


def test_a_cause_that_the_suite_recorded_joins_what_says_different_things() -> None:
    exchange = {"request": "POST /v1/completions {}", "response": "200 data: ...\n\ndata: ..."}
    first, second = failed("the client hangs", "the SDK raises StopIteration", cause=RECORDED, exchange=exchange)
    (cause,) = causes_of([first, second])
    assert (cause.id, cause.title, cause.rule, cause.severity) == tuple(RECORDED.values())
    assert (cause.request, cause.response) == tuple(exchange.values())
    assert cause.count == 2


def test_a_request_that_the_message_is_not_about_is_no_evidence() -> None:
    message = "POST /v1/completions?a=1: streamed 0 events: status 500"
    last = failed(message, exchange={"request": "GET /metrics", "response": "200 OK"})
    assert causes_of(last)[0].request == ""
    own = {"request": 'POST /v1/completions\n{"stream": true}', "response": "500 no"}
    (cause,) = causes_of([*last, *failed("", message, exchange=own)[1:]])
    assert (cause.count, cause.request, cause.response) == (2, own["request"], own["response"])
    assert causes_of(failed("it broke", exchange={"request": "GET /metrics"}))[0].request == "GET /metrics"


def test_a_case_that_says_the_same_without_recording_it_belongs_to_the_recorded_cause() -> None:
    recorded = failed("POST /v1/completions: no [DONE]", "other words", cause=RECORDED)
    plain = Case(name="suite/test_b.py::test_plain", status=ERRORED, message="POST /v1/completions: no [DONE]")
    (cause,) = causes_of([*recorded, plain])
    assert (cause.id, cause.title, cause.count) == ("no-done", RECORDED["title"], 3)


def test_a_message_of_two_recorded_causes_belongs_to_neither() -> None:
    cases = failed("the same", cause=RECORDED) + failed("", "the same", cause={**RECORDED, "id": "other"})[1:]
    plain = Case(name="suite/test_b.py::test_plain", status=FAILED, message="the same")
    assert sizes(causes_of([*cases, plain])) == [1, 1, 1]


def test_requests_that_kill_the_server_are_different_causes_and_what_did_not_run_is_another() -> None:
    died = {"id": "server-died", "title": "the server died: it does not accept connections", "severity": "critical"}
    deaths = [
        failed("the server died", cause=died, findings=[finding(f"server-died:{name}")])[0] for name in ("huge-n", "deep-json")
    ]
    gone = failed(*["not run: the server is gone (it died during huge-n)"] * 9, status=ERRORED, cause={"id": "server-gone"})
    assert [(cause.id, cause.count, cause.status) for cause in causes_of([*gone, *deaths])] == [
        ("server-died:deep-json", 1, FAILED),
        ("server-died:huge-n", 1, FAILED),
        ("server-gone", 9, ERRORED),
    ]
    assert causes_of(gone)[0].title == "not run: the server is gone (it died during huge-n)"


@pytest.mark.parametrize("wrong", [None, "text", 3, [], {}, {"id": ""}, {"title": "no id"}, {"id": None}])
def test_a_cause_that_is_recorded_wrongly_is_not_used(wrong: object) -> None:
    (cause,) = causes_of(failed("it broke", cause=wrong, exchange=wrong))
    assert cause.title == "it broke"


def finding(name: str, severity: str = "high", message: str = "is open") -> dict[str, str]:
    return {"id": name, "severity": severity, "message": message}


def test_findings_are_causes_by_their_id() -> None:
    one, two = finding("open-route:GET /a"), finding("open-route:GET /b", "critical")
    message = "; ".join(f"[{each['severity']}] {each['id']}: {each['message']}" for each in (one, two))
    both = failed(message, findings=[one, two], accepted=[])
    alone = Case(name="z", status=FAILED, message="[high] open-route:GET /a: is open", properties={"findings": [one]})
    causes = causes_of([*both, alone])
    assert [(cause.id, cause.severity, cause.count) for cause in causes] == [
        ("open-route:GET /b", "critical", 1),
        ("open-route:GET /a", "high", 2),
    ]
    assert causes[1].title == "open-route:GET /a: is open"


def test_findings_that_share_a_cause_are_one_cause_which_has_a_title_of_its_own_only_then() -> None:
    cause = {"id": "server-error:invalid-requests", "title": "invalid requests are answered 5xx"}
    names = ("server-error:a", "server-error:b")
    cases = [
        Case(
            name=name,
            status=FAILED,
            message=f"[medium] {name}: is answered 500",
            properties={"findings": [{**finding(name, "medium", "is answered 500"), "cause": cause, "rule": "RFC 9110"}]},
        )
        for name in names
    ]
    (both,) = causes_of(cases)
    assert (both.id, both.title, both.count, both.rule) == (cause["id"], cause["title"], 2, "RFC 9110")
    (one,) = causes_of(cases[:1])
    assert (one.id, one.title) == (cause["id"], "server-error:a: is answered 500")


def test_accepted_and_minor_findings_are_no_causes() -> None:
    findings = [finding("bad"), finding("known", "critical"), finding("small", "low")]
    (cause,) = causes_of(failed("[high] bad: is open", findings=findings, accepted=["known"]))
    assert cause.id == "bad"


def test_findings_whose_message_was_cut_off_are_all_there() -> None:
    findings = [finding(f"open-route:GET /{number}") for number in range(40)]
    whole = "; ".join(f"[high] {each['id']}: is open" for each in findings)
    case = Case(
        name="a", status=FAILED, message=whole[:500], details=f"E   AssertionError: {whole}", properties={"findings": findings}
    )
    assert {cause.id for cause in causes_of([case])} == {each["id"] for each in findings}


def test_findings_in_one_line_of_text_are_read() -> None:
    said = "[critical] secret-in-log:the API key: the server wrote the API key"
    (cause,) = causes_of(failed(said, findings=[said, "nonsense"]))
    assert (cause.id, cause.severity) == ("secret-in-log:the API key", "critical")


def test_the_order_is_status_then_severity_then_number_of_cases() -> None:
    def recorded(name: str, count: int, status: CaseStatus = FAILED, severity: str = "") -> list[Case]:
        cause = {"id": name, "title": name, "severity": severity}
        return [Case(name=f"{name}{number}", status=status, properties={"cause": cause}) for number in range(count)]

    cases = [
        *recorded("undecided", 9, INCONCLUSIVE, "critical"),
        *recorded("few", 1),
        *recorded("errored", 5, ERRORED, "critical"),
        *recorded("low", 8, severity="low"),
        *recorded("many", 3),
        *recorded("critical", 1, severity="critical"),
    ]
    assert [cause.id for cause in causes_of(cases)] == ["critical", "many", "few", "low", "errored", "undecided"]


def test_a_stage_that_failed_as_a_whole_is_a_case_of_its_cause() -> None:
    gone = "not run: the server was gone"
    stages = [StageResult(name=name, verdict=Verdict.ERRORED, seconds=0.0, message=gone) for name in ("a", "b")]
    (cause,) = causes_of(stages)
    assert [case.label for case in cause.cases] == ["a (the whole stage)", "b (the whole stage)"]
    assert (cause.title, cause.status) == (gone, ERRORED)


def test_one_cause_has_cases_of_several_stages() -> None:
    case = failed("it broke")[0]
    (cause,) = causes_of([stage(case, name="suite"), stage(case, name="other")])
    assert [each.label for each in cause.cases] == ["other: suite/test_a.py::test_0", "suite/test_a.py::test_0"]


def test_the_verdict_counts_reasons() -> None:
    assert verdict_of([*failed("took 1 s", "took 2 s", "no [DONE]")])[1] == "3 of 3 cases failed for 2 reasons"
    assert verdict_of(failed("it broke"))[1] == "1 of 1 cases failed"
    assert verdict_of(failed("it broke", "it broke", status=ERRORED))[1] == "2 of 2 cases could not be judged for 1 reason"


def test_the_headline_counts_each_case_once() -> None:
    one, two = finding("a"), finding("b")
    cases = [
        *failed("[high] a: is open; [high] b: is open", findings=[one, two]),
        *failed("", "it broke", status=ERRORED)[1:],
        *failed("", "", "unclear", status=INCONCLUSIVE)[2:],
    ]
    assert headline(causes_of(cases), 10) == "1 of 10 cases failed, 1 errored, 1 inconclusive, for 4 reasons"
    assert headline(causes_of(failed("a")), 1) == "1 of 1 case failed"
    assert headline(causes_of(failed("a", "b", status=INCONCLUSIVE)), 3) == "2 of 3 cases are inconclusive for 2 reasons"
    assert headline((), 3) == ""


def test_skipped_cases_are_counted_by_reason() -> None:
    reasons = ["no tools"] * 2 + [f"left out for time: about {n} s of a budget of 90 s" for n in (1, 2, 3)] + [""]
    skips = skips_of([stage(*failed(*reasons, status=CaseStatus.SKIPPED))])
    assert [(skip.reason, skip.count) for skip in skips] == [
        ("left out for time: about … s of a budget of 90 s", 3),
        ("no tools", 2),
        ("no reason was given", 1),
    ]


HOSTILE = st.one_of(
    st.text(max_size=300),
    st.text(alphabet=st.characters(), max_size=60).map(lambda text: f"POST /x: 500 {text}\x1b[31m\u202e<script>\x00"),
    st.sampled_from(
        ["took 12 ms", "took 34 ms", "answered 400", "answered 500", "", "assert 1 == 2", "a: b: " * 30, "x" * 5000]
    ),
)
PROPERTIES: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.fixed_dictionaries(
        {"cause": st.fixed_dictionaries({"id": HOSTILE, "title": HOSTILE, "rule": HOSTILE, "severity": HOSTILE})}
    ),
    st.dictionaries(
        st.sampled_from(["cause", "exchange", "findings", "accepted"]), st.one_of(HOSTILE, st.lists(HOSTILE), st.none())
    ),
    st.fixed_dictionaries({"exchange": st.fixed_dictionaries({"request": HOSTILE, "response": HOSTILE})}),
)
NAMES = st.one_of(HOSTILE, st.sampled_from(["suite/a.py::test_a[chat]", "suite/a.py::test_a[400]", "suite/a.py::test_b"]))
CASES = st.lists(
    st.builds(Case, name=NAMES, status=st.sampled_from(CaseStatus), message=HOSTILE, details=HOSTILE, properties=PROPERTIES),
    max_size=25,
)


@pytest.mark.slow
@settings(deadline=None)
@given(CASES)
def test_no_case_is_lost_or_counted_twice(cases: list[Case]) -> None:
    bad = Counter((case.name, case.status) for case in cases if case.status in (FAILED, ERRORED, INCONCLUSIVE))
    assert Counter((case.name, case.status) for cause in causes_of(cases) for case in cause.cases) == bad
    assert sum(skip.count for skip in skips_of([stage(*cases)])) == sum(case.status is CaseStatus.SKIPPED for case in cases)


@pytest.mark.slow
@settings(deadline=None)
@given(CASES, st.randoms(use_true_random=False))
def test_the_order_of_cases_makes_no_difference(cases: list[Case], shuffled: random.Random) -> None:
    mixed = list(cases)
    shuffled.shuffle(mixed)
    assert causes_of(mixed) == causes_of(cases)


@pytest.mark.slow
@settings(deadline=None)
@given(CASES)
def test_causes_can_be_shown_whatever_a_server_sends(cases: list[Case]) -> None:
    for cause in causes_of(cases):
        for text in (cause.id, cause.title, cause.rule):
            assert one_line(text, 10_000) == text
            assert len(text) <= 1000
        assert len(cause.title) <= 300
        assert not {"\x1b", "\x00", "\u202e"} & set(cause.request + cause.response + cause.title)
        assert cause.title
        cause.id.encode()
        assert cause.status is min((each.status for each in cause.cases), key=[FAILED, ERRORED, INCONCLUSIVE].index)
    assert len({cause.id for cause in causes_of(cases)}) == len(causes_of(cases))


def test_large_messages_take_no_time() -> None:
    texts = ["1 " * 200_000, "a" * 400_000, "0" * 400_000, "f" * 400_000 + "g", ": " * 200_000, "code " * 100_000]
    assert len(causes_of(failed(*texts))) == len(texts)
