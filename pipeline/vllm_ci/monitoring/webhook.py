"""Anomalies as Alertmanager sends them to webhooks (version 4; prometheus.io/docs/alerting, "webhook_config")."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from vllm_ci.domain.errors import ErroredError, UsageError

_ATTEMPTS = 5
_TIMEOUT_S = 10.0
RECEIVER = "vllm-ci"


@dataclass(frozen=True, kw_only=True)
class Anomaly:
    """One signal that became worse.

    Attributes:
        labels: Name it: ``alertname``, ``channel``, ``signal``, ``severity`` and so on.
        annotations: Text for people: ``summary``, ``description``.
        starts_at: When it began (RFC 3339).
        source: URL where the data come from.
    """

    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    starts_at: str
    source: str


def payload(anomalies: Iterable[Anomaly], *, group: Mapping[str, str]) -> dict[str, Any]:
    """The body of the request.

    Args:
        anomalies: At least one.
        group: Labels that they share and are grouped by.
    """
    alerts = [_alert(each) for each in anomalies]
    key = ",".join(f"{name}={json.dumps(value)}" for name, value in sorted(group.items()))
    return {
        "version": "4",
        "groupKey": f"{{}}:{{{key}}}",
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": RECEIVER,
        "groupLabels": dict(group),
        "commonLabels": _common([each["labels"] for each in alerts]),
        "commonAnnotations": _common([each["annotations"] for each in alerts]),
        "externalURL": alerts[0]["generatorURL"],
        "alerts": alerts,
    }


def _alert(each: Anomaly) -> dict[str, Any]:
    labels = dict(sorted(each.labels.items()))
    return {
        "status": "firing",
        "labels": labels,
        "annotations": dict(each.annotations),
        "startsAt": each.starts_at,
        "endsAt": "0001-01-01T00:00:00Z",  # not over: Go's zero time
        "generatorURL": each.source,
        "fingerprint": hashlib.sha256(json.dumps(labels).encode()).hexdigest()[:16],
    }


def _common(each: list[dict[str, str]]) -> dict[str, str]:
    return {name: value for name, value in each[0].items() if all(other.get(name) == value for other in each)}


def check(url: str) -> None:
    """Refuse what is no address of a webhook before anything is measured.

    Raises:
        UsageError: It is not.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError("the webhook is not a URL", remedy="write it as https://HOST/PATH")


def send(url: str, body: Mapping[str, Any], *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Deliver it: at most 5 attempts, with 1, 2, 4 and 8 seconds between them.

    Args:
        url: Of the receiver; its path and query may be secret and are in no message.
        body: As :func:`payload` gives it.
        sleep: Waits between attempts.

    Raises:
        ErroredError: It was not taken.
    """
    problem = ""
    for attempt in range(_ATTEMPTS):
        if attempt:
            sleep(2.0 ** (attempt - 1))
        try:
            with httpx.stream("POST", url, json=dict(body), timeout=_TIMEOUT_S) as response:
                status = response.status_code
        except (httpx.HTTPError, OSError) as error:
            problem = type(error).__name__
            continue
        if 200 <= status < 300:
            return
        problem = f"status {status}"
        if status < 500 and status not in (408, 429):
            break
    raise ErroredError(
        f"the webhook at {urlsplit(url).hostname} did not take the message",
        why=problem,
        remedy="the anomalies are in the output of this command; check the address and the receiver",
    )
