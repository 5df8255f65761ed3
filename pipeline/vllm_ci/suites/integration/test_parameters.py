"""Each parameter has its effect on each surface: chat and completions take different paths through a server.

The effects are made visible by a bias that leaves a few tokens to choose from, so they do not depend on the model. A server
that is not vLLM may refuse or ignore what vLLM documents under "Sampling Parameters".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from vllm_ci.suites.answers import Answer
from vllm_ci.suites.client import ApiClient, Json, at_once, said
from vllm_ci.suites.integration.asking import fields_of, repeats, required_of_vllm, unless_refused
from vllm_ci.suites.integration.greedy import is_greedy
from vllm_ci.suites.server import ServerFacts
from vllm_ci.suites.work import Sizes

_PROMPT = "Once upon a time there was"
_FORCES = 40
"""A bias that puts a token before all others that have none."""
_SEEDS = (1, 2, 3)

_SURFACES = [pytest.param(name, marks=pytest.mark.requires_capability(name)) for name in ("chat", "completions")]
pytestmark = [pytest.mark.compares_answers, pytest.mark.parametrize("surface", _SURFACES, indirect=True)]


@dataclass(frozen=True, kw_only=True)
class Surface:
    """One of the two ways to request text.

    Attributes:
        client: The client.
        path: Its path.
        asks: The fields with the prompt.
        documented: Names of the fields that the server documents for it; empty if it documents none.
    """

    client: ApiClient
    path: str
    asks: Mapping[str, Any]
    documented: frozenset[str] = frozenset()

    @property
    def is_chat(self) -> bool:
        """Whether it takes messages."""
        return "messages" in self.asks

    def ask(self, tokens: int, **parameters: Any) -> Answer:
        """Request this many tokens; a server may not document a parameter, and one that is not vLLM may refuse it."""
        unknown = sorted(parameters.keys() - self.documented) if self.documented else []
        if unknown:
            pytest.skip(f"the server's OpenAPI document has no {', '.join(unknown)} in requests to {self.path}")
        fields = {**self.asks, **self.client.exactly(tokens), **self.client.with_ids, **parameters}
        named = ", ".join(name for name in parameters if name not in ("temperature", "seed"))
        return unless_refused(self.client, self.path, {"model": self.client.model, **fields}, named)

    def some(self) -> list[int]:
        """Four ordinary tokens: those of single letters."""
        return [self.client.tokens(letter, add_special_tokens=False)[-1] for letter in "hxqw"]


@pytest.fixture(scope="module")
def document(client: ApiClient) -> Any:
    """The server's OpenAPI document; nothing if it has none."""
    answer = client.get("/openapi.json")
    try:
        return answer.json() if answer.status_code == 200 else None
    except ValueError:
        return None


@pytest.fixture
def surface(client: ApiClient, document: Any, request: pytest.FixtureRequest) -> Surface:
    """The surface of a case."""
    chat = request.param == "chat"
    path = "/v1/chat/completions" if chat else "/v1/completions"
    asks = {"messages": said(_PROMPT)} if chat else {"prompt": _PROMPT}
    return Surface(client=client, path=path, asks=asks, documented=fields_of(document, path))


@pytest.mark.requires_capability("temperature")
@pytest.mark.parametrize("narrow", ["top_p", "top_k", "min_p"])
@pytest.mark.sized(tokens=(16, 8))
def test_one_candidate_leaves_the_greedy_answer(surface: Surface, server: ServerFacts, narrow: str, size: Sizes) -> None:
    """With one token to choose from, sampling is greedy."""
    value = {"top_p": 1e-6, "top_k": 1, "min_p": 1.0}[narrow]
    asked: list[dict[str, float]] = [{"temperature": 0}, *[{"temperature": 1.0, narrow: value}] * 2]

    def ask(more: Json) -> list[Answer]:
        return at_once(lambda fields: surface.ask(size.tokens, **fields, **more), asked)

    same = is_greedy(surface.client, surface.path, ask)
    message = f"{narrow}={value:g} at temperature 1 does not give the greedy answer"
    if narrow == "top_p":
        assert same, message
    required_of_vllm(server, holds=same, message=message)


