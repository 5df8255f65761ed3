"""Loads of which every request is kept with its outcome, as a test of overload needs it."""

from __future__ import annotations

import contextlib
import socket
import time
from array import array
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from vllm_ci.loadgen.stream import Stream
from vllm_ci.performance.figures import Objective, Spread, too_late
from vllm_ci.performance.load import Load
from vllm_ci.performance.measuring import Setting, load_for
from vllm_ci.performance.outcome import Outcome, outcome_of, right_tokens
from vllm_ci.performance.sample import Sample, Samples
from vllm_ci.performance.server import Served
from vllm_ci.performance.stopping import ran

_GONE_S = 10.0
"""A server under overload may take no connection for a while; after this long it is gone."""
_CONNECT_S, _PAUSE_S = 2.0, 0.5
_OUTCOMES = tuple(Outcome)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What happened in a phase of a load.

    Attributes:
        rate: Requests per second that were due.
        seconds: Its length.
        outcomes: Requests that were due in it, by how they ended.
        served_per_s: Answers that ended in it / its length, whenever their requests were due.
        goodput_per_s: Of these, those that meet the objective; ``None`` without an objective.
        ttft_ms: (first token - due) of the served requests.
        e2e_ms: (last event - due) of the served requests.
        wrong_tokens: Served answers whose number of tokens is not the requested one.
    """

    rate: float
    seconds: float
    outcomes: dict[str, int]
    served_per_s: float
    goodput_per_s: float | None
    ttft_ms: Spread | None
    e2e_ms: Spread | None
    wrong_tokens: int

    @property
    def requests(self) -> int:
        """Requests that were due in it and have ended."""
        return sum(self.outcomes.values())

    @property
    def failed(self) -> dict[str, int]:
        """Requests that were neither served nor refused."""
        return {name: count for name, count in self.outcomes.items() if Outcome(name).failed}


@dataclass(kw_only=True)
class Record:
    """The requests of a load that have ended, in that order.

    Attributes:
        samples: The requests.
        gone: The server took no connection any more.
        interrupted: The load was stopped by a signal.
        sent: Requests that were sent.
    """

    samples: Samples = field(default_factory=Samples)
    gone: bool = False
    interrupted: bool = False
    sent: int = 0
    _outcomes: array[int] = field(default_factory=lambda: array("b"))
    _wrong: array[int] = field(default_factory=lambda: array("b"))
    _late_ms: array[float] = field(default_factory=lambda: array("f"))

    def add(self, sample: Sample, stream: Stream, *, exactly: bool) -> None:
        """Keep how a request ended; the sample is among the samples already."""
        outcome = outcome_of(stream)
        right = outcome is not Outcome.SERVED or right_tokens(stream, asked_tokens=sample.asked_tokens, exactly=exactly)
        self._outcomes.append(_OUTCOMES.index(outcome))
        self._wrong.append(not right)
        self._late_ms.append(sample.lag_ms)

    def __iter__(self) -> Iterator[tuple[Sample, Outcome]]:
        return self.since(0)

    def since(self, number: int) -> Iterator[tuple[Sample, Outcome]]:
        """Those that ended after the first ``number``."""
        for place, sample in enumerate(self.samples.since(number), start=number):
            yield sample, _OUTCOMES[self._outcomes[place]]

    def count(self, outcome: Outcome) -> int:
        """Requests that ended in this way."""
        return self._outcomes.count(_OUTCOMES.index(outcome))

    @property
    def client_too_slow(self) -> str:
        """Why this load says more about the client than about the server; empty if it does not."""
        if count := self.count(Outcome.CLIENT):
            return f"{count} requests were not sent: this machine has no open files or local ports left"
        return too_late(Spread.of(self._late_ms))

    def phase(self, begin_s: float, end_s: float, *, rate: float, objective: Objective) -> Phase:
        """What happened between two times, in seconds after the start."""
        seconds = max(end_s - begin_s, 1e-9)
        due = [(sample, outcome, place) for place, (sample, outcome) in enumerate(self) if begin_s <= sample.due_s < end_s]
        served = [sample for sample, outcome, _ in due if outcome is Outcome.SERVED]
        ended = [sample for sample, outcome in self if outcome is Outcome.SERVED and begin_s <= sample.end_s < end_s]
        return Phase(
            rate=rate,
            seconds=seconds,
            outcomes={str(name): count for name, count in Counter(outcome for _, outcome, _ in due).most_common()},
            served_per_s=len(ended) / seconds,
            goodput_per_s=sum(map(objective.holds, ended)) / seconds if objective else None,
            ttft_ms=Spread.of(value for sample in served if (value := sample.ttft_ms) is not None),
            e2e_ms=Spread.of(sample.e2e_ms for sample in served),
            wrong_tokens=sum(self._wrong[place] for _, _, place in due),
        )


@dataclass(frozen=True, kw_only=True)
class Driver:
    """Sends loads of one setting to one server.

    Attributes:
        served: The server.
        setting: Its workload, pattern, seed and timeout.
        watch: Called with the load at every start and end of a request.
        gone_s: A server that takes no connection for this long is gone.
    """

    served: Served
    setting: Setting
    watch: Callable[[Load], None] = field(default=lambda _load: None)
    gone_s: float = _GONE_S

    def open_loop(
        self, times: Iterable[float], *, stop: Callable[[Record, Load], None] = lambda _record, _load: None
    ) -> Record:
        """Send each request at its time in seconds; ``stop`` is called at every end, and may end the load."""
        return self._drive(lambda load: load.open_loop(times), stop)

    def one_at_a_time(self, seconds: float, *, stop: Callable[[Record, Load], None]) -> Record:
        """Send one request after the other for at most this long."""
        return self._drive(lambda load: load.closed_loop(1, seconds), stop)

    def _drive(self, run: Callable[[Load], Coroutine[Any, Any, None]], stop: Callable[[Record, Load], None]) -> Record:
        load, _ = load_for(self.served, self.setting)
        record, exactly = Record(samples=load.samples), "ignore_eos" in load.target.fields

        def ended(sample: Sample, stream: Stream) -> None:
            record.add(sample, stream, exactly=exactly)
            stop(record, load)

        load.ended, load.gone_s, load.watch = ended, self.gone_s, lambda _running: self.watch(load)
        record.interrupted = not ran(run(load))
        record.sent = load.sent
        last = next((outcome for _, outcome in record.since(max(len(record.samples) - 1, 0))), None)
        # The load may have ended before the server was gone for long enough.
        record.gone = last is Outcome.UNCONNECTED and not record.interrupted and (load.gone or not self._connects())
        return record

    def _connects(self) -> bool:
        """Whether the server takes a connection within the time after which it is gone."""
        parts = urlsplit(self.served.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        until = time.monotonic() + self.gone_s
        while True:
            with contextlib.suppress(OSError), socket.create_connection((parts.hostname, port), timeout=_CONNECT_S):
                return True
            if time.monotonic() >= until:
                return False
            time.sleep(_PAUSE_S)
