"""What a measurement needs to know of a server: its model, its limits, words of its tokenizer, and its own counters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from vllm_ci.domain.plain import one_line
from vllm_ci.performance.workload import WORDS
from vllm_ci.suites import metrics
from vllm_ci.suites.client import ApiClient
from vllm_ci.suites.dialect import Dialect
from vllm_ci.suites.metrics import Samples
from vllm_ci.suites.reach import UnreachableError, base_url
from vllm_ci.suites.server import ServerFacts, probe
from vllm_ci.suites.traffic import Traffic
from vllm_ci.suites.transport import PatientTransport
from vllm_ci.suites.verdicts import Errored, Inconclusive
from vllm_ci.system.trust import tls_context

_TIMEOUT_S = 120.0
WRONG = (AssertionError, httpx.HTTPError, Inconclusive, Errored)
"""What a request of a client of the suites raises when the server does not answer it as it should."""
_LEAST_WORDS = 20
_SPLITS_WORDS = 60
"""Tokens for forty common words, from which a tokenizer splits most words."""
_FIRST_WORD = 300
"""Tokens before this are bytes and special tokens in byte-level tokenizers."""
_TRIED = 400
_WANTED = ("tokenize", "metrics", "usage", "ignore_eos", "token_ids")
"""What a measurement depends on. More would cost: vLLM compiles for ten seconds when first asked for log probabilities."""
COUNTERS = {
    "requests": "vllm:request_success_total",
    "prompt_tokens": "vllm:prompt_tokens_total",
    "output_tokens": "vllm:generation_tokens_total",
    "preemptions": "vllm:num_preemptions_total",
    "prefix_cache_queries": "vllm:prefix_cache_queries_total",
    "prefix_cache_hits": "vllm:prefix_cache_hits_total",
}
"""Counters of vLLM (its documentation, "Production metrics")."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """A server that is ready to be measured.

    Attributes:
        url: Base URL.
        facts: What it is and supports.
        words: Words of exactly one token each.
        exact: Prompt lengths are exact, because the server's tokenizer was asked.
        tokens_per_word: Tokens of a word on average; 1 if lengths are exact.
        headers: The API key, as sent with every request.
        dialect: Changes of requests that the server asked for.
    """

    url: str
    facts: ServerFacts
    words: Sequence[str]
    exact: bool
    tokens_per_word: float
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    dialect: Dialect = field(default_factory=Dialect)

    @contextmanager
    def client(self) -> Iterator[ApiClient]:
        """A client of the suites for single requests."""
        with _http(self.url, self.headers, Traffic(dialect=self.dialect)) as http:
            yield ApiClient(http=http, model=self.facts.model, server=self.facts)

    def counters(self) -> dict[str, float]:
        """Its own counters now; empty if it has none."""
        if not self.facts.can("metrics"):
            return {}
        with _http(self.url, self.headers) as http:
            try:
                answer = http.get("/metrics", timeout=10.0)
                found = metrics.parse(answer.text) if answer.status_code == 200 else Samples(values={})
            except (httpx.HTTPError, ValueError):
                return {}
        totals = {name: found.total(counter) for name, counter in COUNTERS.items() if counter in found}
        return {name: total for name, total in totals.items() if math.isfinite(total)}


def served(url: str, *, model: str = "", key: str = "") -> Served:
    """Probe a server.

    Args:
        url: Its URL, with or without ``/v1``.
        model: Served name; by default the first one that it lists.
        key: Its API key; empty if it needs none.

    Raises:
        UnreachableError: It cannot be measured; the message says why.
    """
    headers = {"authorization": f"Bearer {key}"} if key else {}
    base = base_url(url)
    traffic = Traffic()
    with _http(base, headers, traffic) as http:
        facts = probe(http, model=model, traffic=traffic, wanted=_WANTED)
        client = ApiClient(http=http, model=facts.model, server=facts)
        try:
            words = tuple(_single(client)) if facts.can("tokenize") else ()
            exact = len(words) >= _LEAST_WORDS
            per_word = 1.0 if exact else _per_word(client)
        except WRONG as error:
            raise UnreachableError(
                f"the prompts for {base} cannot be made: {one_line(str(error), 500) or type(error).__name__}",
                remedy="look at the server's log",
            ) from error
    known = words if exact else WORDS
    return Served(
        url=base,
        facts=facts,
        words=known,
        exact=exact,
        tokens_per_word=per_word,
        headers=headers,
        dialect=traffic.dialect,
    )


@contextmanager
def _http(url: str, headers: Mapping[str, str], traffic: Traffic | None = None) -> Iterator[httpx.Client]:
    transport = PatientTransport(traffic or Traffic(), tls=tls_context())
    with httpx.Client(base_url=url, headers=dict(headers), timeout=_TIMEOUT_S, transport=transport, trust_env=False) as http:
        yield http


def _single(client: ApiClient) -> Iterator[str]:
    """Words that add exactly one token to a text."""
    base = _count(client, "a")
    for word in dict.fromkeys((*WORDS, *_of_vocabulary(client))):
        # Twice, because the second one must not merge with the first one.
        if base and _count(client, f"a {word} {word}") == base + 2:
            yield word


def _per_word(client: ApiClient) -> float:
    """Tokens of a word, from the usage of two prompts; 1 if the server reports none."""
    counts = []
    for words in (WORDS[:1], WORDS):
        usage = client.ask(" ".join(words), max_tokens=1, temperature=0).body.get("usage") or {}
        counts.append(usage.get("prompt_tokens"))
    short, long = counts
    if not isinstance(short, int) or not isinstance(long, int):
        return 1.0
    return max((long - short) / (len(WORDS) - 1), 0.1)


def _of_vocabulary(client: ApiClient) -> Iterator[str]:
    """Words that the tokenizer itself has, for small tokenizers that split most words."""
    if _count(client, " ".join(WORDS[:40])) < _SPLITS_WORDS:
        return
    found = 0
    for token in range(_FIRST_WORD, _FIRST_WORD + _TRIED):
        answer = client.post("/detokenize", {"model": client.model, "tokens": [token]})
        text = str(answer.json().get("prompt", "")) if answer.status_code == 200 else ""
        if text.startswith(" ") and text.strip().isalnum():
            found += 1
            yield text.strip()
        if answer.status_code != 200 or found >= 2 * _LEAST_WORDS:
            return


def _count(client: ApiClient, text: str) -> int:
    """Tokens of a text; 0 if the server refuses."""
    answer = client.post("/tokenize", {"model": client.model, "prompt": text})
    tokens = answer.json().get("tokens") if answer.status_code == 200 else None
    return len(tokens) if isinstance(tokens, list) else 0
