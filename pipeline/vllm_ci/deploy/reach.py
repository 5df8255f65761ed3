"""Makes a step true at a target, in an order in which whoever the route names is ready at any moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vllm_ci.deploy.plan import Step, servable
from vllm_ci.deploy.target import Current, Revision, Target
from vllm_ci.domain.errors import FailedError, UsageError


class Reach:
    """A target, and the revisions of a deployment.

    Args:
        target: Where.
        revisions: The old and the new one, by name.
        note: Called with what happened, for the journal.
    """

    def __init__(self, target: Target, revisions: Mapping[str, Revision], note: Callable[[str], None]) -> None:
        self._target = target
        self._revisions = revisions
        self._note = note

    async def forward(self, step: Step, new: str) -> None:
        """Start what is missing, route, stop what is not needed.

        Raises:
            FailedError: A server died or was not ready in time.
            UsageError: It does not fit.
            ErroredError: The target cannot be reached.
        """
        await self._without_leftovers(step)
        current = await self._target.current()
        for name, count in step.replicas.items():
            if current.wanted.get(name, 0) < count or (name == new and current.ready(name) < count):
                await self._start(name, count, current)
            elif step.route.weights.get(name) and not current.ready(name):
                await self._revive(name, count, current)
        await self._route(step)
        await self._shrink(step)

    async def backward(self, step: Step, old: str, *, at_once: bool) -> None:
        """The same on the way back.

        Args:
            step: What is to be true.
            old: The revision that serves at the end; empty for none.
            at_once: Send requests there before anything else: the new revision is dead.
        """
        if at_once and (await self._target.current()).ready(old):
            await self._route(step)
        await self._without_leftovers(step)
        current = await self._target.current()
        if old and max(current.ready(old), 0) < step.replicas.get(old, 0):
            await self._start(old, step.replicas[old], current)
        await self._route(step)
        await self._shrink(step)

    async def _without_leftovers(self, step: Step) -> None:
        """Make room: end what neither the step nor the present route needs."""
        current = await self._target.current()
        for name in sorted(_running(current) - set(step.replicas) - current.route.revisions):
            await self._end(name, current)

    async def _start(self, name: str, count: int, current: Current) -> None:
        await self._target.start(self._revisions.get(name) or current.revisions[name], count)

    async def _revive(self, name: str, count: int, current: Current) -> None:
        """Start the old revision whose servers have all died, with the machine perhaps; that it fails does not end the step."""
        try:
            await self._start(name, count, current)
        except (FailedError, UsageError) as error:
            self._note(f"servers of {name} died and do not start again: {error.message}")

    async def _route(self, step: Step) -> None:
        current = await self._target.current()
        route = servable(step.route, current)
        if current.route != route or current.down:
            await self._target.route(route)

    async def _shrink(self, step: Step) -> None:
        current = await self._target.current()
        for name, count in step.replicas.items():
            if count and current.wanted.get(name, 0) > count:
                await self._start(name, count, current)
        # One that was scaled to zero may have been woken meanwhile: it serves as long as the route names it.
        needed = {name for name, count in step.replicas.items() if count}
        for name in sorted(_running(current) - needed - current.route.revisions):
            await self._end(name, current)

    async def _end(self, name: str, current: Current) -> None:
        known = current.revisions.get(name) or self._revisions.get(name)
        drained = await self._target.drain(name, deadline_s=known.serving.drain_s if known else 0.0)
        if drained.open:
            self._note(f"{drained.open} requests were still open at {name} after {drained.seconds:.0f} s, and were ended")
        await self._target.stop(name)


def _running(current: Current) -> set[str]:
    return {each.revision for each in current.replicas} | {name for name, count in current.wanted.items() if count}
