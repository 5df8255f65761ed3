"""Checks of a deployment: a completion through the gateway, and the commands that the configuration names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio

from vllm_ci.config.deploy import ChecksConfig
from vllm_ci.deploy.analysis import Outcome
from vllm_ci.deploy.plan import PREVIEW, Checks
from vllm_ci.deploy.rules import Checked
from vllm_ci.deploy.target import REVISION_HEADER, Current
from vllm_ci.domain.errors import ErroredError, UsageError
from vllm_ci.programs import ready
from vllm_ci.system import external

_COMPLETION_S = 120.0
_GRPC = "grpc://"
_OUTCOMES = {0: Outcome.SUCCESSFUL, 1: Outcome.FAILED, 4: Outcome.INCONCLUSIVE}


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Runs checks.

    Attributes:
        config: The configured commands.
        folder: Where they run.
        model: The name that requests give.
    """

    config: ChecksConfig
    folder: Path
    model: str

    async def check(self, kind: Checks, current: Current, revision: str) -> Checked:
        """Run the checks of a kind; the first that does not succeed decides.

        ``before``: commands are given the address of one server of the revision, as ``VLLM_CI_URL``; nobody else reaches it.
        ``after``: that of the gateway. An address of gRPC is given as ``VLLM_CI_GRPC``.
        """
        gateway = current.checks
        if gateway and (reason := await self._no_completion(gateway, preview=kind == "before", current=current)):
            return Checked(outcome=Outcome.FAILED, reason=reason)
        commands = self.config.before if kind == "before" else self.config.after
        url = next(iter(_ready(current, revision)), "") if kind == "before" else gateway or current.address
        for command in commands:
            found = await anyio.to_thread.run_sync(self._run, command, url, abandon_on_cancel=True)
            if found.outcome is not Outcome.SUCCESSFUL:
                return found
        return Checked(outcome=Outcome.SUCCESSFUL)

    async def _no_completion(self, gateway: str, *, preview: bool, current: Current) -> str:
        """Why no completion came through the gateway; empty when one did, or when it has no preview to ask for."""
        if preview and PREVIEW not in current.route.headers:
            return ""
        headers = {REVISION_HEADER: PREVIEW} if preview else {}
        if gateway.startswith(_GRPC):
            reason = await anyio.to_thread.run_sync(lambda: _no_generation(gateway, headers, current), abandon_on_cancel=True)
            return f"no generation came through the gateway: {reason}" if reason else ""
        ask = partial(ready.why_not, gateway.rstrip("/"), self.model, timeout_s=_COMPLETION_S, more=headers)
        reason = await anyio.to_thread.run_sync(ask, abandon_on_cancel=True)
        return f"no completion came through the gateway: {reason}" if reason else ""

    def _run(self, command: Sequence[str], url: str) -> Checked:
        what = f"check `{' '.join(command)}`"
        inherited = {name: value for name, value in os.environ.items() if name not in ("VLLM_CI_GRPC", "VLLM_CI_URL")}
        named = "VLLM_CI_GRPC" if url.startswith(_GRPC) else "VLLM_CI_URL"
        environment = {**inherited, named: url, "VLLM_CI_MODEL": self.model}
        try:
            done = external.run(
                command, what=what, deadline_s=self.config.timeout_s, cwd=self.folder, env=environment, only_tail=True
            )
        except (ErroredError, UsageError) as error:
            return Checked(outcome=Outcome.ERROR, reason=f"{error.message}: {error.why}" if error.why else error.message)
        outcome = _OUTCOMES.get(done.exit_code, Outcome.ERROR)
        return Checked(outcome=outcome, reason=f"{what} ended with exit code {done.exit_code}: {done.tail(5)}".rstrip(": "))


def _ready(current: Current, revision: str) -> list[str]:
    """Addresses of the servers of a revision that can answer; of all revisions without a name."""
    wanted = [each for each in current.replicas if each.state == "ready" and each.url]
    return [each.url for each in wanted if not revision or each.revision == revision]


def _no_generation(gateway: str, headers: Mapping[str, str], current: Current) -> str:
    """Why no generation came; the messages are described by a server, for the gateway lets no reflection through."""
    from vllm_ci.suites.grpc.ready import why_not  # loads gRPC

    servers = _ready(current, "")
    if not servers:
        return "no server is ready"
    described = servers[0].removeprefix(_GRPC)
    metadata = tuple(headers.items())
    return why_not(gateway.removeprefix(_GRPC), described_by=described, metadata=metadata, timeout_s=_COMPLETION_S)
