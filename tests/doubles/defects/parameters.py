"""Parameters that are lost on the way to the model: on one surface, or in streams only."""

from __future__ import annotations

from doubles.bodies import Json
from doubles.defects.catalogue import defect
from doubles.server import Double
from doubles.wire import Connection, Response

_PARAMETERS = "integration/test_parameters.py::test_"
_IN_STREAMS = "streaming/test_parameters.py::test_a_parameter_reaches_a_stream"
_ON_CHAT = {
    "top_p": "one_candidate_leaves_the_greedy_answer[top_p-chat]",
    "top_k": "one_candidate_leaves_the_greedy_answer[top_k-chat]",
    "min_p": "one_candidate_leaves_the_greedy_answer[min_p-chat]",
    "seed": "a_seed_repeats_the_answer[chat]",
    "frequency_penalty": "a_frequency_penalty_ends_a_repetition[chat]",
    "presence_penalty": "a_penalty_changes_what_is_drawn[presence_penalty-chat]",
    "repetition_penalty": "a_repetition_penalty_changes_to_the_next_token[chat]",
    "bad_words": "a_bad_word_does_not_come[chat]",
    "allowed_token_ids": "only_allowed_tokens_come[chat]",
    "min_tokens": "min_tokens_hold_the_end_back[chat]",
    "truncate_prompt_tokens": "a_prompt_is_truncated_where_that_is_asked_for[chat]",
    "prompt_logprobs": "every_token_of_a_prompt_has_its_log_probability[chat]",
}
_ON_COMPLETIONS = {
    "min_p": "one_candidate_leaves_the_greedy_answer[min_p-completions]",
    "frequency_penalty": "a_penalty_changes_what_is_drawn[frequency_penalty-completions]",
    "presence_penalty": "a_penalty_changes_what_is_drawn[presence_penalty-completions]",
    "repetition_penalty": "a_repetition_penalty_changes_to_the_next_token[completions]",
    "bad_words": "a_bad_word_does_not_come[completions]",
    "allowed_token_ids": "only_allowed_tokens_come[completions]",
    "prompt_logprobs": "every_token_of_a_prompt_has_its_log_probability[completions]",
}
_STREAMED = (
    *("top_k", "frequency_penalty", "presence_penalty", "repetition_penalty", "logit_bias", "bad_words", "min_p"),
    *("stop_token_ids", "max_completion_tokens", "min_tokens"),
)


def without(parameter: str, *, chat: bool, streams: bool | None = None) -> type[Double]:
    """A double that drops a parameter on one surface; in streams only, or in whole answers only, if that is said."""

    class Loses(Double):
        async def posted(self, path: str, body: Json, connection: Connection) -> Response | None:
            its_surface = path == ("/v1/chat/completions" if chat else "/v1/completions")
            if its_surface and (streams is None or streams == bool(body.get("stream"))):
                body = {name: value for name, value in body.items() if name != parameter}
            return await super().posted(path, body, connection)

    return Loses


def _listed() -> None:
    for chat, cases in ((True, _ON_CHAT), (False, _ON_COMPLETIONS)):
        surface = "chat" if chat else "completions"
        for parameter, case in cases.items():
            words = f"{parameter.replace('_', '-')}-lost-on-{surface}"
            what = f"{parameter} is checked and then lost on {surface}."
            defect(words, what, f"{_PARAMETERS}{case}", alone=True)(without(parameter, chat=chat, streams=False))
    for at, parameter in enumerate(_STREAMED):
        surface = "completions" if at % 2 else "chat"
        words = f"{parameter.replace('_', '-')}-lost-in-streams-of-{surface}"
        what = f"{parameter} has no effect in streams of {surface}."
        case = f"{_IN_STREAMS}[{surface}-{parameter}]"
        defect(words, what, case, alone=True)(without(parameter, chat=surface == "chat", streams=True))


_listed()


@defect(
    "penalties-reward",
    "A frequency penalty is added instead of subtracted.",
    f"{_PARAMETERS}a_frequency_penalty_ends_a_repetition[completions]",
    alone=True,
)
class PenaltiesReward(Double):
    async def posted(self, path: str, body: Json, connection: Connection) -> Response | None:
        if isinstance(body.get("frequency_penalty"), int | float):
            body = {**body, "frequency_penalty": -body["frequency_penalty"]}
        return await super().posted(path, body, connection)
