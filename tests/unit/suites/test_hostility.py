"""What counts as harm: others that wait, valid requests that fail, and rules that are broken; not work that takes its time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from doubles import suiterun
from doubles.asked import Asked
from doubles.bodies import Json
from doubles.running import running
from doubles.server import Double
from doubles.wire import Connection, Response
from vllm_ci.suites.machine import Seen, Watch
from vllm_ci.suites.raw import RawResponse
from vllm_ci.suites.security.bystander import Bystander, Reply, StillBusyError, fair_s
from vllm_ci.suites.security.door import Door
from vllm_ci.suites.security.hostile import Attack
from vllm_ci.suites.security.hostility import Outcome, verdict
from vllm_ci.suites.security.pending import Pending
from vllm_ci.suites.traffic import Traffic
from vllm_ci.suites.verdicts import Inconclusive

ATTACK = Attack(name="x", make=lambda _model, _chat: b"", rule="OpenAI API reference: the field has another type")
LARGE = Attack(name="x", make=lambda _model, _chat: b"", large=True)
FINE = Reply(took_s=0.1)


class Clock:
    """The time of the bystander, which only passes where a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("vllm_ci.suites.security.bystander.time", SimpleNamespace(monotonic=lambda: self.now))

    def passes(self, seconds: float) -> None:
        self.now += seconds


class Scripted(Bystander):
    """Gets these replies."""

    replies: list[Reply]
    passes: Callable[[float], None] | None = None

    def asks(self) -> Reply:
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if self.passes:
            self.passes(reply.took_s)
        return self._seen(reply)


def scripted(*replies: Reply, longest_s: float = 60.0) -> Scripted:
    found = Scripted(client=cast("Any", None), bound_s=20.0, longest_s=longest_s)
    found.replies = list(replies)
    return found


def judged(attack: Attack, *, after: Reply = FINE, documented: bool = True, **fields: Any) -> list[tuple[str, str]]:
    status, problem = fields.pop("status", 0), fields.pop("problem", "")
    seen = Outcome(**{"answer": RawResponse(status=status, problem=problem), "took_s": 1.0, "size_bytes": 100, **fields})
    return [(each.id, each.severity) for each in verdict(attack, seen, after, scripted(FINE), documented=documented)]


def test_a_request_that_takes_long_is_no_finding_while_others_are_served() -> None:
    assert judged(LARGE, status=200, took_s=55.0, others_s=0.3) == []
    assert judged(LARGE, given_up=True, took_s=60.0, others_s=0.3) == [("slow:x", "low")]
    assert judged(ATTACK, given_up=True, took_s=60.0, others_s=0.3) == [("slow:x", "medium")]


def test_others_that_wait_are_a_finding_however_the_request_ends() -> None:
    assert judged(LARGE, status=400, took_s=25.0, others_s=20.0, delayed=True) == [("slow:x", "high")]
    assert judged(LARGE, status=200, after=Reply(took_s=30.0)) == [("slow:x", "high")]


def test_a_valid_request_that_fails_afterwards_is_critical() -> None:
    gone = Reply(took_s=1.0, trouble="a valid request fails: ConnectError")
    assert judged(LARGE, status=502, size_bytes=1_000_000, after=gone) == [("harm:x", "critical")]


@pytest.mark.parametrize("status", [502, 503])
def test_a_gateway_whose_server_refuses_a_large_body_by_closing_is_no_server_error(status: int) -> None:
    assert judged(LARGE, status=status, size_bytes=1_000_000) == []
    assert judged(LARGE, status=status, size_bytes=200) == [("server-error:x", "medium")]  # it was read whole
    assert judged(LARGE, status=500, size_bytes=1_000_000) == [("server-error:x", "medium")]


def test_a_gateway_that_gives_up_is_no_server_error() -> None:
    assert judged(LARGE, status=504, took_s=15.0) == []


def test_a_success_is_a_finding_only_against_a_rule_that_the_server_documents() -> None:
    assert judged(ATTACK, status=200) == [("accepted:x", "medium")]
    assert judged(ATTACK, status=200, documented=False) == []
    assert judged(LARGE, status=200) == []


@pytest.mark.slow
def test_the_clock_of_a_request_starts_when_the_server_is_idle() -> None:
    late = Reply(took_s=20.0, trouble="late", late=True)
    other = scripted(FINE, FINE, FINE, late, FINE)
    other.wait_until_idle()  # the samples were answered promptly
    assert other.replies == [late, FINE]
    other.wait_until_idle()
    assert other.replies == [FINE]