@pytest.mark.requires_capability("seed")
@pytest.mark.sized(tokens=(16, 8))
def test_a_seed_repeats_the_answer(surface: Surface, size: Sizes) -> None:
    """The same seed gives the same sampled answer, but for rounding."""
    ask = {"temperature": 1.0, "seed": 77}
    assert repeats(lambda: at_once(lambda _: surface.ask(size.tokens, **ask).pieces, range(2))), (
        "two requests with the same seed gave different answers from the first tokens on"
    )


@pytest.mark.requires_capability("tokenize", "token_ids", "logit_bias")
def test_a_frequency_penalty_ends_a_repetition(surface: Surface, server: ServerFacts) -> None:
    """2 is subtracted for each time that a token came, so a bias cannot force it for ever."""
    token, tokens = surface.some()[0], 48
    bias = {"temperature": 0, "logit_bias": {str(token): _FORCES}}
    _forced(surface, token, tokens, bias)
    found = surface.ask(tokens, frequency_penalty=2.0, **bias).token_ids
    message = f"a token with a bias of {_FORCES} came {tokens} times with frequency_penalty=2, which subtracts {2 * tokens}"
    required_of_vllm(server, holds=any(each != token for each in found), message=message)
    _only_after(found, token, 3, "frequency_penalty=2")


@pytest.mark.requires_capability("tokenize", "token_ids", "logit_bias")
def test_a_repetition_penalty_changes_to_the_next_token(surface: Surface, server: ServerFacts) -> None:
    """It divides the logit of a token that came, so one with less bias comes next."""
    first, *others = surface.some()
    bias = {"temperature": 0, "logit_bias": {str(first): 80, **dict.fromkeys(map(str, others), 60)}}
    _forced(surface, first, 3, bias)
    found = surface.ask(3, repetition_penalty=8.0, **bias).token_ids
    message = f"repetition_penalty=8 does not keep the token {first} from coming twice in a row: {found}"
    required_of_vllm(server, holds=found[1:2] != [first], message=message)


@pytest.mark.requires_capability("tokenize", "token_ids", "logit_bias", "seed", "temperature")
@pytest.mark.parametrize("penalty", ["presence_penalty", "frequency_penalty"])
def test_a_penalty_changes_what_is_drawn(surface: Surface, server: ServerFacts, penalty: str) -> None:
    """With four tokens to draw from, a penalty changes the draws of the same seed."""
    bias = {"temperature": 2.0, "logit_bias": dict.fromkeys(map(str, surface.some()), _FORCES)}
    pairs = at_once(
        lambda seed: (surface.ask(24, seed=seed, **bias).pieces, surface.ask(24, seed=seed, **bias, **{penalty: 2.0}).pieces),
        _SEEDS,
    )
    if all(len(set(without)) < 2 for without, _ in pairs):
        pytest.skip("the model says the same token again and again, whatever the temperature")
    message = f"{penalty}=2 changes no draw of the seeds {', '.join(map(str, _SEEDS))}"
    required_of_vllm(server, holds=any(without != penalized for without, penalized in pairs), message=message)


@pytest.mark.requires_capability("tokenize", "token_ids", "logit_bias", "bad_words")
def test_a_bad_word_does_not_come(surface: Surface, server: ServerFacts) -> None:
    """The bad_words of vLLM are not generated, whatever their probability."""
    token = surface.some()[0]
    bias = {"temperature": 0, "logit_bias": {str(token): _FORCES}}
    _forced(surface, token, 6, bias)
    found = surface.ask(6, bad_words=["h"], **bias).token_ids
    required_of_vllm(server, holds=token not in found, message=f"the bad word 'h' (token {token}) comes: {found}")


@pytest.mark.requires_capability("tokenize", "token_ids", "temperature")
def test_only_allowed_tokens_come(surface: Surface, server: ServerFacts) -> None:
    """Only the allowed_token_ids of vLLM are generated."""
    allowed = surface.some()
    found = surface.ask(8, temperature=1.0, allowed_token_ids=allowed).token_ids
    others = [token for token in found if token not in allowed]
    required_of_vllm(server, holds=not others, message=f"allowed_token_ids={allowed}, but these came, too: {others}")


