"""Probes a server for its models, version, routes and capabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from vllm_ci.suites.client import shown
from vllm_ci.suites.verdicts import Errored

DOUBLE_HEADER = "x-vllm-ci-double"
CAPABILITIES = (
    *("chat", "completions", "tools", "structured_output", "logprobs", "token_ids", "embeddings", "lora"),
    *("tokenize", "metrics", "auth", "tensor_parallel", "quantization", "multimodal"),
)
# Statuses that mean "not supported"; any other status, such as that of a crash, is no reason to skip a case.
_REFUSED = (400, 404, 405, 422, 501)
_SHORT = {"max_tokens": 1, "temperature": 0}
_TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {"n": {"enum": [1]}}}}}
_SCHEMA = {"type": "json_schema", "json_schema": {"name": "one", "schema": {"enum": [1]}}}
_PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@dataclass(frozen=True, kw_only=True)
class ServerFacts:
    """Facts about a server.

    Attributes:
        url: Base URL.
        model: Served name that the cases use.
        models: All models that it lists.
        version: Version of vLLM; empty if it does not report one.
        routes: Methods by path, from its OpenAPI document; empty if it has none.
        absent: Missing capabilities, each with the reason; all others are present.
        max_model_len: Longest sequence in tokens; 0 if it does not report it.
        double: It is one of our test doubles, whose results cannot be used for a release.
    """

    url: str
    model: str
    models: tuple[str, ...]
    version: str
    routes: Mapping[str, tuple[str, ...]]
    absent: Mapping[str, str]
    max_model_len: int
    double: bool

    def can(self, capability: str) -> bool:
        """Whether it has a capability."""
        return capability not in self.absent

    @property
    def facts(self) -> dict[str, object]:
        """For the report."""
        return {
            "models": list(self.models),
            "model": self.model,
            "version": self.version,
            "max_model_len": self.max_model_len,
            "capabilities": [name for name in CAPABILITIES if self.can(name)],
            "absent": dict(self.absent),
            "routes": sum(len(methods) for methods in self.routes.values()),
            "double": self.double,
        }


def probe(http: httpx.Client, *, model: str = "", tensor_parallel_size: int = 0, quantization: str = "") -> ServerFacts:
    """Probe a server.

    Args:
        http: HTTP client with base URL and key.
        model: Served name to use; empty for the first one listed.
        tensor_parallel_size: Known by the caller who started the server; vLLM has no route for it.
        quantization: Known by the caller who started the server; vLLM has no route for it.

    Raises:
        Errored: The server cannot be reached, or does not list the model.
    """
    try:
        listed = http.get("/v1/models")
    except httpx.HTTPError as error:
        raise Errored(f"{http.base_url} cannot be reached: {error!r}") from error
    if listed.status_code != 200:
        raise Errored(f"GET /v1/models: {shown(listed)}; is the key right (--vllm-api-key-env)?")
    cards = {card["id"]: card for card in listed.json()["data"]}
    model = model or next(iter(cards), "")
    if model not in cards:
        raise Errored(f"the server lists {sorted(cards)}, not {model!r}")
    routes = _routes(http)
    probes = _probes(http, model, routes)
    absent = {name: reason for name, look in probes.items() if (reason := look())}
    if not any(card.get("parent") for card in cards.values()):
        absent["lora"] = "no listed model has a parent"
    if tensor_parallel_size < 2:
        absent["tensor_parallel"] = "the server is not known to run with several shards"
    if not quantization:
        absent["quantization"] = "the server is not known to run with a quantized model"
    return ServerFacts(
        url=str(http.base_url),
        model=model,
        models=tuple(cards),
        version=_version(http),
        routes=routes,
        absent=absent,
        max_model_len=int(cards[model].get("max_model_len") or 0),
        double=DOUBLE_HEADER in listed.headers,
    )


def _probes(http: httpx.Client, model: str, routes: Mapping[str, tuple[str, ...]]) -> dict[str, Callable[[], str]]:
    """For each capability a function that returns why it is missing; empty if it is present."""
    asks = [{"role": "user", "content": "hello"}]
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": _PIXEL}}]}]

    def chat(**parameters: Any) -> Callable[[], str]:
        body = {"model": model, "messages": asks, **_SHORT, **parameters}
        return lambda: _refusal(http, "/v1/chat/completions", body)

    def route(path: str, body: dict[str, Any] | None) -> Callable[[], str]:
        listed = not routes or path in routes
        return (lambda: _refusal(http, path, body)) if listed else (lambda: f"its OpenAPI document has no {path}")

    def token_ids() -> str:
        body = {"model": model, "prompt": "hello", **_SHORT, "return_token_ids": True}
        answer = http.post("/v1/completions", json=body)
        known = answer.status_code == 200 and answer.json()["choices"][0].get("token_ids")
        return "" if known else "return_token_ids returns none"

    def auth() -> str:
        anonymous = http.get("/v1/models", headers={"authorization": ""})
        return "" if anonymous.status_code in (401, 403) else "the server lists its models without a key"

    return {
        "chat": route("/v1/chat/completions", {"model": model, "messages": asks, **_SHORT}),
        "completions": route("/v1/completions", {"model": model, "prompt": "hello", **_SHORT}),
        "tools": chat(tools=[_TOOL], tool_choice="auto"),
        "structured_output": chat(response_format=_SCHEMA, max_tokens=4),
        "logprobs": chat(logprobs=True, top_logprobs=1),
        "multimodal": chat(messages=picture),
        "token_ids": token_ids,
        "embeddings": route("/v1/embeddings", {"model": model, "input": "hello"}),
        "tokenize": route("/tokenize", {"model": model, "prompt": "hello"}),
        "metrics": route("/metrics", None),
        "auth": auth,
    }


def _refusal(http: httpx.Client, path: str, body: dict[str, Any] | None) -> str:
    answer = http.get(path) if body is None else http.post(path, json=body)
    return f"{path}: {shown(answer)}" if answer.status_code in _REFUSED else ""


def _routes(http: httpx.Client) -> dict[str, tuple[str, ...]]:
    answer = http.get("/openapi.json")
    if answer.status_code != 200:
        return {}
    paths: dict[str, dict[str, Any]] = answer.json().get("paths", {})
    return {path: tuple(sorted(method.upper() for method in methods)) for path, methods in paths.items()}


def _version(http: httpx.Client) -> str:
    answer = http.get("/version")
    return str(answer.json().get("version", "")) if answer.status_code == 200 else ""
