"""Compare a candidate with a baseline: fresh starts in pairs, judged after each look, until the result is clear."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import anyio

from vllm_ci.domain.errors import ServiceError
from vllm_ci.domain.performance import PerformanceSpec
from vllm_ci.domain.program import Directory, Outcome, Program, Service
from vllm_ci.domain.report import StageResult, Verdict
from vllm_ci.domain.startup_cause import startup_cause
from vllm_ci.engine import Engine, is_gone, single_error
from vllm_ci.performance import gate, pairs, result
from vllm_ci.performance.gate import Decision
from vllm_ci.performance.pairs import Arm, Pair
from vllm_ci.performance.program import MEASUREMENT
from vllm_ci.performance.result import Compared, Ending
from vllm_ci.performance.rounds import Round
from vllm_ci.performance.seeds import seeded
from vllm_ci.stages import reading
from vllm_ci.stages.measured import measuring

_MOST_UNTRUSTED = 3
"""Pairs without a round that can be trusted are repeated, on a machine that was busy for a moment; not for ever."""
_WATCH_INTERVAL_S = 1.0
_LAST_WORDS_S = 3.0


class _Ended(Exception):
    """The comparison ends here, with a reason."""

    def __init__(self, verdict: Verdict, message: str, log: str = "") -> None:
        super().__init__(message)
        self.ending = Ending(verdict=verdict, message=message, log=log)


@dataclass(kw_only=True)
class Comparing:
    """A comparison that is running.

    Attributes:
        engine: Where everything runs.
        spec: How the images are compared.
        start: Starts a server; it is ready when the context is entered.
        subject: What is compared, for the report.
        model: Served model name.
        api_key_env: Name of the variable with the API key; empty if none is needed.
        seed: Decides the order within the pairs.
        tell: Called with the progress in words.
        keep: Called with the result so far, after every pair.
        found: The pairs until now.
    """

    engine: Engine
    spec: PerformanceSpec
    start: Callable[[Arm], AbstractAsyncContextManager[Service]]
    subject: Mapping[str, object]
    model: str = ""
    api_key_env: str = ""
    seed: str = ""
    tell: Callable[[str], None] = lambda _text: None
    keep: Callable[[StageResult], None] = lambda _result: None
    found: list[Pair] = field(default_factory=list)
    _asked: Directory | None = None
    _untrusted: list[str] = field(default_factory=list)
    _begun: float = field(default_factory=time.monotonic)

    async def judged(self, stop: anyio.Event) -> StageResult:
        """Compare until the result is clear, or ``stop`` is set; what was measured until then is in the result.

        Args:
            stop: Ends the comparison.
        """
        endings: list[Ending | None] = []

        async def run(scope: anyio.CancelScope) -> None:
            try:
                await self._run(stop)
                endings.append(None)
            except _Ended as ended:
                endings.append(ended.ending)
            scope.cancel()

        with single_error():
            async with anyio.create_task_group() as group:
                group.start_soon(run, group.cancel_scope)
                await stop.wait()
                self.keep(self._result(_STOPPED))
                group.cancel_scope.cancel()
        return self._result(endings[0] if endings else _STOPPED)

    async def alone(self, stop: anyio.Event, why: str) -> StageResult:
        """Measure one start of the candidate, because there is no baseline.

        Args:
            stop: Ends the measurement.
            why: Why there is none.
        """
        try:
            rounds, _ready_s = await self._start(Arm.CANDIDATE, stop)
        except _Ended as ended:
            return self._result(ended.ending)
        return result.alone(self._compared(), rounds, why)

    async def _run(self, stop: anyio.Event) -> None:
        order = seeded("order", self.seed)
        wanted = pairs.limits(self.spec)
        while (look := gate.next_look(len(self.found), self.spec.looks)) is not None:
            while len(self.found) < look:
                self.found.append(await self._pair(order, stop, look))
                self.keep(self._result(_STOPPED))
                if why := pairs.unequal_work(self.found[-1]):
                    raise _Ended(Verdict.FAILED, f"pair {len(self.found)}, {why}: the times cannot be compared")
            if worse := [each for each in pairs.counters(self.found) if each.worse]:
                more = f" (and {len(worse) - 1} more)" if len(worse) > 1 else ""
                raise _Ended(Verdict.FAILED, f"{worse[0]}{more}")
            if gate.judge(pairs.values(self.found, wanted), wanted, looks=self.spec.looks).decision is not Decision.MORE:
                return

    async def _pair(self, order: random.Random, stop: anyio.Event, look: int) -> Pair:
        arms = [Arm.BASELINE, Arm.CANDIDATE]
        order.shuffle(arms)
        rounds: dict[Arm, tuple[Round, ...]] = {}
        ready_s: dict[Arm, float] = {}
        for arm in arms:
            self.tell(f"pair {len(self.found) + 1} of {look}: {arm}")
            rounds[arm], ready_s[arm] = await self._start(arm, stop)
        pair = Pair(order=tuple(arms), rounds=rounds, ready_s=ready_s)
        missing = [limit.metric for limit in pairs.limits(self.spec) if not pair.log_ratios(limit)]
        if not missing:
            return pair
        reasons = dict.fromkeys(reason for each in rounds.values() for one in each for reason in one.reasons)
        self._untrusted.append("; ".join(reasons) or f"{missing[0]} was not measured")
        if len(self._untrusted) < _MOST_UNTRUSTED:
            return await self._pair(order, stop, look)
        message = f"{len(self._untrusted)} pairs have no round that can be trusted: {self._untrusted[-1]}"
        raise _Ended(Verdict.INCONCLUSIVE, message)

    async def _start(self, arm: Arm, stop: anyio.Event) -> tuple[tuple[Round, ...], float]:
        """Rounds of a fresh start, and the seconds until it was ready."""
        ended: _Ended | None = None
        rounds: tuple[Round, ...] = ()
        try:
            async with self.start(arm) as service:
                outcome = await self._measured(service, stop)
                try:
                    rounds = await self._read(arm, outcome, service)
                except _Ended as error:  # raised below: an engine may wrap what is raised while it holds the server
                    ended = error
        except ServiceError as error:
            why = "\n".join(filter(None, (error.why, error.remedy)))
            raise _Ended(Verdict.ERRORED, f"the {arm}: {error.message}\n{why}".rstrip(), error.log) from error
        if ended is not None:
            raise ended
        if self._asked is None:
            self._asked = outcome.output
        return rounds, service.ready_s

    async def _measured(self, service: Service, stop: anyio.Event) -> Outcome:
        """Run the program; it is stopped when its server has died, and when ``stop`` is set."""
        outcomes: list[Outcome] = []
        ended = anyio.Event()

        async def run(scope: anyio.CancelScope) -> None:
            outcomes.append(await self.engine.run(self._program(service), stop=ended))
            scope.cancel()

        async def obey() -> None:
            await stop.wait()
            ended.set()

        with single_error():
            async with anyio.create_task_group() as group:
                group.start_soon(run, group.cancel_scope)
                group.start_soon(obey)
                while not await is_gone(service):
                    await anyio.sleep(_WATCH_INTERVAL_S)
                await anyio.sleep(_LAST_WORDS_S)  # the program notices that the server does not answer, and writes that down
                ended.set()
        return outcomes[0]

    def _program(self, service: Service) -> Program:
        return measuring(service, self.spec, model=self.model, api_key_env=self.api_key_env, asked=self._asked)

    async def _read(self, arm: Arm, outcome: Outcome, service: Service) -> tuple[Round, ...]:
        """The rounds of a start; failed requests are a failure of the candidate, and an error of the baseline."""
        rounds = await _rounds(outcome)
        if await is_gone(service):
            log = await service.log()
            cause = startup_cause(log).line or "its log says nothing"
            raise _Ended(Verdict.ERRORED, f"the server of the {arm} died while it was measured: {cause}", log)
        verdict = Verdict.FAILED if arm is Arm.CANDIDATE else Verdict.ERRORED
        for number, each in enumerate(rounds, 1):
            if each.verdict in (Verdict.FAILED, Verdict.ERRORED):
                raise _Ended(verdict, f"the {arm}, round {number}: {'; '.join(each.reasons)}", await service.log())
        if not outcome or len(rounds) < self.spec.rounds:
            how = reading.how_it_ended(outcome)
            raise _Ended(Verdict.ERRORED, f"measuring the {arm} {how}\n{reading.tail(outcome.log)}".rstrip(), outcome.log)
        return rounds

    def _result(self, ending: Ending | None) -> StageResult:
        return result.of(self._compared(), ending)

    def _compared(self) -> Compared:
        seconds = time.monotonic() - self._begun
        return Compared(
            spec=self.spec, subject=self.subject, pairs=tuple(self.found), untrusted=tuple(self._untrusted), seconds=seconds
        )


_STOPPED = Ending(verdict=Verdict.ERRORED, message="was stopped before it finished")


async def _rounds(outcome: Outcome) -> tuple[Round, ...]:
    """The rounds that a program wrote; none if it wrote nothing that can be read."""
    try:
        data: dict[str, Any] = json.loads(await outcome.output.read(MEASUREMENT))
        return tuple(Round.parse(each) for each in data["rounds"])
    except (FileNotFoundError, LookupError, TypeError, ValueError):
        return ()
