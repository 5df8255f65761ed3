"""Valid and invalid requests that schemathesis generates from the server's OpenAPI document, for a given time."""

from __future__ import annotations

import importlib
import itertools
import time
from collections.abc import Callable, Iterable
from typing import Any

import httpx
import pytest

from vllm_ci.suites.client import ApiClient
from vllm_ci.suites.findings import Finding
from vllm_ci.suites.security.routes import catalogue
from vllm_ci.suites.verdicts import Errored

Judge = Callable[[Iterable[Finding]], None]

_EXAMPLES = 5
_PATIENCE_S = 30.0
_NOT_IMPLEMENTED = 501


@pytest.mark.requires_capability("completions")
def test_no_generated_request_breaks_the_server(
    pytestconfig: pytest.Config, client: ApiClient, judge: Judge, metric: Callable[[str, object], None]
) -> None:
    """No generated request is answered with 5xx or takes too long."""
    seconds = pytestconfig.option.vllm_deep
    if not seconds:
        pytest.skip("--vllm-deep SECONDS was not given")
    try:
        schemathesis, hypothesis = importlib.import_module("schemathesis"), importlib.import_module("hypothesis")
    except ImportError as error:
        raise Errored(f"--vllm-deep needs the extra vllm-ci[deep]: {error}") from error
    document = client.http.get("/openapi.json")
    if document.status_code != 200:
        pytest.skip("the server has no OpenAPI document")
    operations = _operations(schemathesis, document.json())
    found: dict[str, Finding] = {}
    sent = 0
    for operation in operations:
        deadline = time.monotonic() + seconds / len(operations)
        sent += _attack(operation, client.http, schemathesis, hypothesis, deadline, found)
    metric("generated_requests", sent)
    judge(found.values())
    client.works()


def _operations(schemathesis: Any, document: dict[str, Any]) -> list[Any]:
    """Operations of a document, except those that change the server."""
    never = catalogue().development
    schema = schemathesis.openapi.from_dict(document)
    operations = [result.ok() for result in schema.get_all_operations()]
    kept = [operation for operation in operations if operation.path not in never]
    if not kept:
        raise Errored("the OpenAPI document has no operation that can be called safely")
    return kept


def _attack(
    operation: Any, http: httpx.Client, schemathesis: Any, hypothesis: Any, deadline: float, found: dict[str, Finding]
) -> int:
    """Send generated requests until the deadline; adds findings to ``found`` and returns the number of requests."""
    modes = schemathesis.GenerationMode
    strategy = operation.as_strategy(generation_mode=modes.NEGATIVE) | operation.as_strategy(generation_mode=modes.POSITIVE)
    settings = hypothesis.settings(
        max_examples=_EXAMPLES,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    sent = 0

    def send(case: Any) -> None:
        nonlocal sent
        sent += 1
        if (finding := _verdict(operation.label, case, http)) is not None:
            found[finding.id] = finding

    # Hypothesis has no time limit, so each run generates only a few examples.
    for seed in itertools.count():
        hypothesis.seed(seed)(settings(hypothesis.given(strategy)(send)))()
        if time.monotonic() > deadline:
            return sent
    return sent


def _verdict(label: str, case: Any, http: httpx.Client) -> Finding | None:
    wanted = case.as_transport_kwargs(base_url=str(http.base_url).rstrip("/"))
    known = ("json", "data", "params", "headers", "cookies")
    options = {name: wanted[name] for name in known if wanted.get(name) not in (None, {})}
    if isinstance(options.get("data"), bytes | str):
        options["content"] = options.pop("data")
    try:
        answer = http.request(wanted["method"], wanted["url"], timeout=_PATIENCE_S, **options)
    except httpx.TimeoutException:
        return Finding(id=f"generated-slow:{label}", severity="medium", message=f"no answer within {_PATIENCE_S:.0f} s")
    except (httpx.HTTPError, ValueError, TypeError, UnicodeError):
        return None  # the client cannot send this request
    if answer.status_code < 500 or answer.status_code == _NOT_IMPLEMENTED:
        return None
    message = f"{answer.status_code} for {str(options.get('json', options.get('content', '')))[:200]!r}"
    return Finding(id=f"generated-error:{label}", severity="medium", message=message)
