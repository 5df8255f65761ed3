"""Defects in dealing with requests: structures, tools, limits, crowds and mistakes of clients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from doubles import asked as asking
from doubles import tokenizer
from doubles.asked import Asked
from doubles.bodies import Json
from doubles.defects.catalogue import defect
from doubles.generation import Generation
from doubles.refusal import RefusedError
from doubles.server import Double
from doubles.wire import Connection, Request, Response, as_json

TOOLS = "integration/test_tools.py::test_"
STRUCTURED = "integration/test_structured.py::test_"
ERRORS = "integration/test_errors.py::test_"
SDK = "integration/test_sdk.py::test_"


@defect("calls-nothing", "A required call is not made.", f"{TOOLS}a_required_call_is_made")
class CallsNothing(Double):
    def message(self, asked: Asked, text: str) -> Json:  # noqa: ARG002
        return {"role": "assistant", "content": text}


@defect("calls-the-first", "A named function is not the one that is called.", f"{TOOLS}a_named_function_is_called")
class CallsTheFirst(Double):
    def call(self, asked: Asked, arguments: str) -> Json:
        return super().call(replace(asked, call="weather"), arguments)


@defect("arguments-do-not-fit", "Arguments lack a required field.", f"{TOOLS}arguments_fit_the_declared_schema")
class ArgumentsDoNotFit(Double):
    def call(self, asked: Asked, arguments: str) -> Json:
        return super().call(asked, arguments.partition(", ")[0] + "}")


@defect("arguments-are-cut", "Arguments are half a JSON object.", f"{TOOLS}arguments_fit_the_declared_schema")
class ArgumentsAreCut(Double):
    def call(self, asked: Asked, arguments: str) -> Json:
        return super().call(asked, arguments[:-3])


@defect("calls-although-none", "tool_choice `none` is ignored.", f"{TOOLS}no_call_where_none_is_allowed")
class CallsAlthoughNone(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        found = super().asked(body, chat=chat)
        return replace(found, forced="{}", call="weather") if body.get("tool_choice") == "none" else found


@defect("tools-untold", "Declared tools do not reach the prompt.", f"{TOOLS}declared_tools_are_in_the_prompt")
class ToolsUntold(Double):
    def rendered(self, body: Json) -> list[int]:
        return super().rendered({**body, "tools": None})


@defect(
    "results-are-lost", "The result of a call does not reach the prompt.", f"{TOOLS}a_result_goes_back_into_the_conversation"
)
class ResultsAreLost(Double):
    def conversation(self, messages: list[dict[str, str]]) -> list[dict[str, str]]:
        return [message for message in messages if message["role"] != "tool"]


@defect("any-name-goes", "Naming an undeclared function is accepted.", f"{TOOLS}naming_an_undeclared_function_is_refused")
class AnyNameGoes(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        choice = body.get("tool_choice")
        named = isinstance(choice, dict) and choice["function"]["name"] == "undeclared"
        return super().asked({**body, "tool_choice": "none"} if named else body, chat=chat)


@defect("schema-ignored", "Structured output is free text.", f"{STRUCTURED}output_validates_against_its_schema")
class SchemaIgnored(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        found = super().asked(body, chat=chat)
        return replace(found, forced="Sure! Here is your JSON.") if body.get("response_format") and found.forced else found


@defect("choice-with-a-blank", "A choice comes with a blank after it.", f"{STRUCTURED}a_choice_is_one_of_those_offered")
class ChoiceWithABlank(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        found = super().asked(body, chat=chat)
        return replace(found, forced=found.forced + " ") if "choice" in (body.get("structured_outputs") or {}) else found


@defect("pattern-half-matched", "A pattern is matched at the beginning only.", f"{STRUCTURED}a_pattern_is_matched_whole")
class PatternHalfMatched(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        found = super().asked(body, chat=chat)
        return replace(found, forced=found.forced[:-1]) if "regex" in (body.get("structured_outputs") or {}) else found


@defect(
    "bad-structures-crash", "A structure that cannot be is answered 500.", f"{STRUCTURED}a_structure_that_cannot_be_is_refused"
)
class BadStructuresCrash(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        try:
            return super().asked(body, chat=chat)
        except RefusedError as error:
            raise RefusedError(error.message, status=500, kind="InternalServerError") from error


@defect(
    "any-model-answers",
    "An unknown model is answered by the one that is there.",
    f"{ERRORS}a_bad_field_is_refused_and_named[unknown-model]",
)
class AnyModelAnswers(Double):
    def known(self, body: Json) -> None:
        pass


@defect(
    "bad-values-pass",
    "Values out of range are taken silently.",
    f"{ERRORS}a_bad_field_is_refused_and_named[temperature-negative]",
)
class BadValuesPass(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        bad = isinstance(body.get("temperature"), int | float) and body["temperature"] < 0
        return super().asked({**body, "temperature": 0} if bad else body, chat=chat)


@defect("refusals-say-nothing", "Refusals have an empty message.", f"{ERRORS}a_bad_field_is_refused_and_named")
class RefusalsSayNothing(Double):
    def error(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> Response:  # noqa: ARG002
        return super().error(status, "", kind, param)


@defect("refusals-are-pages", "Refusals are HTML pages.", f"{ERRORS}refusals_are_json")
class RefusalsArePages(Double):
    def error(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> Response:  # noqa: ARG002
        return Response(status=status, body=f"<h1>{status}</h1>".encode(), headers={"content-type": "text/html"})


@defect("refusals-are-crashes", "Every refusal is a 500.", f"{ERRORS}a_bad_field_is_refused_and_named")
class RefusalsAreCrashes(Double):
    def error(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> Response:  # noqa: ARG002
        return super().error(500, message, "InternalServerError", param)


@defect(
    "refusals-name-nothing",
    "The refusal of an unknown model does not name it.",
    f"{ERRORS}the_refusal_of_an_unknown_model_names_it",
)
class RefusalsNameNothing(Double):
    def known(self, body: Json) -> None:
        try:
            super().known(body)
        except RefusedError as error:
            raise RefusedError("no such model", status=error.status, kind=error.kind) from error


@defect("bad-bodies-crash", "A body that is no JSON object is answered 500.", f"{ERRORS}a_bad_body_is_refused")
class BadBodiesCrash(Double):
    def body(self, request: Request) -> Json:
        try:
            return super().body(request)
        except RefusedError as error:
            raise RefusedError(error.message, status=500) from error


@defect("forms-are-taken", "Any content type is read as JSON.", f"{ERRORS}another_content_type_is_refused")
class FormsAreTaken(Double):
    def body(self, request: Request) -> Json:
        return asking.parse(request.body)


@defect("everything-is-found", "Unknown routes are answered 200.", f"{ERRORS}an_unknown_route_is_not_found")
class EverythingIsFound(Double):
    async def routed(self, request: Request, connection: Connection) -> Response | None:
        found = await super().routed(request, connection)
        return as_json({}) if found and found.status == 404 and b"Not Found" in found.body else found


@defect("methods-do-not-matter", "A GET is answered where a POST belongs.", f"{ERRORS}the_wrong_method_is_not_allowed")
class MethodsDoNotMatter(Double):
    async def routed(self, request: Request, connection: Connection) -> Response | None:
        found = await super().routed(request, connection)
        return as_json({}) if found and found.status == 405 else found


@defect("one-bad-request-breaks-it", "After a refusal the next request fails.", f"{ERRORS}refusals_leave_the_server_working")
class OneBadRequestBreaksIt(Double):
    broken = False

    def error(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> Response:
        self.broken = True
        return super().error(status, message, kind, param)

    def generations(self, asked: Asked) -> list[Generation]:
        if self.broken:
            self.broken = False
            return [replace_reason(generation) for generation in super().generations(replace(asked, max_tokens=2))]
        return super().generations(asked)


def replace_reason(generation: Generation) -> Generation:
    """An answer of two tokens where one was asked for."""
    generation.asked = replace(generation.asked, ignore_eos=True)
    return generation


@defect("sdk-finds-no-model", "The list of models lacks the one that is served.", f"{SDK}lists_models")
class SdkFindsNoModel(Double):
    asked_before = 0

    def card(self) -> Json:
        self.asked_before += 1
        return {**super().card(), **({"id": "another"} if self.asked_before > 2 else {})}


@defect("answers-without-usage", "Answers carry no usage.", "integration/test_usage.py::test_answers_say_what_they_used")
class AnswersWithoutUsage(Double):
    def whole(self, asked: Asked, name: str, created: int, answers: Any) -> Json:
        return {**super().whole(asked, name, created, answers), "usage": None}


@defect("sdk-raises-the-wrong-error", "An unknown model is answered 502.", f"{SDK}raises_its_own_errors")
class SdkRaisesTheWrongError(Double):
    def known(self, body: Json) -> None:
        try:
            super().known(body)
        except RefusedError as error:
            raise RefusedError(error.message, status=502) from error


@defect(
    "tokens-of-another-tokenizer",
    "Token ids that were sent are refused.",
    "integration/test_completions.py::test_a_prompt_of_token_ids_is_the_same_prompt",
)
class TokensOfAnotherTokenizer(Double):
    def tokenized(self, body: Json) -> Response:
        found = super().tokenized(body)
        ids = asking.readable(str(body.get("prompt", "")), "prompt")
        return (
            as_json({"count": len(ids), "tokens": [tokenizer.VOCABULARY + token for token in ids]})
            if "prompt" in body
            else found
        )


@defect("sdk-gets-another-reason", "A completion ends for a reason that no SDK knows.", f"{SDK}completes")
class SdkGetsAnotherReason(Double):
    def finish_said(self, generation: Generation) -> str:
        return "eos" if generation.finish_reason and not generation.asked.chat else generation.finish_reason


@defect("sdk-streams-end-without-a-reason", "No chunk of a stream says why it ended.", f"{SDK}streams")
class SdkStreamsEndWithoutAReason(Double):
    def finish_said(self, generation: Generation) -> str:
        return "" if generation.asked.stream else super().finish_said(generation)
