"""Facts about a server: its models, version, routes and capabilities, probed once."""

from __future__ import annotations

import ssl
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from vllm_ci.suites.capabilities import CAPABILITIES, Probing
from vllm_ci.suites.control import Control
from vllm_ci.suites.dialect import learn
from vllm_ci.suites.reach import choose, no_surface, reach
from vllm_ci.suites.traffic import Traffic
from vllm_ci.system.trust import tls_context

__all__ = ["CAPABILITIES", "DOUBLE_HEADER", "ServerFacts", "probe"]

DOUBLE_HEADER = "x-vllm-ci-double"
_SURFACES = ("chat", "completions", "embeddings")


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
        is_vllm: It says that it is vLLM.
        broken: Probes that were answered with 5xx or not at all, with what was seen.
        unknown: Those of them that were not answered in time on a busy machine, with the reason.
        dialect: Fields that the server wants to have in other words, with what is sent.
    """

    url: str
    model: str
    models: tuple[str, ...]
    version: str
    routes: Mapping[str, tuple[str, ...]]
    absent: Mapping[str, str]
    max_model_len: int
    double: bool
    is_vllm: bool = False
    broken: Mapping[str, str] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)
    dialect: Mapping[str, str] = field(default_factory=dict)

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
            "is_vllm": self.is_vllm,
            "max_model_len": self.max_model_len,
            "capabilities": [name for name in CAPABILITIES if self.can(name)],
            "absent": dict(self.absent),
            "routes": sum(len(methods) for methods in self.routes.values()),
            "double": self.double,
            **({"broken_probes": dict(self.broken)} if self.broken else {}),
            **({"dialect": dict(self.dialect)} if self.dialect else {}),
        }


def probe(
    http: httpx.Client,
    *,
    model: str = "",
    tensor_parallel_size: int = 0,
    quantization: str = "",
    traffic: Traffic | None = None,
    wanted: Collection[str] = CAPABILITIES,
) -> ServerFacts:
    """Probe a server.

    Args:
        http: HTTP client with base URL and key.
        model: Served name to use; empty for the first one listed.
        tensor_parallel_size: Known by the caller who started the server; vLLM has no route for it.
        quantization: Known by the caller who started the server; vLLM has no route for it.
        traffic: What the clients of the run share; it gets a control for refused requests, and the dialect.
        wanted: Capabilities to look for, beside chat and completions; all others count as missing.

    Raises:
        UnreachableError: The server cannot be tested: it cannot be reached, or the model does not answer.
    """
    reached = reach(http, model=model)
    cards = reached.cards
    name = choose(cards, model)
    if traffic is not None:
        traffic.control = control(http, name, tls_context(), traffic).served
        learn(http, name, traffic.dialect)
    routes, version = _routes(http), _version(http)
    is_vllm = bool(version) and (cards.get(name, {}).get("owned_by") == "vllm" or "/tokenize" in routes)
    dialect = traffic.dialect.facts if traffic is not None else {}
    repeatable = "temperature" not in dialect
    probing = Probing(http=http, model=name, is_vllm=is_vllm, routes=routes, repeatable=repeatable, wanted=wanted)
    absent = probing.absent()
    if probing.lost:
        # A server that died meanwhile lacks nothing: say that it cannot be reached.
        reach(http, model=model)
    _require_a_surface(name, absent, given=bool(model), listed=len(cards))
    if "temperature" in dialect:
        absent["temperature"] = "the server refuses a temperature other than its default, so no answer can be repeated"
    if not any(card.get("parent") for card in cards.values()):
        absent["lora"] = "no listed model has a parent"
    if tensor_parallel_size < 2:
        absent["tensor_parallel"] = "the server is not known to run with several shards"
    if not quantization:
        absent["quantization"] = "the server is not known to run with a quantized model"
    return ServerFacts(
        url=str(http.base_url),
        model=name,
        models=tuple(cards) or (name,),
        version=version,
        routes=routes,
        absent=absent,
        max_model_len=_length(cards.get(name, {})),
        double=DOUBLE_HEADER in reached.headers,
        is_vllm=is_vllm,
        broken=dict(probing.broken),
        unknown=dict(probing.unknown),
        dialect=dialect,
    )


def control(http: httpx.Client, model: str, tls: ssl.SSLContext, traffic: Traffic) -> Control:
    """Controls for the server of a client."""
    key = http.headers.get("authorization")
    headers = {"authorization": key} if key else {}
    return Control(str(http.base_url), model=model, headers=headers, tls=tls, spoken=traffic.spoken)


def _require_a_surface(model: str, absent: Mapping[str, str], *, given: bool, listed: int) -> None:
    """A server on which the model answers nothing at all has no verdict.

    Raises:
        UnreachableError: It supports neither chat, completions nor embeddings.
    """
    if not all(name in absent for name in _SURFACES):
        return
    said = sorted({f"{name}: {absent[name]}" for name in _SURFACES[:2]})
    raise no_surface(model, said, given=given, listed=listed)


def _length(card: Mapping[str, Any]) -> int:
    """Longest sequence in tokens as vLLM and others list it; 0 if the card does not say."""
    for key in ("max_model_len", "context_length", "context_window"):
        value = card.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return 0


def _routes(http: httpx.Client) -> dict[str, tuple[str, ...]]:
    document = _json(http, "/openapi.json")
    paths = document.get("paths")
    if not isinstance(paths, dict):
        return {}
    return {path: tuple(sorted(str(method).upper() for method in methods)) for path, methods in paths.items()}


def _version(http: httpx.Client) -> str:
    return str(_json(http, "/version").get("version") or "")


def _json(http: httpx.Client, path: str) -> dict[str, Any]:
    """The JSON object of a GET; empty if there is none, which is legal for these paths."""
    try:
        answer = http.get(path)
        found = answer.json() if answer.status_code == 200 else {}
    except (httpx.HTTPError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
