"""Defects of how answers are drawn, where they end, and what is said about their probabilities."""

from __future__ import annotations

from dataclasses import replace

from doubles.asked import Asked
from doubles.bodies import Json
from doubles.defects.catalogue import defect
from doubles.generation import Generation, Piece
from doubles.legal_numbers import HalfPrecision, HalfPrecisionWithoutLogprobs
from doubles.server import Double
from doubles.toymodel import Sampling

SAMPLING = "integration/test_sampling.py::test_"
STOPPING = "integration/test_stopping.py::test_"
LOGPROBS = "integration/test_logprobs.py::test_"


@defect(
    "temperature-ignored",
    "Every answer is greedy, whatever the temperature.",
    f"{SAMPLING}a_higher_temperature_strays_further_from_the_greedy_answer",
    f"{SAMPLING}different_seeds_differ_at_temperature_one",
)
class TemperatureIgnored(Double):
    def sampling(self, asked: Asked) -> Sampling:
        return replace(asked.sampling, temperature=0)


@defect("never-greedy", "Temperature 0 draws like 1.", f"{SAMPLING}temperature_zero_repeats_token_by_token")
class NeverGreedy(Double):
    def sampling(self, asked: Asked) -> Sampling:
        return replace(asked.sampling, temperature=asked.sampling.temperature or 1)


@defect(
    "seed-moves-greedy",
    "At temperature 0 the seed changes the answer.",
    f"{SAMPLING}temperature_zero_does_not_depend_on_the_seed",
)
class SeedMovesGreedy(Double):
    def sampling(self, asked: Asked) -> Sampling:
        seeded = asked.sampling.seed is not None
        return replace(asked.sampling, temperature=0.8) if seeded and asked.sampling.temperature == 0 else asked.sampling


@defect("seed-ignored", "The seed has no effect.", f"{SAMPLING}the_same_seed_repeats_the_answer")
class SeedIgnored(Double):
    def sampling(self, asked: Asked) -> Sampling:
        return replace(asked.sampling, seed=None)


@defect(
    "one-seed-for-all",
    "Whatever the seed, the draws are the same.",
    f"{SAMPLING}different_seeds_differ_at_temperature_one",
    f"{SAMPLING}without_a_seed_answers_vary_at_temperature_one",
)
class OneSeedForAll(Double):
    def sampling(self, asked: Asked) -> Sampling:
        return replace(asked.sampling, seed=1)


@defect("top-p-ignored", "top_p has no effect.", f"{SAMPLING}a_tiny_top_p_leaves_only_the_likeliest_token")
class TopPIgnored(Double):
    def sampling(self, asked: Asked) -> Sampling:
        return replace(asked.sampling, top_p=1.0)


@defect("top-k-ignored", "top_k has no effect.", f"{SAMPLING}top_k_one_leaves_only_the_likeliest_token")
class TopKIgnored(Double):
    def sampling(self, asked: Asked) -> Sampling:
        return replace(asked.sampling, top_k=0)


@defect(
    "top-p-ignored-without-logprobs",
    "top_p has no effect, at a server in half precision that returns no log probabilities.",
    f"{SAMPLING}a_tiny_top_p_leaves_only_the_likeliest_token",
)
class TopPIgnoredWithoutLogprobs(HalfPrecisionWithoutLogprobs):
    def sampling(self, asked: Asked) -> Sampling:
        return replace(asked.sampling, top_p=1.0)


@defect(
    "never-greedy-in-half-precision",
    "Temperature 0 draws like 1, at a server where several tokens are the likeliest.",
    f"{SAMPLING}temperature_zero_repeats_token_by_token",
)
class NeverGreedyInHalfPrecision(HalfPrecision):
    def sampling(self, asked: Asked) -> Sampling:
        return replace(asked.sampling, temperature=asked.sampling.temperature or 1)


