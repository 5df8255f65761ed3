"""What a state says of what runs: it is looked up whether processes live."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vllm_ci.deploy.target import Current, Replica, Route
from vllm_ci.domain.errors import FailedError
from vllm_ci.domain.gateway import Wire
from vllm_ci.targets.envoy.admin import Host
from vllm_ci.targets.local import speaking
from vllm_ci.targets.local.fleet import Fleet
from vllm_ci.targets.local.state import Kept, State

# Addresses that stand for all of a machine, and how a client on it reaches them.
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


def current(state: State, route: Route, fleet: Fleet) -> Current:
    """What runs at a target whose gateway has been started once."""
    host, ports = _ANY.get(state.settings.host, state.settings.host), state.ports
    plain = state.settings.protocol
    scheme = f"{plain}s" if state.settings.tls else plain
    address = f"{scheme}://{f'[{host}]' if ':' in host else host}:{ports.gateway}" if ports else ""
    return Current(
        address=address,
        checks=speaking.address(ports.checks, plain) if ports and ports.checks else address,
        route=route,
        replicas=tuple(_replica(name, kept, fleet, plain) for name, kept in sorted(state.replicas.items())),
        wanted=state.wanted,
        revisions=state.revisions,
        asleep=bool(state.asleep),
        down=state.envoy is None or not state.envoy.alive,
    )


def without_server(state: State, route: Route) -> str:
    """The revision that all requests go to and that is scaled to zero; empty where there is none."""
    names = [name for name, share in route.weights.items() if share]
    if state.settings.waiting is None or len(names) != 1 or names[0] not in state.revisions:
        return ""
    resting = names[0] == state.asleep or not state.wanted.get(names[0])
    return names[0] if resting and not ready_ports(state, names[0]) else ""


def incomplete(state: State, route: Route) -> bool:
    """Whether a command that was killed has left a route, and not yet that its requests wait, or do not."""
    return state.asleep not in route.revisions if state.asleep else bool(without_server(state, route))


def require_ready(current: Current, revisions: Iterable[str]) -> None:
    """Check that each of the revisions can answer.

    Raises:
        FailedError: One cannot.
    """
    for name in sorted(revisions):
        if not current.ready(name):
            raise FailedError(
                f"no replica of {name} is ready, so it gets no requests",
                why="; ".join(each.message for each in current.replicas if each.revision == name and each.message)
                or "none was started",
                remedy="deploy it again; the requests are shared as before",
            )


def ready_ports(state: State, revision: str) -> set[int]:
    """Ports of the replicas of a revision that can answer."""
    return {kept.port for kept in state.of(revision).values() if kept.phase == "ready" and kept.process.alive}


def healthy(hosts: Mapping[int, Host]) -> set[int]:
    """Ports that the gateway sends requests to."""
    return {port for port, host in hosts.items() if host.healthy}


def _replica(name: str, kept: Kept, fleet: Fleet, protocol: Wire) -> Replica:
    ended = not kept.process.alive and kept.phase != "failed"
    return Replica(
        name=name,
        revision=kept.revision,
        state="failed" if ended else kept.phase,
        url=speaking.address(kept.port, protocol),
        started_at=kept.started_at,
        restarts=kept.restarts,
        message=f"it ended; the end of its log:\n{fleet.log(name, 25)}" if ended else kept.message,
    )
