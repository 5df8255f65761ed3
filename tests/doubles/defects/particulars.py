"""Defects that show in one field only: of tool calls, log probabilities, choices, and what streams leave out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from doubles.asked import Asked
from doubles.bodies import Json
from doubles.defects.catalogue import defect
from doubles.generation import Generation, Piece
from doubles.server import Double
from doubles.wire import Connection, Response

TOOLS = "integration/test_tools.py::test_"
LOGPROBS = "integration/test_logprobs.py::test_"
SAMPLING = "integration/test_sampling.py::test_"
STOPPING = "integration/test_stopping.py::test_"
STRUCTURE = "streaming/test_structure.py::test_"
SAMENESS = "streaming/test_sameness.py::test_"
ENDS_LIKE = "streaming/test_pieces.py::test_a_streamed_call_ends_like_a_whole_one"


@defect("calls-share-an-id", "Two calls of one answer have the same id.", f"{TOOLS}a_required_call_is_made")
class CallsShareAnId(Double):
    def message(self, asked: Asked, text: str) -> Json:
        found = super().message(asked, text)
        return {**found, "tool_calls": found["tool_calls"] * 2} if asked.call else found


@defect(
    "parallel-calls-although-forbidden",
    "Two calls are made although parallel_tool_calls is false.",
    f"{TOOLS}only_one_call_is_made_where_no_more_are_allowed",
)
class ParallelCallsAlthoughForbidden(Double):
    def message(self, asked: Asked, text: str) -> Json:
        found = super().message(asked, text)
        return (
            {**found, "tool_calls": [*found["tool_calls"], {**self.call(asked, text), "id": "call-2"}]} if asked.call else found
        )


@defect(
    "calls-are-content-too", "The content beside a call repeats its arguments.", f"{TOOLS}arguments_fit_the_declared_schema"
)
class CallsAreContentToo(Double):
    def message(self, asked: Asked, text: str) -> Json:
        found = super().message(asked, text)
        return {**found, "content": text} if asked.call else found


@defect("streamed-calls-are-content-too", "A stream sends the arguments of a call as content, too.", ENDS_LIKE)
class StreamedCallsAreContentToo(Double):
    def delta(self, asked: Asked, generation: Generation, text: str, *, first: bool) -> Json:
        found = super().delta(asked, generation, text, first=first)
        return {**found, "content": text} if asked.call else found


@defect(
    "streamed-calls-end-with-stop",
    "A stream of a call ends with `stop`, and without streaming with `tool_calls`.",
    f"{ENDS_LIKE}[chat-required]",
)
class StreamedCallsEndWithStop(Double):
    def finish_said(self, generation: Generation) -> str:
        found = super().finish_said(generation)
        return "stop" if found == "tool_calls" and generation.asked.stream else found


@defect(
    "required-calls-lose-their-end-in-streams",
    "The last piece of a required call is lost in streams.",
    f"{ENDS_LIKE}[chat-required]",
)
class RequiredCallsLoseTheirEndInStreams(Double):
    required = False

    async def posted(self, path: str, body: Json, connection: Connection) -> Response | None:
        self.required = body.get("tool_choice") == "required"
        return await super().posted(path, body, connection)

    def delta(self, asked: Asked, generation: Generation, text: str, *, first: bool) -> Json:
        cut = asked.call and self.required and generation.finish_reason
        return super().delta(asked, generation, text[:-1] if cut else text, first=first)


@defect("offsets-are-all-zero", "All text offsets are 0.", f"{LOGPROBS}offsets_are_places_in_the_text")
class OffsetsAreAllZero(Double):
    def columns(self, asked: Asked, generation: Generation, pieces: list[Piece]) -> Json:
        found = super().columns(asked, generation, pieces)
        return {**found, "text_offset": [0 for _ in found["text_offset"]]}


@defect(
    "log-probabilities-of-one-choice",
    "Of several choices only the first has log probabilities.",
    f"{LOGPROBS}every_choice_has_its_log_probabilities",
)
class LogProbabilitiesOfOneChoice(Double):
    def choice(self, asked: Asked, generation: Generation, pieces: list[Piece]) -> Json:
        found = super().choice(asked, generation, pieces)
        return {**found, "logprobs": None} if generation.index else found


@defect(
    "infinite-log-probabilities",
    "Candidates that sampling excludes have -Infinity, which is no JSON.",
    f"{LOGPROBS}excluded_candidates_leave_a_valid_answer",
)
class InfiniteLogProbabilities(Double):
    def entry(self, piece: Piece) -> Json:
        found = super().entry(piece)
        others = [{**each, "logprob": float("-inf")} for each in found["top_logprobs"][1:]]
        return {**found, "top_logprobs": [*found["top_logprobs"][:1], *others]} if others else found


@defect(
    "infinite-log-probabilities-in-streams",
    "Chunks hold -Infinity, which is no JSON.",
    f"{STRUCTURE}every_token_brings_its_logprob",
)
class InfiniteLogProbabilitiesInStreams(Double):
    def piece(self, asked: Asked, head: Json, generation: Generation, pieces: Sequence[Piece]) -> Iterator[Json]:
        for chunk in super().piece(asked, head, generation, pieces):
            if asked.chat and asked.logprobs:
                for entry in chunk["choices"][0]["logprobs"]["content"]:
                    entry["top_logprobs"] = [{**entry["top_logprobs"][0], "logprob": float("-inf")}]
            yield chunk


@defect(
    "seeded-choices-are-copies", "With a seed all choices are the same.", f"{SAMPLING}the_choices_of_a_seeded_request_differ"
)
class SeededChoicesAreCopies(Double):
    def generations(self, asked: Asked) -> list[Generation]:
        made = super().generations(asked)
        if asked.sampling.seed is None:
            return made
        return [
            self.generation(asked=asked, prompt=each.prompt, choice=0, index=each.index, sampling=each.sampling)
            for each in made
        ]


@defect(
    "penalties-count-the-prompt",
    "A frequency penalty counts the tokens of the prompt.",
    f"{SAMPLING}a_frequency_penalty_does_not_count_the_prompt",
)
class PenaltiesCountThePrompt(Double):
    def generations(self, asked: Asked) -> list[Generation]:
        made = super().generations(asked)
        for each in made:
            known = list(each.prompt)
            counted = {
                token: value - each.sampling.frequency * known.count(token) for token, value in each.sampling.bias.items()
            }
            each.sampling = replace(each.sampling, bias=counted)
        return made


@defect("no-stop-reason-for-strings", "stop_reason does not name a stop string.", f"{STOPPING}a_stop_string_ends_the_answer")
class NoStopReasonForStrings(Double):
    def choice(self, asked: Asked, generation: Generation, pieces: list[Piece]) -> Json:
        found = super().choice(asked, generation, pieces)
        return {**found, "stop_reason": None} if isinstance(found["stop_reason"], str) else found


@defect(
    "stop-strings-are-ascii", "Stop strings that are not ASCII have no effect.", f"{STOPPING}a_stop_string_may_be_of_any_script"
)
class StopStringsAreAscii(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        found = super().asked(body, chat=chat)
        return replace(found, stops=tuple(stop for stop in found.stops if stop.isascii()))


@defect("echo-lost-in-streams", "Streams ignore echo.", f"{SAMENESS}an_echo_is_streamed_too")
class EchoLostInStreams(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        found = super().asked(body, chat=chat)
        return replace(found, echo=found.echo and not found.stream)


@defect(
    "streamed-prompts-share-an-index",
    "The answers to a list of prompts are streamed with one index.",
    f"{SAMENESS}each_prompt_of_a_list_has_a_stream_of_its_own",
)
class StreamedPromptsShareAnIndex(Double):
    def piece(self, asked: Asked, head: Json, generation: Generation, pieces: Sequence[Piece]) -> Iterator[Json]:
        for chunk in super().piece(asked, head, generation, pieces):
            chunk["choices"][0]["index"] %= asked.n
            yield chunk


@defect(
    "the-prompt-counts-for-every-choice",
    "The usage of a stream counts the prompt once for each choice.",
    f"{STRUCTURE}several_choices_are_streamed_side_by_side",
)
class ThePromptCountsForEveryChoice(Double):
    def closing(self, asked: Asked, head: Json, generations: Sequence[Generation]) -> Iterator[Json]:
        for chunk in super().closing(asked, head, generations):
            count = chunk["usage"]["prompt_tokens"]
            chunk["usage"] = self.usage(asked, count * asked.n, chunk["usage"]["completion_tokens"])
            yield chunk


@defect(
    "streamed-completions-without-log-probabilities",
    "Streams of completions have no log probabilities.",
    f"{STRUCTURE}every_token_of_a_completion_brings_its_logprob",
)
class StreamedCompletionsWithoutLogProbabilities(Double):
    def next_columns(self, asked: Asked, generation: Generation, pieces: Sequence[Piece], *, first: bool) -> Json:  # noqa: ARG002
        return None  # type: ignore[return-value]
