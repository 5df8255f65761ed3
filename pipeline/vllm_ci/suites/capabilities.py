"""Probes for what a server supports.

Each probe looks at the *effect*: a server that accepts a field and ignores it does not support it. A server may refuse a field
that it does not know, as OpenAI does, or ignore it; both are legal, and neither fails a case.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx

from vllm_ci.suites import effects
from vllm_ci.suites.answers import Json, chunks
from vllm_ci.suites.client import shown
from vllm_ci.suites.machine import Watch
from vllm_ci.suites.reach import cards_of
from vllm_ci.suites.transport import ON_ITS_OWN_CONNECTION
from vllm_ci.suites.verdicts import Fault

CAPABILITIES = (
    *("text", "chat", "completions", "tools", "structured_output", "logprobs", "token_ids", "embeddings", "lora"),
    *("tokenize", "metrics", "auth", "tensor_parallel", "quantization", "multimodal"),
    *("usage", "stream_usage", "ignore_eos", "echo", "choices", "structured_outputs_field", "tool_prompt"),
    *("completion_logprobs", "prompt_logprobs", "min_tokens", "stop_token_ids", "bad_words", "logit_bias"),
    *("seed", "batch", "token_prompts", "system_messages", "tool_results", "temperature"),
)
_OF_CHAT = (
    *("tools", "structured_output", "structured_outputs_field", "logprobs", "multimodal", "tool_prompt"),
    *("system_messages", "tool_results"),
)
_OF_COMPLETIONS = ("echo", "completion_logprobs", "prompt_logprobs", "batch", "token_prompts")
_OF_TEXT = (
    *("usage", "stream_usage", "ignore_eos", "token_ids", "choices", "min_tokens", "stop_token_ids", "bad_words", "logit_bias"),
    *("seed",),
)
_NOT_LOOKED = "nobody asked for it"
# Statuses that mean "not supported".
REFUSED = (400, 404, 405, 422, 501)
_TOGETHER = 8
_PATIENCE = 3.0
"""Factor of the timeout for a probe that was not answered in time beside others."""
_EXCERPT = 300
_TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {"n": {"enum": [1]}}}}}
_ONE = {"type": "object", "properties": {"n": {"enum": [1]}}, "required": ["n"], "additionalProperties": False}
_SCHEMA = {"type": "json_schema", "json_schema": {"name": "one", "strict": True, "schema": _ONE}}
_CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"n":1}'}}
_RESULT = [
    {"role": "user", "content": "look"},
    {"role": "assistant", "content": None, "tool_calls": [_CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "seen"},
]
_SYSTEM = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
_BRIEF = [{"role": "user", "content": "Say only: OK"}]
_ENDING = 24
_PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class _BrokenError(Exception):
    """A probe, which is a valid request, is answered with a server error or not at all."""


@dataclass(kw_only=True)
class Probing:
    """Probes one server.

    Attributes:
        http: HTTP client with base URL and key.
        model: Served name.
        is_vllm: The server is vLLM, which documents its features: one that it accepts and ignores is a defect, not a missing
            capability.
        routes: Methods by path of its OpenAPI document; empty if it has none.
        repeatable: Answers at temperature 0 can be compared, because the server takes a temperature.
        wanted: Capabilities to look for; all by default. Others count as missing.
        broken: Probes that were answered with 5xx or not at all, with the answer: one finding, and their cases are skipped.
        unknown: Those of them that were not answered in time on a busy machine, with the reason: no finding about the server.
        lost: A connection was refused or ended without an answer.
    """

    http: httpx.Client
    model: str
    is_vllm: bool
    routes: Mapping[str, tuple[str, ...]]
    repeatable: bool = True
    wanted: Collection[str] = CAPABILITIES
    broken: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    lost: bool = False
    _surface: str = ""
    _late: set[str] = field(default_factory=set)

    def absent(self) -> dict[str, str]:
        """Missing capabilities, each with the reason; chat and completions first, because other probes use them."""
        with Watch() as machine:
            surfaces = self._surfaces()
            found = self._found(surfaces, [self._looked(name, look) for name, look in surfaces.items()])
            self._surface = "chat" if "chat" not in found else "completions" if "completions" not in found else ""
            if not self._surface:
                found["text"] = "it supports neither chat nor completions"
            others = self._others(found)
            rest = {name: look for name, look in others.items() if name in self.wanted}
            with ThreadPoolExecutor(max_workers=_TOGETHER) as pool:
                reasons = list(pool.map(lambda entry: self._looked(*entry), rest.items()))
            found |= self._found(rest, reasons)
            found |= {name: _NOT_LOOKED for name in others if name not in rest}
            starved = machine.seen.starved
        if starved:
            self.unknown = dict.fromkeys(self._late, f"its probe is not answered in time: the machine was busy ({starved})")
        return {**found, **{name: reason for name, reason in self.unknown.items() if name in found}}

    def _found(self, looks: Mapping[str, Callable[[], str]], reasons: Sequence[str]) -> dict[str, str]:
        """The reasons of what is missing; probes that were not answered in time are asked again, one after the other.

        The first that is late again ends this: the others would be, too.
        """
        found = dict(zip(looks, reasons, strict=True))
        usual = self.http.timeout
        self.http.timeout = httpx.Timeout((usual.read or 0) * _PATIENCE or None, connect=usual.connect)
        try:
            for name in [name for name in looks if name in self._late]:
                self._late.discard(name)
                self.broken.pop(name, None)
                found[name] = self._looked(name, looks[name])
                if name in self._late:
                    break
        finally:
            self.http.timeout = usual
        return {name: reason for name, reason in found.items() if reason}

    def _surfaces(self) -> dict[str, Callable[[], str]]:
        return {
            "chat": lambda: self._posted("/v1/chat/completions", self._chat(), effects.has_choices),
            "completions": lambda: self._posted("/v1/completions", self._prompt(), effects.has_choices),
        }

    def _others(self, absent: Mapping[str, str]) -> dict[str, Callable[[], str]]:
        probes: dict[str, Callable[[], str]] = {
            "embeddings": lambda: self._posted("/v1/embeddings", {"model": self.model, "input": "hello"}, effects.has_data),
            "tokenize": self._tokenize,
            "metrics": self._metrics,
            "auth": self._auth,
        }
        if "chat" not in absent:
            tool = {"tools": [_TOOL], "tool_choice": {"type": "function", "function": {"name": "look"}}, "max_tokens": 60}
            picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": _PIXEL}}]}]
            probes |= {
                "tools": self._chats(effects.called, **tool),
                "structured_output": self._chats(effects.is_one, response_format=_SCHEMA, max_tokens=40),
                "structured_outputs_field": self._chats(effects.is_blue, structured_outputs={"choice": ["blue"]}, max_tokens=8),
                "logprobs": self._chats(effects.has_logprobs, logprobs=True, top_logprobs=1),
                "multimodal": lambda: self._more_prompt("a picture", messages=picture),
                "tool_prompt": lambda: self._more_prompt("a declared tool", tools=[_TOOL], tool_choice="auto"),
                "system_messages": self._chats(effects.has_choices, messages=_SYSTEM),
                "tool_results": self._chats(effects.has_choices, tools=[_TOOL], messages=_RESULT),
            }
        else:
            probes |= dict.fromkeys(_OF_CHAT, lambda: f"needs chat: {absent['chat']}")
        if "completions" not in absent:
            probes |= {
                "echo": self._completes(effects.echoes, prompt="hello world", echo=True),
                "completion_logprobs": self._completes(effects.has_logprobs, logprobs=1),
                "prompt_logprobs": self._completes(effects.has_prompt_logprobs, prompt_logprobs=1),
                "batch": self._completes(effects.two_choices, prompt=["hello", "the"]),
                "token_prompts": self._completes(effects.has_choices, prompt=[5, 6, 7]),
            }
        else:
            probes |= dict.fromkeys(_OF_COMPLETIONS, lambda: f"needs completions: {absent['completions']}")
        if self._surface:
            probes |= {
                "usage": self._asks(effects.has_usage),
                "stream_usage": self._stream_usage,
                "ignore_eos": self._ignore_eos,
                "token_ids": self._asks(effects.has_token_ids, return_token_ids=True),
                "choices": self._asks(effects.two_choices, n=2, temperature=1),
                "min_tokens": self._asks(effects.counts(3), max_tokens=3, min_tokens=3),
                "stop_token_ids": self._asks(effects.has_choice, stop_token_ids=[0]),
                "bad_words": self._asks(effects.has_choice, bad_words=["zebra"]),
                "logit_bias": self._asks(effects.has_choice, logit_bias={"5": -100}),
                "seed": self._seed,
            }
        else:
            probes |= dict.fromkeys(_OF_TEXT, lambda: "the server supports neither chat nor completions")
        return probes

    def _looked(self, name: str, look: Callable[[], str]) -> str:
        try:
            return look()
        except _BrokenError as error:
            self.broken[name] = str(error)
        except httpx.TimeoutException:
            self._late.add(name)
            self.broken[name] = "its probe is not answered in time"
        except httpx.HTTPError as error:
            self.lost = True
            self.broken[name] = f"its probe ends without an answer: {error or type(error).__name__}"
        return self.broken[name]

    def _posted(self, path: str, body: Json, effect: Callable[[Json], str]) -> str:
        """Why a request has no effect; empty if it has."""
        if self.routes and path not in self.routes:
            return f"its OpenAPI document has no {path}"
        return self._effect(path, self.http.post(path, json=body), effect)

    def _effect(self, path: str, answer: httpx.Response, effect: Callable[[Json], str]) -> str:
        if answer.status_code in REFUSED:
            return f"{path}: {shown(answer)}"
        if answer.status_code >= 500:
            raise _BrokenError(f"{path}: {shown(answer)}; the request was {_sent(answer)}")
        if answer.status_code != 200:
            return f"{path}: {shown(answer)}"
        try:
            body = answer.json()
            reason = effect(body) if isinstance(body, dict) else f"{path}: the answer is no JSON object"
            return "" if reason.endswith(effects.IGNORED) and self.is_vllm else reason
        except (ValueError, LookupError, TypeError, AttributeError):
            return f"{path}: the answer has another shape: {answer.text[:100]}"

    def _chat(self, **parameters: Any) -> Json:
        asks = [{"role": "user", "content": "hello"}]
        return {"model": self.model, "messages": asks, "max_tokens": 1, "temperature": 0, **parameters}

    def _prompt(self, **parameters: Any) -> Json:
        return {"model": self.model, "prompt": "hello", "max_tokens": 1, "temperature": 0, **parameters}

    def _chats(self, effect: Callable[[Json], str], **parameters: Any) -> Callable[[], str]:
        return lambda: self._posted("/v1/chat/completions", self._chat(**parameters), effect)

    def _completes(self, effect: Callable[[Json], str], **parameters: Any) -> Callable[[], str]:
        return lambda: self._posted("/v1/completions", self._prompt(**parameters), effect)

    def _asks(self, effect: Callable[[Json], str], **parameters: Any) -> Callable[[], str]:
        asks = self._chats if self._surface == "chat" else self._completes
        return asks(effect, **parameters)

    def _more_prompt(self, what: str, **parameters: Any) -> str:
        """Whether a field makes the prompt longer, where the server counts; otherwise whether it is accepted."""
        path = "/v1/chat/completions"
        counted: list[int | None] = []
        for fields in ({}, parameters):
            answer = self.http.post(path, json=self._chat(**fields))
            if (reason := self._effect(path, answer, effects.has_choices)) or (answer.json().get("usage") is None):
                return reason
            counted.append(answer.json()["usage"].get("prompt_tokens"))
        longer = counted[0] is None or counted[1] is None or counted[1] > counted[0]
        return "" if longer else f"{what} {effects.IGNORED}: it adds nothing to the prompt"

    def _ignore_eos(self) -> str:
        """Whether an answer that ends by itself goes on with ``ignore_eos``; one that does not end shows nothing.

        vLLM documents it, so there it only has to be accepted.
        """
        if self.is_vllm:
            return self._asks(effects.counts(6), max_tokens=6, ignore_eos=True)()
        if not self.repeatable:
            return "answers end at random without a temperature of 0, so it cannot be seen"
        asked = {"messages": _BRIEF} if self._surface == "chat" else {"prompt": "hello"}
        if reason := self._asks(effects.counts(_ENDING), max_tokens=_ENDING, ignore_eos=True, **asked)():
            return reason
        alone = self._asks(effects.counts(_ENDING), max_tokens=_ENDING, **asked)()
        return "" if alone else "answers do not end by themselves, so it cannot be seen"

    def _seed(self) -> str:
        """Whether a seed repeats a sampled answer; vLLM documents that it does, so its cases tell."""
        if self.is_vllm:
            return ""
        seen: list[str] = []

        def keep(body: Json) -> str:
            seen.append(effects.said(body))
            return ""

        for _ in range(2):
            if reason := self._asks(keep, seed=7, temperature=1, max_tokens=12)():
                return reason
        return "" if seen[0] == seen[1] else f"seed {effects.IGNORED}"

    def _tokenize(self) -> str:
        return self._posted("/tokenize", {"model": self.model, "prompt": "hello"}, effects.has_tokens)

    def _metrics(self) -> str:
        if self.routes and "/metrics" not in self.routes:
            return "its OpenAPI document has no /metrics"
        answer = self.http.get("/metrics")
        if answer.status_code != 200:
            return f"/metrics: {shown(answer)}"
        return "" if "vllm:" in answer.text else "/metrics has no metrics of vLLM"

    def _auth(self) -> str:
        """Whether a key is required; only a list and an answer that were really served without one prove that none is."""
        listed = self._anonymous("GET", "/v1/models")
        if cards_of(listed) is None or not self._surface:
            return "" if cards_of(listed) is None else "the server lists its models without a key"
        chat = self._surface == "chat"
        path = "/v1/chat/completions" if chat else "/v1/completions"
        answer = self._anonymous("POST", path, json=(self._chat if chat else self._prompt)())
        try:
            served = answer.status_code == 200 and bool(answer.json()["choices"])
        except (ValueError, LookupError, TypeError):
            served = False
        return "the server lists its models and answers without a key" if served else ""

    def _anonymous(self, method: str, path: str, **options: Any) -> httpx.Response:
        request = self.http.build_request(method, path, extensions=dict(ON_ITS_OWN_CONNECTION), **options)
        request.headers.pop("authorization", None)
        return self.http.send(request)

    def _stream_usage(self) -> str:
        chat = self._surface == "chat"
        path = "/v1/chat/completions" if chat else "/v1/completions"
        body = (self._chat if chat else self._prompt)(stream=True, stream_options={"include_usage": True})
        answer = self.http.post(path, json=body)
        if answer.status_code != 200:
            return self._effect(path, answer, lambda _body: "")
        try:
            found = chunks(answer.content)
        except Fault:
            return ""  # the cases about the structure of a stream name it
        return (
            ""
            if any(isinstance(chunk.get("usage"), dict) for chunk in found)
            else f"stream_options.include_usage {effects.IGNORED}"
        )


def _sent(answer: httpx.Response) -> str:
    return answer.request.content.decode("utf-8", "replace")[:_EXCERPT]