@pytest.mark.requires_capability("tokenize", "token_ids", "logit_bias", "min_tokens", "stop_token_ids", "usage")
def test_min_tokens_hold_the_end_back(surface: Surface, server: ServerFacts) -> None:
    """A stop token that is forced ends the answer at once, but not before vLLM's min_tokens."""
    token = surface.some()[0]
    fields = {"temperature": 0, "logit_bias": {str(token): _FORCES}, "stop_token_ids": [token]}
    at_once_ended = surface.ask(8, **fields)
    message = f"a forced stop token does not end the answer: finish_reason is {at_once_ended.finish_reason!r}"
    required_of_vllm(server, holds=at_once_ended.finish_reason == "stop", message=message)
    count = surface.ask(8, min_tokens=5, **fields).count("completion_tokens")
    required_of_vllm(server, holds=count >= 5, message=f"requested at least 5 tokens, got {count}")


@pytest.mark.requires_capability("usage")
def test_a_prompt_is_truncated_where_that_is_asked_for(surface: Surface, server: ServerFacts) -> None:
    """With vLLM's truncate_prompt_tokens the prompt has that many tokens."""
    count = surface.ask(1, truncate_prompt_tokens=3).count("prompt_tokens")
    required_of_vllm(server, holds=count == 3, message=f"truncate_prompt_tokens=3, but the prompt has {count} tokens")


@pytest.mark.requires_capability("prompt_logprobs", "usage")
def test_every_token_of_a_prompt_has_its_log_probability(surface: Surface, server: ServerFacts) -> None:
    """With vLLM's prompt_logprobs there is an entry for each token of the prompt; the first has none before it."""
    answer = surface.ask(1, temperature=0, prompt_logprobs=1)
    found = answer.body.get("prompt_logprobs") if answer.is_chat else answer.choice.get("prompt_logprobs")
    count = answer.count("prompt_tokens")
    entries = found if isinstance(found, list) else []
    required_of_vllm(server, holds=len(entries) == count, message=f"{len(entries)} prompt_logprobs for {count} tokens")
    values = [each.get("logprob") for entry in entries[1:] if isinstance(entry, dict) for each in entry.values()]
    right = all(isinstance(value, int | float) and value <= 1e-3 for value in values) and len(values) >= count - 1
    required_of_vllm(server, holds=right, message=f"prompt_logprobs are not log probabilities: {entries[:3]}")


@pytest.mark.requires_capability("prompt_logprobs", "usage")
def test_a_prompt_that_came_before_has_all_its_log_probabilities(surface: Surface, server: ServerFacts) -> None:
    """A prefix cache must not leave out the tokens that it knows."""
    long = f"{_PROMPT} {'a quick brown fox and a lazy dog ' * 12}"
    asks = {"messages": said(long)} if surface.is_chat else {"prompt": long}
    for _ in range(2):
        answer = surface.ask(1, temperature=0, prompt_logprobs=1, **asks)
        found = answer.body.get("prompt_logprobs") if answer.is_chat else answer.choice.get("prompt_logprobs")
        count, came = answer.count("prompt_tokens"), len(found) if isinstance(found, list) else 0
        required_of_vllm(server, holds=came == count, message=f"{came} prompt_logprobs for {count} tokens")


def _forced(surface: Surface, token: int, tokens: int, bias: Mapping[str, Any]) -> None:
    """Skip the case unless a bias forces a token, which another case checks."""
    found = surface.ask(tokens, **bias).token_ids
    if set(found) != {token}:
        pytest.skip(f"a bias does not force the token {token} here: {found[:6]}")


def _only_after(found: Sequence[int], token: int, least: int, what: str) -> None:
    """A penalty that is small beside the bias must leave the first tokens alone."""
    early = next((at for at, each in enumerate(found) if each != token), len(found))
    assert early >= least, f"with {what} a token with a bias of {_FORCES} came only {early} times"
