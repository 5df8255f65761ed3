"""Messages to webhooks: their form, and what happens when the receiver does not take them."""

from __future__ import annotations

import pytest

from unit.monitoring.programs import free_port, receiver
from vllm_ci.domain.errors import ErroredError, UsageError
from vllm_ci.monitoring import webhook
from vllm_ci.monitoring.webhook import Anomaly, payload

GROUP = {"alertname": "VllmReleaseAnomaly", "channel": "production"}


def anomaly(signal: str) -> Anomaly:
    return Anomaly(
        labels={**GROUP, "signal": signal},
        annotations={"summary": f"{signal} became worse", "rollback": "not rolled back"},
        starts_at="2026-01-31T12:00:00Z",
        source="http://prometheus:9090",
    )


def test_the_message_has_the_fields_of_alertmanagers() -> None:
    body = payload([anomaly("ttft"), anomaly("errors")], group=GROUP)
    assert body["version"] == "4"
    assert body["status"] == "firing"
    assert body["groupKey"] == '{}:{alertname="VllmReleaseAnomaly",channel="production"}'
    assert body["commonLabels"] == GROUP
    assert body["commonAnnotations"] == {"rollback": "not rolled back"}
    assert [each["labels"]["signal"] for each in body["alerts"]] == ["ttft", "errors"]
    assert len({each["fingerprint"] for each in body["alerts"]}) == 2
    assert all(each["endsAt"] == "0001-01-01T00:00:00Z" for each in body["alerts"])


def test_a_message_is_sent_once_to_a_receiver_that_takes_it() -> None:
    with receiver() as hook:
        webhook.send(hook.url, payload([anomaly("ttft")], group=GROUP))
    assert len(hook.bodies) == 1


@pytest.mark.slow
def test_a_receiver_that_is_not_ready_is_tried_again() -> None:
    waits: list[float] = []
    with receiver(503, 429, 500) as hook:
        webhook.send(hook.url, payload([anomaly("ttft")], group=GROUP), sleep=waits.append)
    assert len(hook.bodies) == 4
    assert waits == [1, 2, 4]


@pytest.mark.slow
def test_attempts_are_bounded() -> None:
    with receiver(*[503] * 9) as hook, pytest.raises(ErroredError, match="status 503"):
        webhook.send(hook.url, payload([anomaly("ttft")], group=GROUP), sleep=lambda _: None)
    assert len(hook.bodies) == 5


def test_a_refusal_is_final() -> None:
    with receiver(400) as hook, pytest.raises(ErroredError, match="status 400"):
        webhook.send(hook.url, payload([anomaly("ttft")], group=GROUP))
    assert len(hook.bodies) == 1


@pytest.mark.slow
def test_a_receiver_that_is_absent_is_told_without_the_secret_of_its_address() -> None:
    with pytest.raises(ErroredError) as caught:
        webhook.send(f"http://127.0.0.1:{free_port()}/hook/s3cret", payload([anomaly("x")], group=GROUP), sleep=lambda _: None)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["hook", "file:///etc/passwd", "https://"])
def test_what_is_no_address_is_refused_before_anything_is_measured(url: str) -> None:
    with pytest.raises(UsageError, match="not a URL"):
        webhook.check(url)
