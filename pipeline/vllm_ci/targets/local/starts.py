"""Starts from zero, with their phases: what is kept of them, and how Prometheus and people read it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter

from vllm_ci.deploy.scaling import again_s
from vllm_ci.targets.local.state import write

_KEPT = 50


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start of a server that a request caused. Times are seconds since that request; ``None``: not known, or not reached.

    Attributes:
        at: When the request came (seconds since 1970).
        revision: Name of the revision.
        request_id: Of the request.
        process_s: Until the server's process had started.
        ready_s: Until it had completed a request.
        routed_s: Until the gateway sent requests there.
        first_byte_s: Until the first byte of the answer to the request, once that answer has ended.
        waited: Requests that waited at the end.
        ended_at: When it was over (seconds since 1970).
        error: Why it failed.
    """

    at: float
    revision: str
    request_id: str = ""
    process_s: float | None = None
    ready_s: float | None = None
    routed_s: float | None = None
    first_byte_s: float | None = None
    waited: int = 0
    ended_at: float = 0.0
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Starts:
    """All starts.

    Attributes:
        recent: The newest ones, in order.
        succeeded: How many there were.
        failed: How many there were.
        refused: Requests that could not wait.
        rested: How often it was scaled to zero.
        failures: Failed starts since the last that succeeded.
    """

    recent: tuple[Start, ...] = field(default=())
    succeeded: int = 0
    failed: int = 0
    refused: int = 0
    rested: int = 0
    failures: int = 0

    @property
    def last(self) -> Start | None:
        """The newest one."""
        return self.recent[-1] if self.recent else None

    @property
    def again_at(self) -> float:
        """When a start may be tried again after one that failed, in seconds since 1970."""
        last = self.last
        return last.ended_at + again_s(self.failures) if last and self.failures else 0.0

    def having(self, start: Start) -> Starts:
        """The same with one more."""
        good = not start.error
        return replace(
            self,
            recent=(*self.recent, start)[-_KEPT:],
            succeeded=self.succeeded + good,
            failed=self.failed + (not good),
            failures=0 if good else self.failures + 1,
        )

    def answered(self, first_byte_s: float) -> Starts:
        """The same, with the first byte of the newest one known."""
        return replace(self, recent=(*self.recent[:-1], replace(self.recent[-1], first_byte_s=first_byte_s)))


_ADAPTER = TypeAdapter(Starts)


def read(folder: Path) -> Starts:
    """What is kept of a deployment in ``folder``; nothing where it cannot be read."""
    try:
        return _ADAPTER.validate_json((folder / "starts.json").read_bytes())
    except (OSError, ValueError):
        return Starts()


def keep(folder: Path, starts: Starts) -> None:
    """Replace what is kept.

    Raises:
        ErroredError: It cannot be written; the old content stays.
    """
    write(folder / "starts.json", _ADAPTER.dump_json(starts, indent=1))


def prometheus(starts: Starts, *, asleep: bool, waiting: int) -> str:
    """Metrics in Prometheus' text format."""
    last = starts.last
    phases = {
        "process": last.process_s if last else None,
        "ready": last.ready_s if last else None,
        "routed": last.routed_s if last else None,
        "first_byte": last.first_byte_s if last else None,
    }
    seconds = [f'vllm_ci_start_seconds{{phase="{name}"}} {value:.3f}' for name, value in phases.items() if value is not None]
    return "\n".join(
        [
            *_metric("vllm_ci_scaled_to_zero", "gauge", "Whether no server runs.", [f"vllm_ci_scaled_to_zero {int(asleep)}"]),
            *_metric(
                "vllm_ci_requests_held", "gauge", "Requests that wait for a server.", [f"vllm_ci_requests_held {waiting}"]
            ),
            *_counter("vllm_ci_requests_held_refused_total", "Requests that could not wait.", starts.refused),
            *_counter("vllm_ci_starts_total", "Starts from zero that succeeded.", starts.succeeded),
            *_counter("vllm_ci_starts_failed_total", "Starts from zero that failed.", starts.failed),
            *_counter("vllm_ci_rests_total", "Times that it was scaled to zero.", starts.rested),
            *_metric(
                "vllm_ci_start_seconds", "gauge", "Last start from zero: seconds from the request to each phase.", seconds
            ),
            "",
        ]
    )


def _counter(name: str, words: str, value: int) -> Iterable[str]:
    return _metric(name, "counter", words, [f"{name} {value}"])


def _metric(name: str, kind: str, words: str, samples: list[str]) -> Iterable[str]:
    return (f"# HELP {name} {words}", f"# TYPE {name} {kind}", *samples) if samples else ()
