"""Watch a release: compare, tell a webhook about what became worse, and roll back where that is allowed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from vllm_ci.domain.errors import ErroredError, FailedError, UsageError, VllmCiError
from vllm_ci.domain.events import Emit, Progress, ignore, step
from vllm_ci.domain.report import Verdict
from vllm_ci.monitoring import webhook
from vllm_ci.monitoring.around import Ask, Compared, Stretches, look, to_json
from vllm_ci.monitoring.signals import BY_NAME
from vllm_ci.monitoring.slo import Objective, burn_rate
from vllm_ci.monitoring.webhook import Anomaly
from vllm_ci.release import history
from vllm_ci.release.moved import Moved
from vllm_ci.release.record import Record, Release
from vllm_ci.release.rollback import rollback
from vllm_ci.release.setup import Setup

_EVERY_S = 60.0
_MISSES = 10
"""Looks in a row that may fail before waiting ends: Prometheus is restarted, too."""
ALERT = "VllmReleaseAnomaly"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a channel is watched.

    Attributes:
        labels: Of its series.
        seconds: Length of the stretches that are compared.
        settle_s: Time after the release that is left out.
        margins: Tolerated changes by signal.
        availability: The objective that errors are compared with.
        source: URL of Prometheus, for the message.
        webhook: URL that anomalies are sent to; empty: none.
        roll_back: Roll back when something became worse.
        lead: Leads requests to the release that was gone back to, where the channel is deployed from here.
    """

    labels: Mapping[str, str]
    seconds: float
    settle_s: float
    availability: Objective
    margins: Mapping[str, float] = field(default_factory=dict)
    source: str = ""
    webhook: str = ""
    roll_back: bool = False
    lead: Callable[[Release], object] | None = None


