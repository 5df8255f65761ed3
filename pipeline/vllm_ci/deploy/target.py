"""The port: where releases serve. Replicas of revisions behind one address, and how traffic is shared among them.

Implementations live in ``vllm_ci.targets`` and pass one contract suite (``tests/contract``), as engines do.

A *revision* is a release with the settings that it is served with. It has *replicas*, which are servers. A *route* says which
revision answers what share of the requests. Requests come in at one address, the *gateway*.

Every verb may be repeated: a driver that was killed calls it again and gets the same state. A target keeps its state itself, so
that another process can ask for it; replicas and gateway outlive the process that started them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Literal, Protocol

from vllm_ci.deploy.comparison import Pair
from vllm_ci.domain.gateway import Wire
from vllm_ci.domain.image import ImageRef
from vllm_ci.release.record import Release

ReplicaState = Literal["starting", "ready", "draining", "asleep", "failed"]


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How the servers of a revision are started.

    Attributes:
        argv: Command line inside the image; ``{host}``, ``{port}`` and ``{model}`` are filled in by the target.
        env: Environment variables in addition to the image's own.
        secrets: Names of variables that are passed on from the caller's environment (``NEW=NAME``: under a new name).
        model: The name that requests give.
        checkpoint: Folder with the model on this machine; empty: the server loads it by its name on the hub.
        weights: Model of the models' repository that the release was tested with (``NAME@DIGEST``); empty: none was recorded.
            Target ``local`` serves these files; in a cluster the configuration says where the model comes from.
        gpus: Devices for each replica.
        memory_bytes: What a replica needs; 0: not known, and not counted.
        ready_timeout_s: How long a replica may take from its start to its first completion.
        drain_s: How long streams may go on after a replica gets no new ones.
        sleeps: Whether servers that are not used sleep (vLLM's sleep mode) where they would be ended.
        protocol: What they speak.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    model: str
    checkpoint: str = ""
    weights: str = ""
    gpus: int = 0
    memory_bytes: int = 0
    ready_timeout_s: float = 1200.0
    drain_s: float = 120.0
    sleeps: bool = False
    protocol: Wire = "http"


@dataclass(frozen=True, kw_only=True)
class Revision:
    """A release and how it is served; two that differ in either are two revisions.

    Attributes:
        commit: 40-hex id of the release.
        image: By digest.
        serving: How its servers are started.
    """

    commit: str
    image: ImageRef
    serving: Serving

    @property
    def name(self) -> str:
        """Commit and a hash of digest and settings: a DNS label of 21 characters, safe as the name of a file."""
        seconds = {"ready_timeout_s": float(self.serving.ready_timeout_s), "drain_s": float(self.serving.drain_s)}  # 60 is 60.0
        known = {**asdict(self.serving), **seconds}
        if self.serving.protocol == "http":  # names are those that were given before there was another protocol
            del known["protocol"]
        content = json.dumps([self.image.digest, known], sort_keys=True)
        return f"{self.commit[:12]}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"

    def serves(self, release: Release) -> bool:
        """Whether this is the image and the model of a release."""
        return (self.image.digest, self.serving.weights) == (release.digest, release.model)


@dataclass(frozen=True, kw_only=True)
class Route:
    """How requests are shared among revisions.

    Attributes:
        weights: Share of the requests in percent, by name of the revision; they sum to 100, or there are none.
        mirror: Name of the revision that gets a copy of requests, whose answers nobody sees; empty: none.
        mirror_percent: Share of the requests that are copied.
        headers: Value of the header ``x-vllm-ci-revision`` -> name of the revision that answers requests with it. This is also
            the preview: checks reach a revision by it that no user reaches yet.
    """

    weights: Mapping[str, int] = field(default_factory=dict)
    mirror: str = ""
    mirror_percent: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if any(not 0 <= each <= 100 for each in (*self.weights.values(), self.mirror_percent)):
            raise ValueError("a share is a percentage from 0 to 100")
        if self.weights and sum(self.weights.values()) != 100:
            raise ValueError(f"shares sum to {sum(self.weights.values())}, not to 100")

    @property
    def revisions(self) -> frozenset[str]:
        """Names of all revisions that a request may reach by it."""
        mirrored = {self.mirror} if self.mirror and self.mirror_percent else set[str]()
        return frozenset({name for name, share in self.weights.items() if share} | mirrored | set(self.headers.values()))


REVISION_HEADER = "x-vllm-ci-revision"


@dataclass(frozen=True, kw_only=True)
class Replica:
    """One server of a revision.

    Attributes:
        name: Unique on the target.
        revision: Name of its revision.
        state: ``ready`` once it has completed a request.
        url: As reached from the gateway; empty until it listens.
        started_at: When (RFC 3339, UTC).
        restarts: How often it died and was started again.
        message: Why it is in this state, with the end of its log when it failed.
    """

    name: str
    revision: str
    state: ReplicaState
    url: str = ""
    started_at: str = ""
    restarts: int = 0
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Current:
    """What runs at a target.

    Attributes:
        address: Base URL of the gateway; empty when nothing was deployed.
        checks: Base URL for checks from this machine, without a key, TLS and limits (same routes and headers); empty: none.
        route: In effect now.
        replicas: Of all revisions.
        wanted: Number of replicas that should run, by name of the revision.
        revisions: By name; those that run, and those that are kept to go back to.
        asleep: It is scaled to zero, and a request wakes the revision of the route.
        down: The gateway has died, and no request is answered; :meth:`Target.start` and :meth:`Target.route` start it again.
    """

    address: str = ""
    checks: str = ""
    route: Route = field(default_factory=Route)
    replicas: tuple[Replica, ...] = ()
    wanted: Mapping[str, int] = field(default_factory=dict)
    revisions: Mapping[str, Revision] = field(default_factory=dict)
    asleep: bool = False
    down: bool = False

    def ready(self, revision: str) -> int:
        """Number of replicas of ``revision`` that can answer."""
        return sum(each.revision == revision and each.state == "ready" for each in self.replicas)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What one revision did in a window of time, as the gateway and its servers counted it.

    Attributes:
        requests: Requests that ended in the window, without those whose client left before an answer began.
        errors: Of them, those that the server is to blame for: a status of 500 or above (of gRPC: UNKNOWN, DEADLINE_EXCEEDED,
            UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS), a broken stream, no answer.
        latencies_ms: Quantile (``0.5``, ``0.95``, ``0.99``) -> milliseconds from request to end; absent: no data.
        ttft_ms: The same up to the first byte of the body.
        values: Other metrics by name, such as ``vllm:num_requests_waiting`` (sum over replicas), ``memory_bytes``.
    """

    requests: int = 0
    errors: int = 0
    latencies_ms: Mapping[str, float] = field(default_factory=dict)
    ttft_ms: Mapping[str, float] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What was seen of all revisions in one window.

    Attributes:
        seconds: Length of the window.
        samples: By name of the revision; a revision of which nothing is known is absent.
    """

    seconds: float
    samples: Mapping[str, Sample] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Drained:
    """The end of draining.

    Attributes:
        seconds: How long it took.
        open: Requests that were still open at the deadline; 0: all ended.
    """

    seconds: float
    open: int = 0


@dataclass(frozen=True, kw_only=True)
class TargetCapabilities:
    """What a target can do, said honestly; a plan that needs more is refused before anything is started.

    Attributes:
        weights: Requests can be shared in steps of this many percent; 0: only all or nothing.
        mirror: Requests can be copied.
        headers: A header can choose the revision.
        compares: The answers to copies of requests can be compared with those that users got.
        zero: It can be scaled to zero, and a request wakes it.
        double: It serves nobody and only acts as if.
    """

    weights: int
    mirror: bool
    headers: bool
    compares: bool = False
    zero: bool = False
    double: bool = False


class Target(Protocol):
    """Serves revisions.

    Every method translates what goes wrong underneath into :class:`~vllm_ci.domain.errors.VllmCiError`, from type. A target is
    opened for one deployment (``production``); two deployments on one machine or cluster do not see each other.
    """

    name: str

    @property
    def capabilities(self) -> TargetCapabilities:
        """What it can do."""

    async def current(self) -> Current:
        """What runs now, found by looking and not remembered.

        Raises:
            ErroredError: It could not look.
        """

    async def start(self, revision: Revision, replicas: int) -> None:
        """Make ``replicas`` servers of a revision run; returns when all have completed a request.

        If more run than that, some are drained and stopped. Nobody reaches a new revision by this: that needs :meth:`route`.

        Raises:
            FailedError: A server died or was not ready in time; the message has the end of its log. Those that are ready stay.
            UsageError: It does not fit beside what runs, and the message has the sum; or the target cannot give its servers the
                folder of the model.
        """

    async def route(self, route: Route) -> None:
        """Share requests in another way; returns when the gateway does it. Open requests stay where they are.

        Raises:
            FailedError: A revision of the route has no replica that is ready. The old route stays.
            ErroredError: The gateway cannot be reached or did not take it.
        """

    async def drain(self, revision: str, *, deadline_s: float) -> Drained:
        """Wait until the last open request of a revision has ended, at most ``deadline_s``.

        Raises:
            UsageError: The route still names it.
        """

    async def stop(self, revision: str) -> None:
        """End all replicas of a revision that the route does not name, if there are any; what they have open breaks.

        Raises:
            UsageError: The route still names it.
        """

    async def observe(self, *, seconds: float) -> Observation:
        """Watch for so long and tell what was seen in that time.

        Raises:
            ErroredError: The gateway cannot be reached.
        """

    def comparing(self) -> AbstractContextManager[Callable[[], tuple[Pair, ...]]]:
        """Record both answers to requests that are copied, for the duration of the context, away from the users' way.

        Returns:
            A function that gives the pairs since it was last called.
        """

    async def logs(self, replica: str, *, lines: int = 200) -> str:
        """The end of a replica's log.

        Raises:
            UsageError: There is no such replica.
        """

    async def close(self) -> None:
        """End everything: gateway, replicas, state."""
