"""Asks a served model every held-out row: its answer, and the loss of the expected one, by the server's own arithmetic.

The loss is computed from the logarithms of probabilities that vLLM gives for a prompt (``prompt_logprobs``), with the chat
template that it serves with: what is measured is what users get.
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

import anyio
import httpx

from vllm_ci.domain.errors import ErroredError
from vllm_ci.engine import single_error

_TIMEOUT_S = 300.0
_TRIES = 3
Match = Literal["exact", "json"]
_Asked = TypeVar("_Asked")
_Found = TypeVar("_Found")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A held-out conversation.

    Attributes:
        id: Of the row.
        messages: What is asked.
        expected: The answer at its end.
        tools: Descriptions of the tools that the model could call.
        rejected: A worse answer, where rows are preferences; empty otherwise.
    """

    id: str
    messages: Sequence[Mapping[str, Any]]
    expected: str
    tools: Sequence[Mapping[str, Any]] = ()
    rejected: str = ""

    @property
    def asked(self) -> dict[str, Any]:
        """Its part of a request."""
        return {"messages": list(self.messages), **({"tools": list(self.tools)} if self.tools else {})}


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What a model did with a row.

    Attributes:
        id: Of the row.
        answer: What it answered, without randomness; of a preference, which answer it finds more probable.
        right: The answer is the expected one.
        loss: Mean negative logarithm of the probability of the expected answer's tokens; of a preference, that of the share
            of the better answer in the probability of both.
    """

    id: str
    answer: str
    right: bool
    loss: float

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Asker:
    """How a server is asked.

    Attributes:
        url: Base URL, without ``/v1``.
        model: Name that it serves the model by.
        key: Its API key; empty for none.
        max_tokens: Longest answer.
        match: ``exact``: the same text but for spaces around it; ``json``: the same value.
        parallel: Rows at the same time.
    """

    url: str
    model: str
    key: str = ""
    max_tokens: int = 256
    match: Match = "exact"
    parallel: int = 8

    async def ask(self, rows: Sequence[Row], told: Callable[[int], None]) -> list[Answered]:
        """Ask every row, in their order.

        Args:
            rows: The rows.
            told: Called with the number of rows that are done.

        Raises:
            ErroredError: The server refused a request, or did not answer.
        """
        return await self._each(rows, self._one, told)

    async def say(self, prompts: Sequence[Sequence[Mapping[str, Any]]], told: Callable[[int], None]) -> list[str]:
        """Answers to prompts, in their order.

        Args:
            prompts: Messages of each.
            told: Called with the number of prompts that are done.

        Raises:
            ErroredError: The server refused a request, or did not answer.
        """
        return await self._each(prompts, lambda client, messages: self._chat(client, {"messages": list(messages)}), told)

    async def _each(
        self,
        asked: Sequence[_Asked],
        answer: Callable[[httpx.AsyncClient, _Asked], Awaitable[_Found]],
        told: Callable[[int], None],
    ) -> list[_Found]:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        found: dict[int, _Found] = {}
        limit = anyio.CapacityLimiter(self.parallel)
        with single_error():
            async with httpx.AsyncClient(base_url=self.url, headers=headers, timeout=_TIMEOUT_S, trust_env=False) as client:

                async def one(at: int, each: _Asked) -> None:
                    async with limit:
                        found[at] = await answer(client, each)
                    told(len(found))

                async with anyio.create_task_group() as group:
                    for at, each in enumerate(asked):
                        group.start_soon(one, at, each)
        return [found[at] for at in range(len(asked))]

    async def _one(self, client: httpx.AsyncClient, row: Row) -> Answered:
        if row.rejected:
            return await self._preferred(client, row)
        said = await self._chat(client, row.asked)
        logs = await self._logs(client, row, row.expected)
        loss = -sum(logs) / len(logs)
        return Answered(id=row.id, answer=said, right=is_right(row.expected, said, self.match), loss=loss)

    async def _chat(self, client: httpx.AsyncClient, asked: Mapping[str, Any]) -> str:
        body = {**asked, "temperature": 0, "max_tokens": self.max_tokens, "seed": 0}
        answer = await self._post(client, "/v1/chat/completions", body)
        try:
            return str(answer["choices"][0]["message"]["content"] or "")
        except (LookupError, TypeError) as error:
            raise _unreadable("/v1/chat/completions", answer) from error

    async def _preferred(self, client: httpx.AsyncClient, row: Row) -> Answered:
        chosen, rejected = [sum(await self._logs(client, row, each)) for each in (row.expected, row.rejected)]
        right = chosen > rejected
        return Answered(
            id=row.id, answer="chosen" if right else "rejected", right=right, loss=preference_loss(chosen, rejected)
        )

    async def _logs(self, client: httpx.AsyncClient, row: Row, answer: str) -> list[float]:
        """Logarithms of the probabilities of an answer's tokens after the question; at least one."""
        asked = await self._tokens(client, {**row.asked, "add_generation_prompt": True})
        last: Mapping[str, Any] = {"role": "assistant", "content": answer}
        whole = await self._tokens(
            client,
            {**row.asked, "messages": [*row.messages, last], "add_generation_prompt": False},
        )
        begin = shared(asked, whole)
        body = {"prompt": whole, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 1}
        found = await self._post(client, "/v1/completions", body)
        try:
            said = found["choices"][0]["prompt_logprobs"]
            logs = [float(said[at][str(whole[at])]["logprob"]) for at in range(begin, len(whole))]
        except (LookupError, TypeError, ValueError) as error:
            raise _unreadable("/v1/completions with prompt_logprobs", found) from error
        if not logs:
            raise _unreadable("/v1/completions with prompt_logprobs", found)
        return logs

    async def _tokens(self, client: httpx.AsyncClient, body: Mapping[str, Any]) -> list[int]:
        answer = await self._post(client, "/tokenize", {**body, "add_special_tokens": False})
        tokens = answer.get("tokens")
        if not isinstance(tokens, list) or not all(isinstance(each, int) for each in tokens):
            raise _unreadable("/tokenize", answer)
        return tokens

    async def _post(self, client: httpx.AsyncClient, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """An answer; a connection that breaks is tried again."""
        for remaining in reversed(range(_TRIES)):
            try:
                response = await client.post(path, json={"model": self.model, **body})
            except httpx.TransportError as error:
                if remaining:
                    continue
                raise ErroredError(
                    f"the server did not answer {path}: {type(error).__name__} {error}".rstrip(),
                    why="it may have died",
                    remedy="look at the server's log: vllm-ci serve",
                ) from error
            if response.status_code != httpx.codes.OK:
                raise ErroredError(
                    f"the server answered {path} with {response.status_code}",
                    why=response.text[:500],
                    remedy="a row may be too long for the server: see --max-model-len in server.args"
                    if response.status_code == httpx.codes.BAD_REQUEST
                    else "look at the server's log: vllm-ci serve",
                )
            try:
                found = response.json()
            except ValueError:
                found = response.text
            if isinstance(found, dict):
                return found
            raise _unreadable(path, found)
        raise AssertionError


def is_right(expected: str, answer: str, match: Match) -> bool:
    """Whether an answer is the expected one."""
    if expected.strip() == answer.strip():
        return True
    if match == "exact":
        return False
    try:
        return _same(json.loads(expected), json.loads(answer))
    except (ValueError, RecursionError):
        return False


def _same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal: ``true`` is not 1, which Python takes for the same; 1.0 is."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def preference_loss(chosen: float, rejected: float) -> float:
    """Negative logarithm of the share of the better answer in the probability of both (Bradley and Terry).

    Args:
        chosen: Logarithm of the probability of the better answer.
        rejected: That of the worse one.
    """
    worse = rejected - chosen
    return max(worse, 0.0) + math.log1p(math.exp(-abs(worse)))


def shared(asked: Sequence[int], whole: Sequence[int]) -> int:
    """Number of tokens that the question and the whole conversation begin with; the rest of the conversation is the answer."""
    return next((at for at, pair in enumerate(zip(asked, whole, strict=False)) if pair[0] != pair[1]), len(asked))


def _unreadable(path: str, answer: object) -> ErroredError:
    return ErroredError(
        f"the answer of {path} is not one of vLLM's",
        why=str(answer)[:300],
        remedy="serve the model with vLLM: the loss is computed from what it says of a prompt",
    )