def test_a_server_that_stays_busy_with_an_earlier_request_is_inconclusive() -> None:
    other = scripted(FINE, FINE, FINE, Reply(took_s=20.0, trouble="late", late=True), longest_s=0.0)
    other.wait_until_idle()
    with pytest.raises(StillBusyError, match="after the request before") as caught:
        other.wait_until_idle()
    assert isinstance(caught.value, Inconclusive)
    assert caught.value.cause["id"] == "still-busy"


def test_a_server_with_much_latency_is_idle_when_it_answers_as_at_first() -> None:
    scripted(Reply(took_s=4.0), longest_s=0.0).wait_until_idle()


def test_a_wait_on_a_starved_machine_is_inconclusive_only_if_the_server_may_have_been_in_time() -> None:
    def decide(seen: Seen, waited_s: float) -> None:
        scripted(FINE).require_a_working_machine(cast("Watch", SimpleNamespace(seen=seen)), waited_s, "slow")

    starved = Seen(stalled=0.9, queue=4.0, late_s=0.0)
    with pytest.raises(Inconclusive, match="slow, but tasks waited"):
        decide(starved, 40.0)
    decide(starved, 100.0)
    decide(Seen(stalled=0.0, queue=0.5, late_s=0.0), 40.0)
    assert fair_s(40.0, Seen(stalled=None, queue=None, late_s=0.0)) == 40.0


@pytest.mark.parametrize(
    ("queue", "seconds"),
    [(0.5, 1.0), (3.0, 3.0)],
    ids=["a quiet machine", "a busy machine"],
)
def test_a_server_that_does_not_recover_has_as_much_time_as_on_a_quiet_machine(
    queue: float, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    machine = cast("Watch", SimpleNamespace(seen=Seen(stalled=0.9, queue=queue, late_s=0.0)))
    late = Reply(took_s=20.0, trouble="late", late=True)
    hung = scripted(late, longest_s=60.0)
    hung.passes = clock.passes
    after = hung.recovers(machine)
    assert (after.late, after.trouble) == (True, "late")
    assert after.took_s == 60.0 * seconds


def test_a_server_that_recovers_late_on_a_busy_machine_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    machine = cast("Watch", SimpleNamespace(seen=Seen(stalled=0.9, queue=3.0, late_s=0.0)))
    late = Reply(took_s=20.0, trouble="late", late=True)
    slow = scripted(*[late] * 6, FINE, longest_s=60.0)
    slow.passes = clock.passes
    assert not slow.recovers(machine).trouble


def test_a_server_that_does_not_recover_on_a_machine_without_processor_time_is_inconclusive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    machine = cast("Watch", SimpleNamespace(seen=Seen(stalled=0.9, queue=50.0, late_s=0.0)))
    hung = scripted(Reply(took_s=20.0, trouble="late", late=True), longest_s=60.0)
    hung.passes = clock.passes
    with pytest.raises(Inconclusive, match="late, but tasks waited for a processor"):
        hung.recovers(machine)
    assert clock.now == 240.0


@pytest.mark.slow
def test_a_request_that_is_given_up_ends_at_once() -> None:
    blocked = threading.Event()

    class Blocks(Double):
        def asked(self, body: Json, *, chat: bool) -> Asked:
            blocked.wait(10)
            return super().asked(body, chat=chat)

    with running(lambda: Blocks(key="", file=None)) as (url, _):
        door = Door(server=cast("Any", SimpleNamespace(url=url)), key="", traffic=Traffic())
        begun = time.monotonic()
        with Pending(door, "/v1/completions", b'{"prompt": "x"}', 60.0) as pending:
            assert not pending.ended(0.3)
            pending.give_up()
        blocked.set()
        assert time.monotonic() - begun < 5
        assert pending.answer().status == 0


class CrashesAtSurrogates(Double):
    """A stop string that is no valid text is answered 500."""

    async def posted(self, path: str, body: Json, connection: Connection) -> Response | None:
        if "\\ud8" in ascii(body.get("stop", "")):
            return self.error(500, "'utf-8' codec can't encode character", "InternalServerError")
        return await super().posted(path, body, connection)


@pytest.mark.slow
def test_a_finding_shows_the_hostile_request_and_not_the_small_one_after_it() -> None:
    case = "security/test_denial.py::test_a_hostile_request_does_no_harm[lone-surrogate-stop]"
    found = suiterun.run(CrashesAtSurrogates, [case])
    assert found.statuses[case] == "failed"
    assert r"\ud800" in found.exchanges[case]["request"]
    assert found.exchanges[case]["response"].startswith("500 ")