@defect("n-ignored", "n gives one choice.", f"{SAMPLING}n_gives_that_many_choices")
class NIgnored(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        return replace(super().asked(body, chat=chat), n=1)


@defect("n-equal-choices", "The choices of one request are copies.", f"{SAMPLING}the_choices_of_one_request_differ")
class NEqualChoices(Double):
    def generations(self, asked: Asked) -> list[Generation]:
        shared = replace(asked.sampling, seed=self.number())
        made = super().generations(asked)
        if asked.n < 2:
            return made
        return [Generation(asked=asked, prompt=each.prompt, choice=0, index=each.index, sampling=shared) for each in made]


@defect(
    "bias-ignored",
    "logit_bias has no effect.",
    f"{SAMPLING}logit_bias_forces_a_token",
    f"{SAMPLING}logit_bias_bans_a_token",
)
class BiasIgnored(Double):
    def sampling(self, asked: Asked) -> Sampling:
        return replace(asked.sampling, bias={})


@defect("one-token-too-many", "Answers are one token longer than max_tokens.", f"{STOPPING}max_tokens_cuts_the_answer")
class OneTokenTooMany(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        found = super().asked(body, chat=chat)
        return replace(found, max_tokens=found.max_tokens + 1)


@defect("cut-but-says-stop", "An answer that was cut says `stop`.", f"{STOPPING}max_tokens_cuts_the_answer")
class CutButSaysStop(Double):
    def finish_said(self, generation: Generation) -> str:
        return "stop" if generation.finish_reason == "length" else generation.finish_reason


@defect("chat-ignores-max-tokens", "max_tokens has no effect on a chat.", f"{STOPPING}max_tokens_cuts_a_chat_answer")
class ChatIgnoresMaxTokens(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        found = super().asked(body, chat=chat)
        return replace(found, max_tokens=40) if chat and not found.forced else found


@defect("stop-string-included", "The stop string is part of the answer.", f"{STOPPING}a_stop_string_ends_the_answer")
class StopStringIncluded(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        return replace(super().asked(body, chat=chat), keep_stop=True)


@defect("stop-string-ignored", "Stop strings have no effect.", f"{STOPPING}a_stop_string_ends_the_answer")
class StopStringIgnored(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        return replace(super().asked(body, chat=chat), stops=())


@defect(
    "only-one-stop-string",
    "Of several stop strings only the first counts.",
    f"{STOPPING}the_first_of_several_stop_strings_wins",
)
class OnlyOneStopString(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        found = super().asked(body, chat=chat)
        return replace(found, stops=found.stops[:1])


@defect(
    "stop-string-never-kept",
    "include_stop_str_in_output has no effect.",
    f"{STOPPING}a_stop_string_is_kept_where_that_is_asked_for",
)
class StopStringNeverKept(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        return replace(super().asked(body, chat=chat), keep_stop=False)


@defect("stop-token-ignored", "Stop tokens have no effect.", f"{STOPPING}a_stop_token_ends_the_answer")
class StopTokenIgnored(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        return replace(super().asked(body, chat=chat), stop_ids=frozenset())


@defect(
    "stop-holds-text-back",
    "Looking for a stop string swallows the end of the answer.",
    f"{STOPPING}a_stop_string_that_never_comes_changes_nothing",
)
class StopHoldsTextBack(Double):
    def choice(self, asked: Asked, generation: Generation, pieces: list[Piece]) -> Json:
        choice = super().choice(asked, generation, pieces)
        if asked.stops and generation.finish_reason == "length" and "text" in choice:
            choice["text"] = choice["text"][: -max(map(len, asked.stops))]
        return choice


@defect("min-tokens-ignored", "min_tokens has no effect.", f"{STOPPING}min_tokens_holds_the_end_back")
class MinTokensIgnored(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        return replace(super().asked(body, chat=chat), min_tokens=0)


@defect("logprobs-of-nothing", "The last token has no log probability.", f"{LOGPROBS}every_token_has_its_log_probability")
class LogprobsOfNothing(Double):
    def choice(self, asked: Asked, generation: Generation, pieces: list[Piece]) -> Json:
        return super().choice(asked, generation, pieces[:-1] if asked.chat and asked.logprobs is not None else pieces)


@defect("probabilities-over-one", "Log probabilities are logits.", f"{LOGPROBS}as_many_candidates_as_were_asked_for")
class ProbabilitiesOverOne(Double):
    def candidate(self, token: int, logprob: float) -> Json:
        return super().candidate(token, -logprob / 10)


@defect(
    "logprob-of-another",
    "A token comes with the log probability of another.",
    f"{LOGPROBS}greedy_decoding_takes_the_likeliest_candidate",
)
class LogprobOfAnother(Double):
    def entry(self, piece: Piece) -> Json:
        return {**super().entry(piece), "logprob": piece.logprob - 1}


@defect("logprobs-unasked", "Log probabilities come although nobody asked.", f"{LOGPROBS}no_logprobs_unless_asked")
class LogprobsUnasked(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        found = super().asked(body, chat=chat)
        return replace(found, logprobs=0 if found.logprobs is None and chat and not found.stream else found.logprobs)


@defect("offsets-go-wrong", "The text offsets of tokens do not fit them.", f"{LOGPROBS}completions_align_tokens_and_offsets")
class OffsetsGoWrong(Double):
    def columns(self, asked: Asked, generation: Generation, pieces: list[Piece]) -> Json:
        found = super().columns(asked, generation, pieces)
        return {**found, "text_offset": found["text_offset"][::-1]}


@defect(
    "scored-differently",
    "Scoring with echo gives other numbers.",
    f"{LOGPROBS}a_token_has_the_same_probability_when_it_is_scored_later",
)
class ScoredDifferently(Double):
    def columns(self, asked: Asked, generation: Generation, pieces: list[Piece]) -> Json:
        found = super().columns(asked, generation, pieces)
        if asked.echo:
            found["token_logprobs"] = [None if value is None else value - 0.5 for value in found["token_logprobs"]]
        return found
