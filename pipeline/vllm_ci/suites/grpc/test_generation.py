"""Generate, with and without a stream: tokens, counts, finish reasons."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
import pytest

from vllm_ci.suites.grpc.answer import Answer, agree
from vllm_ci.suites.grpc.client import Engine
from vllm_ci.suites.grpc.greedy import differences

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def test_an_answer_without_streaming_is_one_message(engine: Engine) -> None:
    """`stream: false` gives one `complete`, and no pieces."""
    answer = engine.generate(ids=engine.prompt()).served()
    assert not answer.pieces, f"pieces of a stream that was not requested; {answer.shape}"
    assert len(answer.ends) == 1, answer.shape
    assert not answer.other, f"{answer.other} messages are neither `chunk` nor `complete`"


@BOTH
@pytest.mark.parametrize("limit", [1, 7, 32])
def test_max_tokens_is_kept(engine: Engine, limit: int, stream: bool) -> None:
    """With `ignore_eos`, an answer has exactly as many tokens as allowed, and ends with `length`."""
    answer = engine.generate(ids=engine.prompt(), stream=stream, sampling={"max_tokens": limit}).served()
    assert len(answer.tokens()) == limit, f"{len(answer.tokens())} tokens instead of {limit}"
    assert answer.end().finish_reason == "length", f"finish reason {answer.end().finish_reason!r} instead of 'length'"


@BOTH
def test_tokens_are_counted(engine: Engine, stream: bool) -> None:
    """Usage is billed by these counts: that of a stream is the sum of its pieces, or the last of them."""
    answer = engine.generate(ids=engine.prompt(), stream=stream, sampling={"max_tokens": 9}).served()
    if not stream:
        assert answer.end().completion_tokens == 9, f"completion_tokens is {answer.end().completion_tokens} instead of 9"
        return
    counts = [part.message.completion_tokens for part in answer.pieces]
    assert 9 in (sum(counts), counts[-1] if counts else 0), f"completion_tokens of the pieces are {counts}, of 9 tokens"


@BOTH
@pytest.mark.parametrize("length", [1, 12, 40])
def test_the_prompt_is_counted(engine: Engine, length: int, stream: bool) -> None:
    """`prompt_tokens` is the number of token ids that were sent."""
    answer = engine.generate(ids=engine.prompt(length=length), stream=stream, sampling={"max_tokens": 2}).served()
    counts = {part.message.prompt_tokens for part in answer.parts}
    assert counts == {length}, f"prompt_tokens is {sorted(counts)} instead of {length}"


def test_tokens_are_of_the_vocabulary(engine: Engine) -> None:
    """Ids beyond it cannot be made text of."""
    if engine.model is None or not engine.model.vocab_size:
        pytest.skip("the size of the vocabulary is unknown")
    beyond = [token for token in engine.generate(ids=engine.prompt()).served().tokens() if token >= engine.model.vocab_size]
    assert not beyond, f"token ids beyond the vocabulary of {engine.model.vocab_size}: {beyond}"


def test_a_greedy_answer_is_repeated(engine: Engine) -> None:
    """Temperature 0: the same prompt gets the same tokens, but for rounding."""
    found = differences(engine, lambda more: [_sixteen(engine, more), _sixteen(engine, more)])
    assert not found, f"two greedy answers to one prompt: {found}"


def _sixteen(engine: Engine, more: Mapping[str, object]) -> Answer:
    return engine.generate(ids=engine.prompt(), sampling={"max_tokens": 16, **more})


def test_a_seed_repeats_an_answer(engine: Engine) -> None:
    """Temperature 1: the same seed gets the same tokens, but for rounding."""
    sampling = {"max_tokens": 16, "temperature": 1.0, "seed": 11}
    first, second = (engine.generate(ids=engine.prompt(), sampling=sampling).served().tokens() for _ in range(2))
    assert agree(first, second), f"two answers with one seed: {first} and {second}"


def test_the_likeliest_token_alone_is_greedy(engine: Engine) -> None:
    """`top_k: 1` leaves nothing to chance, at any temperature."""
    narrow = {"temperature": 1.0, "top_k": 1}
    found = differences(engine, lambda more: [_sixteen(engine, more), _sixteen(engine, {**narrow, **more})])
    assert not found, f"the greedy answer, and that with top_k 1: {found}"


@BOTH
def test_a_bias_forces_a_token(engine: Engine, stream: bool) -> None:
    """`logit_bias` of 100 makes a token certain."""
    token = engine.prompt(3)[0]
    sampling = {"max_tokens": 6, "logit_bias": {token: 100.0}}
    found = engine.generate(ids=engine.prompt(), stream=stream, sampling=sampling).served().tokens()
    assert set(found) == {token}, f"a bias of 100 for the token {token} gives {found}"


@BOTH
def test_a_stop_token_ends_an_answer(engine: Engine, stream: bool) -> None:
    """The answer ends where the token comes, with the reason `stop`."""
    free = engine.generate(ids=engine.prompt(), sampling={"max_tokens": 16}).served().tokens()
    place = next((n for n in range(1, len(free)) if free[n] not in free[:n]), None)
    if place is None:
        pytest.skip("the greedy answer repeats one token")
    sampling = {"max_tokens": 16, "stop_token_ids": [free[place]]}
    answer = engine.generate(ids=engine.prompt(), stream=stream, sampling=sampling).served()
    end = answer.end()
    if answer.tokens()[: place + 1] not in (free[:place], free[: place + 1]):
        pytest.skip("the greedy answer was not repeated")
    assert end.finish_reason == "stop", f"finish reason {end.finish_reason!r} instead of 'stop', {len(answer.tokens())} tokens"
    assert len(answer.tokens()) in (place, place + 1), f"{len(answer.tokens())} tokens; the stop token is number {place + 1}"
    if end.WhichOneof("matched_stop") == "matched_token_id":
        assert end.matched_token_id == free[place], f"matched_token_id is {end.matched_token_id} instead of {free[place]}"


@BOTH
def test_choices_are_told_apart(engine: Engine, stream: bool) -> None:
    """`n: 2` gives two answers, each with its index, its tokens and its end."""
    sampling = {"max_tokens": 6, "temperature": 1.0, "n": 2}
    answer = engine.generate(ids=engine.prompt(), stream=stream, sampling=sampling).served()
    assert sorted(part.index for part in answer.ends) == [0, 1], f"two choices were requested; {answer.shape}"
    counts = [len(answer.tokens(index)) for index in (0, 1)]
    assert counts == [6, 6], f"the two choices have {counts} tokens instead of 6 each"


@BOTH
def test_log_probabilities_belong_to_the_tokens(engine: Engine, stream: bool) -> None:
    """One for each token, with the token's id, none above 0."""
    answer = engine.generate(ids=engine.prompt(), stream=stream, sampling={"max_tokens": 4, "logprobs": 2}).served()
    parts = answer.pieces if stream else answer.ends
    ids = [token for part in parts for token in part.message.output_logprobs.token_ids]
    values = [value for part in parts for value in part.message.output_logprobs.token_logprobs]
    assert tuple(ids) == answer.tokens(), f"log probabilities are of the tokens {ids}; the answer is {answer.tokens()}"
    assert len(values) == len(ids), f"{len(values)} log probabilities of {len(ids)} tokens"
    assert all(value <= 0 for value in values), f"log probabilities above 0: {values}"


def test_text_is_answered_or_refused(engine: Engine) -> None:
    """A prompt may be text instead of token ids; a server without a tokenizer refuses it as the client's mistake."""
    answer = engine.generate(text="The quick brown fox", sampling={"max_tokens": 4})
    if answer.code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED):
        return
    assert len(answer.served().tokens()) == 4, f"{len(answer.tokens())} tokens instead of 4"
    assert answer.end().prompt_tokens > 0, "prompt_tokens of a text is 0"