@dataclass(frozen=True, kw_only=True)
class Watched:
    """The result.

    Attributes:
        record: The release.
        compared: What was found.
        availability: The objective.
        notified: The webhook took the message.
        moved: The rollback, if there was one.
        problems: What could not be done about an anomaly.
    """

    record: Record
    compared: Compared
    availability: Objective
    notified: bool = False
    moved: Moved | None = None
    problems: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """Of the comparison."""
        return self.compared.verdict

    @property
    def burn_rate(self) -> float | None:
        """How fast the errors since the release use the error budget; 1: it lasts exactly for its period."""
        errors = next((each.after for each in self.compared.findings if each.signal == "errors"), None)
        return None if errors is None else burn_rate(errors, self.availability)

    def to_json(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        stretches = self.compared.stretches
        windows = {"before": stretches.before, "after": stretches.after}
        return {
            "channel": self.record.channel,
            "release": {"commit": self.record.release.commit, "digest": self.record.release.digest, "at": self.record.at},
            "verdict": self.verdict.value,
            "complete": stretches.complete,
            "windows": {name: {"from": _time(start), "to": _time(end)} for name, (start, end) in windows.items()},
            "burn_rate": self.burn_rate,
            "signals": to_json(self.compared),
            "notified": self.notified,
            "rollback": self.moved.to_json() if self.moved else None,
            "problems": list(self.problems),
        }


def watch(
    setup: Setup,
    channel: str,
    ask: Ask,
    settings: Settings,
    *,
    at: datetime | None = None,
    wait: bool = False,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
    emit: Emit = ignore,
) -> Watched:
    """Compare the time after a channel's last release with that before.

    Args:
        setup: Ledger, and what a rollback needs.
        channel: Which channel.
        ask: Gives data.
        settings: How it is watched.
        at: When the release began to serve, if that was later than its record in the ledger.
        wait: Look every minute until the whole time after the release has passed, or something became worse.
        clock: The present, in seconds since 1970.
        sleep: Waits.
        emit: Told of each step.

    Raises:
        UsageError: Nothing was released to the channel.
        ErroredError: Prometheus or the ledger cannot be reached; with ``wait``, ten times in a row.
    """
    found = _released(setup, channel, settings.settle_s)
    record, later = found.record, at.timestamp() if at else 0.0
    released = max(found.moved, later)
    # The old release serves until the deployment begins, the new one alone when it has ended.
    settle_s = max(found.served - released, 0.0) + settings.settle_s

    def looked() -> Compared:
        since = min(found.since, released)
        stretches = Stretches(released=released, settle_s=settle_s, seconds=settings.seconds, now=clock(), since=since)
        return look(ask, settings.labels, stretches, settings.margins)

    with step(emit, "watch", f"{channel}, {record.release.commit[:12]} of {_time(released)}") as done:
        compared, missed = looked(), 0
        while wait and not compared.worse and not compared.stretches.complete:
            passed = clock() - released
            emit(Progress(step="watch", detail=f"{passed / 60:.0f} of {(settings.seconds + settle_s) / 60:.0f} min"))
            sleep(_EVERY_S)
            try:
                compared, missed = looked(), 0
            except ErroredError:
                missed += 1
                if missed == _MISSES:
                    raise
        done(compared.verdict.value)
    result = Watched(record=record, compared=compared, availability=settings.availability)
    return _acted(setup, result, settings, emit) if compared.worse else result


@dataclass(frozen=True, kw_only=True)
class _Release:
    """What is watched.

    Attributes:
        record: The channel's last move.
        moved: When (seconds since 1970).
        served: When it began to serve; the same where the ledger has no deployments of the channel.
        since: From when on the release before it served undisturbed; 0: it was the first.
    """

    record: Record
    moved: float
    served: float
    since: float


def _released(setup: Setup, channel: str, settle_s: float) -> _Release:
    setup.channel(channel)
    records = setup.ledger.read().records
    moves = [each for each in history.of(records, channel) if each.action != "repair"]
    if not moves:
        raise UsageError(f"nothing was released to {channel}", remedy=f"see vllm-ci history {channel}")
    last, moved = moves[-1], _seconds(moves[-1].at)
    deployments = [each for each in records if each.channel == channel and each.action == "deploy"]
    if not deployments:
        before = _seconds(moves[-2].at) + settle_s if len(moves) > 1 else 0.0
        return _Release(record=last, moved=moved, served=moved, since=before)
    newest = deployments[-1]
    if newest.number < last.number or newest.release.digest != last.release.digest:
        raise UsageError(
            f"{channel} points to {last.release.commit[:12]}, which does not serve",
            why=f"the last deployment is that of {newest.release.commit[:12]}",
            remedy=f"vllm-ci deploy {channel}; see vllm-ci deploy status {channel}",
        )
    began = next(each for each in deployments if each.number > last.number and each.release.digest == last.release.digest)
    earlier = [_seconds(each.at) for each in deployments if each.number < last.number]
    since = earlier[-1] + settle_s if earlier else 0.0
    return _Release(record=last, moved=moved, served=_seconds(began.at), since=since)


def _acted(setup: Setup, found: Watched, settings: Settings, emit: Emit) -> Watched:
    """Roll back first: it is what helps users."""
    if settings.roll_back:
        try:
            found = replace(found, moved=_back(setup, found, emit))
            if settings.lead is not None and found.moved is not None:
                settings.lead(found.moved.release)
        except VllmCiError as error:
            done = "rolled back in the ledger" if found.moved else "not rolled back"
            found = replace(found, problems=(*found.problems, f"{done}: {error}"))
    if settings.webhook:
        try:
            webhook.send(settings.webhook, _message(found, settings))
            found = replace(found, notified=True)
        except VllmCiError as error:
            found = replace(found, problems=(*found.problems, str(error)))
    return found


def _back(setup: Setup, found: Watched, emit: Emit) -> Moved:
    channel, release = found.record.channel, found.record.release
    if found.record.action == "rollback":
        raise FailedError(
            f"the last move of {channel} was a rollback already",
            why="going back further by itself could remove one good release after another",
            remedy=f"choose a release that vllm-ci history {channel} shows: vllm-ci rollback {channel} --to COMMIT",
        )
    current = history.current(setup.ledger.read().records, channel)
    if current is None or current.release.digest != release.digest:
        raise FailedError(f"{channel} was moved in the meantime", remedy="watch the new release")
    worse = ", ".join(each.signal for each in found.compared.worse)
    return rollback(setup, channel, reason=f"vllm-ci watch: {worse} became worse", emit=emit).require()


def _message(found: Watched, settings: Settings) -> dict[str, Any]:
    channel, release = found.record.channel, found.record.release
    group = {"alertname": ALERT, "channel": channel}
    back = f"rolled back to {found.moved.release.commit[:12]}" if found.moved else "not rolled back"
    anomalies = [
        Anomaly(
            labels={
                **group,
                "signal": each.signal,
                "severity": "page",
                "commit": release.commit,
                "digest": release.digest,
            },
            annotations={
                "summary": f"{channel}: {BY_NAME[each.signal].title} became worse with {release.commit[:12]}",
                "description": f"{each.message}. {BY_NAME[each.signal].action}",
                "rollback": back,
            },
            starts_at=_time(found.compared.stretches.released),
            source=settings.source,
        )
        for each in found.compared.worse
    ]
    return webhook.payload(anomalies, group=group)


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
