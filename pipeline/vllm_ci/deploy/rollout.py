"""The driver: carries a plan out, step by step, and goes back by itself when a step fails. Resumable.

The journal is written before each step and after it. A driver that was killed left a state that serves, because every step
does; the next one reads the journal and reaches the same step again, or goes on going back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar

import anyio

from vllm_ci.deploy.analysis import Judgement, Measurement, Outcome, judge
from vllm_ci.deploy.comparison import Comparison, Pair
from vllm_ci.deploy.deployment import Deployment, Happened
from vllm_ci.deploy.journal import Journal
from vllm_ci.deploy.plan import Step
from vllm_ci.deploy.reach import Reach
from vllm_ci.deploy.rules import Rules
from vllm_ci.deploy.target import Target
from vllm_ci.deploy.unless import POLL_S, Stopped, unless
from vllm_ci.domain.errors import ErroredError, FailedError, UsageError, VllmCiError
from vllm_ci.domain.events import Progress, step

_Result = TypeVar("_Result")
_LOG_LINES = 2000


class _Turn(Exception):
    """Go back."""

    def __init__(self, reason: str, *, broken: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.broken = broken


class _Hold(Exception):
    """Let a person decide."""


class Rollout:
    """Carries one deployment out. The caller holds the journal's lock.

    Args:
        target: Where.
        journal: Where its state is written.
        deployment: From the journal, or new.
        rules: What decides.
    """

    def __init__(self, target: Target, journal: Journal, deployment: Deployment, rules: Rules) -> None:
        self._target = target
        self._journal = journal
        self.deployment = deployment
        self._rules = rules
        self._reach = Reach(target, deployment.revisions, self._note)

    async def run(self) -> Deployment:
        """Go on until it has ended, a person has to decide, or the old revision is kept ready and nothing else is left to do.

        Returns:
            The deployment; of one that is kept, the caller waits until ``since`` plus the step's ``hold_s`` and runs it again.

        Raises:
            ErroredError: The target, the ledger or the disk cannot be reached. What serves goes on; run it again.
        """
        self._keep()
        while not self.deployment.ended:
            if self.deployment.phase == "held" and not await self._decided():
                break
            if self.deployment.phase == "back":
                await self._backward()
            elif not await self._forward():
                break
        return self.deployment

    async def _forward(self) -> bool:
        """One step; false when the old revision is kept ready and there is time left."""
        at = self.deployment.step
        with step(self._rules.emit, f"deploy {at.name}") as done:
            try:
                await self._unless_aborted(at, lambda: self._reach.forward(at, self.deployment.plan.change.new))
                self._reached(at)
                if at.live:
                    return self._live(at)
                await self._gates(at)
            except _Turn as turn:
                await self._turn(turn.reason, broken=turn.broken)
            except (FailedError, UsageError) as error:
                if at.live:
                    raise
                await self._turn(error.message, broken=isinstance(error, FailedError), why=error.why)
            except _Hold as hold:
                self._note(f"a person decides: {hold}")
                self._keep(phase="held", reason=str(hold))
            else:
                self._keep(at=self.deployment.at + 1, since=0.0)
            done(self.deployment.happened[-1].text.partition("\n")[0])
        return True

    def _live(self, at: Step) -> bool:
        """Record it, and keep the old revision until its time is over."""
        if not self.deployment.recorded:
            self._rules.record(self.deployment)
            self._keep(recorded=True)
        if at.hold_s and self._rules.clock() < self.deployment.since + at.hold_s:
            return False
        if self.deployment.at == len(self.deployment.plan.steps) - 1:
            self._keep(phase="live")
            return True
        with self._journal.ending() as free:
            if free:
                self._keep(at=self.deployment.at + 1, since=0.0)
        return free

    async def _gates(self, at: Step) -> None:
        new = self.deployment.plan.change.new
        if at.checks:
            current = await self._target.current()
            checked = await self._unless_aborted(at, lambda: self._rules.check(at.checks, current, new))
            if checked.outcome in (Outcome.FAILED, Outcome.ERROR):
                raise _Turn(checked.reason)
            if checked.outcome is Outcome.INCONCLUSIVE:
                raise _Hold(checked.reason)
        await self._look_at_the_old_one(at)
        await self._watch(at)
        if at.person:
            raise _Hold(f"{at.name} is reached, and the plan has a person decide")

    async def _look_at_the_old_one(self, at: Step) -> None:
        """Measure the baseline, where it is needed and the old revision gets no requests any more when it is."""
        old = self.deployment.plan.change.old
        first = next((each for each in self.deployment.plan.steps if each.judged), None)
        needed = any(each.factor for each in self._rules.analysis.conditions) and not self.deployment.baseline
        if needed and first and not first.route.weights.get(old) and at.route.weights.get(old):
            await self._unless_aborted(at, lambda: self._measure(at, self._rules.analysis.interval_s))

    async def _watch(self, at: Step) -> None:
        """Observe a step for its time."""
        measured: list[Measurement] = []
        elapsed = 0.0
        restarts = {each.name: each.restarts for each in (await self._target.current()).replicas}
        with self._target.comparing() if at.compared else nullcontext(tuple[Pair, ...]) as pairs:
            while elapsed < at.hold_s:
                seconds = min(self._rules.analysis.interval_s, at.hold_s - elapsed)
                measured.append(await self._unless_aborted(at, lambda seconds=seconds: self._measure(at, seconds)))  # type: ignore[misc]
                measured[-1] = self._compared(at, measured[-1], pairs())
                elapsed += seconds
                try:
                    await self._alive(at, restarts)
                except ErroredError as error:
                    measured[-1] = replace(measured[-1], error=measured[-1].error or error.message)
                if at.judged:
                    self._judged(judge(self._rules.analysis, measured, ended=elapsed >= at.hold_s), at)
                self._rules.emit(Progress(step=f"deploy {at.name}", detail=f"{elapsed:.0f} of {at.hold_s:.0f} s"))

    def _compared(self, at: Step, measured: Measurement, pairs: tuple[Pair, ...]) -> Measurement:
        """The measurement with what the comparison of answers says so far."""
        if not at.compared:
            return measured
        before = self._journal.comparison(self.deployment) or Comparison(deployment=self.deployment.id)
        found = before.having(pairs)
        self._journal.write_comparison(found)
        if measured.sample is None:
            return measured
        values = {**measured.sample.values, **found.values(self._rules.analysis.min_requests)}
        return replace(measured, sample=replace(measured.sample, values=values))

    def _judged(self, judgement: Judgement, at: Step) -> None:
        reason = f"{at.name}: {'; '.join(judgement.reasons)}"
        if judgement.outcome in (Outcome.FAILED, Outcome.ERROR):
            raise _Turn(reason)
        if judgement.outcome is Outcome.INCONCLUSIVE:
            raise _Hold(reason)

    async def _measure(self, at: Step, seconds: float) -> Measurement:
        change = self.deployment.plan.change
        try:
            seen = await self._target.observe(seconds=seconds)
        except ErroredError as error:
            await anyio.sleep(min(seconds, 1.0))
            return Measurement(error=error.message)
        self.deployment = self.deployment.having_seen(seen, at)
        self._keep()
        course, now = self._journal.course(self.deployment), self._rules.clock()
        self._journal.write_course(course.having(seen, at=now, step=at.name, weights=at.route.weights))
        baseline = seen.samples.get(change.old) if at.route.weights.get(change.old) else self.deployment.baseline
        return Measurement(sample=seen.samples.get(change.new), baseline=baseline)

    async def _alive(self, at: Step, restarts: Mapping[str, int]) -> None:
        """Go back when a server of the new revision died; that of the old one says nothing about the new.

        Args:
            at: The step.
            restarts: How often each server had been started again when the step began.
        """
        new = self.deployment.plan.change.new
        current = await self._target.current()
        mine = [each for each in current.replicas if each.revision == new]
        died = [each for each in mine if each.state == "failed" or each.restarts > restarts.get(each.name, 0)]
        if died or current.ready(new) < at.replicas.get(new, 0):
            message = died[0].message if died and died[0].message else "it is not ready any more"
            raise _Turn(f"{at.name}: a server of the new release died: {message}", broken=not current.ready(new))

    async def _backward(self) -> None:
        change, at = self.deployment.plan.change, self.deployment.step
        with step(self._rules.emit, f"deploy {at.name}") as done:
            try:
                await self._reach.backward(at, change.old, at_once=self.deployment.broken)
            except (FailedError, UsageError) as error:
                raise ErroredError(
                    f"going back is not complete: {error.message}",
                    why=f"{error.why or 'the old release did not start'}; it goes back because {self.deployment.reason}",
                    remedy="what can serve goes on; see vllm-ci deploy status, then run the command again",
                ) from error
            self._reached(at)
            done(self._weights(at))
        if self.deployment.at < len(self.deployment.back) - 1:
            self._keep(at=self.deployment.at + 1, since=0.0)
            return
        if not self.deployment.recorded:
            self._rules.record(replace(self.deployment, phase="returned"))
        self._keep(recorded=True, phase="returned")

    async def _decided(self) -> bool:
        """Whether a person has decided; asks once, or until then."""
        while (verb := self._journal.asked(self.deployment)) is None:
            if not self._rules.waits:
                return False
            await anyio.sleep(POLL_S)
        if verb == "abort":
            await self._turn("a person decided so", broken=False)
        else:
            self._note("promoted by a person")
            self._keep(phase="forward", at=self.deployment.at + 1, since=0.0, reason="")
        self._journal.answered()
        return True

    async def _unless_aborted(self, at: Step, work: Callable[[], Awaitable[_Result]]) -> _Result:
        """Do something, and stop doing it when a person asks for it.

        Raises:
            _Turn: A person did.
        """
        if at.live:
            return await work()
        try:
            return await unless(lambda: self._journal.asked(self.deployment) == "abort", work)
        except Stopped as stopped:
            self._journal.answered()
            raise _Turn("a person decided so") from stopped

    async def _turn(self, reason: str, *, broken: bool, why: str = "") -> None:
        await self._save_logs()
        told = f"{reason} ({why})" if why else reason
        self._note(f"go back: {told}")
        self.deployment = self.deployment.turning(told, broken=broken)
        self._keep()

    async def _save_logs(self) -> None:
        """Write down what the new servers said: they are ended on the way back."""
        new = self.deployment.plan.change.new
        with suppress(VllmCiError):
            for replica in (await self._target.current()).replicas:
                if replica.revision == new:
                    self._journal.write_log(replica.name, await self._target.logs(replica.name, lines=_LOG_LINES))

    def _reached(self, at: Step) -> None:
        self._note(f"{at.name}: {self._weights(at)}", at)
        self._keep(since=self.deployment.since or self._rules.clock())

    def _weights(self, at: Step) -> str:
        shares = ", ".join(f"{share} % to {name}" for name, share in at.route.weights.items() if share)
        return shares or "no requests"

    def _note(self, text: str, at: Step | None = None) -> None:
        moment = datetime.fromtimestamp(self._rules.clock(), UTC).isoformat(timespec="milliseconds")
        happened = Happened(at=moment, text=text, weights=at.route.weights if at else {})
        self.deployment = replace(self.deployment, happened=(*self.deployment.happened, happened))

    def _keep(self, **changes: object) -> None:
        self.deployment = replace(self.deployment, **changes)  # type: ignore[arg-type]
        self._journal.write(self.deployment)
