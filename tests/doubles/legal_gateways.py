"""Gateways and frameworks in front of a server, with habits that HTTP and the wire format allow.

No case of the security suite may fail for any of them: each was taken for a hole once, or looks like one by its status alone.
"""

from __future__ import annotations

import itertools
from typing import Any

from doubles.asked import Asked
from doubles.bodies import Json
from doubles.refusal import RefusedError
from doubles.server import Double
from doubles.wire import Connection, Request, Response, as_json

_FORWARDED = ("/v1/models", "/v1/chat/completions", "/v1/completions", "/v1/embeddings")
_OF_OPENAI = frozenset(
    [
        "model",
        "messages",
        "prompt",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "n",
        "stream",
        "stream_options",
        "stop",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "user",
        "seed",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "input",
        "encoding_format",
        "suffix",
        "echo",
        "best_of",
        "metadata",
        "store",
        "service_tier",
    ]
)


def page(status: int, title: str) -> Response:
    """A page for browsers."""
    text = f"<html><head><title>{status} {title}</title></head><body><center><h1>{status} {title}</h1></center></body></html>"
    return Response(status=status, body=text.encode(), headers={"content-type": "text/html"})


class Gateway(Double):
    """Forwards the API only."""

    def routes(self) -> dict[str, str]:
        return {path: method for path, method in super().routes().items() if path in _FORWARDED}


class PagesOfNginx(Gateway):
    """Everything unknown is a page: 404, and 405 for every method but GET and POST, whether the path exists or not."""

    async def routed(self, request: Request, connection: Connection) -> Response | None:
        if request.method not in ("GET", "POST"):
            return page(405, "Not Allowed")
        if self.routes().get(self.place(request)) != request.method:
            return page(404, "Not Found")
        return await super().routed(request, connection)


class NoMethodIsKnown(Gateway):
    """405 for everything that is not forwarded, also for paths that cannot exist."""

    async def routed(self, request: Request, connection: Connection) -> Response | None:
        if self.routes().get(self.place(request)) != request.method:
            return page(405, "Not Allowed")
        return await super().routed(request, connection)


class KeyForEverything(Gateway):
    """401 for everything without a key, paths that do not exist and health checks included."""

    open_routes = ()


class PageForStrangers(Gateway):
    """401 with a page, and a scheme to log in."""

    def stranger(self, request: Request) -> Response:  # noqa: ARG002
        found = page(401, "Authorization Required")
        return Response(status=401, body=found.body, headers={**found.headers, "www-authenticate": "Bearer"})


class ForbiddenIfUnknown(Gateway):
    """403 for every path that is not forwarded, with and without the key."""

    async def routed(self, request: Request, connection: Connection) -> Response | None:
        if self.place(request) not in self.routes():
            return as_json({"message": "Forbidden"}, 403)
        return await super().routed(request, connection)


class StrangersAreForbidden(Gateway):
    """403 instead of 401."""

    def stranger(self, request: Request) -> Response:  # noqa: ARG002
        return as_json({"error": {"message": "forbidden", "type": "permission_error", "code": None}}, 403)


class NotFoundForStrangers(Gateway):
    """404 for everything without a key, as where the existence of a path is a secret."""

    def stranger(self, request: Request) -> Response:  # noqa: ARG002
        return as_json({"detail": "Not Found"}, 404)


class BodyBeforeKey(Double):
    """A body that is not valid is refused with 422 before the key is looked at, as dependencies of FastAPI do."""

    async def routed(self, request: Request, connection: Connection) -> Response | None:
        if request.method == "POST" and self.place(request) in self.routes():
            try:
                self.body(request)
            except RefusedError:
                return as_json({"detail": [{"type": "json_invalid", "loc": ["body"], "msg": "JSON decode error"}]}, 422)
        return await super().routed(request, connection)


class LimitsTheRate(Gateway):
    """One request of forty is refused with 429, and with the time to wait."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._count = itertools.count(1)

    async def routed(self, request: Request, connection: Connection) -> Response | None:
        if next(self._count) % 40 == 0:
            return as_json({"error": {"message": "Rate limit", "type": "requests", "code": "x"}}, 429, {"retry-after": "0.01"})
        return await super().routed(request, connection)


class StrangersAreTooMany(Gateway):
    """429 for everything without a key, as where failed attempts to log in are limited."""

    def stranger(self, request: Request) -> Response:  # noqa: ARG002
        error = {"message": "Too many failed attempts", "type": "requests", "code": "rate_limit_exceeded"}
        return as_json({"error": error}, 429, {"retry-after": "1"})


class DropsPictures(Double):
    """Parts of messages that are no text are dropped without a word."""

    def asked(self, body: Json, *, chat: bool) -> Any:
        messages = body.get("messages")
        if chat and isinstance(messages, list):
            body = {**body, "messages": [self.plain(message) for message in messages]}
        return super().asked(body, chat=chat)

    def plain(self, message: Any) -> Any:
        """The message with its text only."""
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, list):
            return message
        return {
            **message,
            "content": [part for part in content if isinstance(part, dict) and part.get("type") == "text"] or "x",
        }


class ChatOnly(Gateway):
    """Chat and the list of models, and nothing else."""

    def routes(self) -> dict[str, str]:
        return {path: method for path, method in super().routes().items() if path in _FORWARDED[:2]}


class CompletionsOnly(Gateway):
    """Completions and the list of models, and nothing else."""

    def routes(self) -> dict[str, str]:
        return {path: method for path, method in super().routes().items() if path in ("/v1/models", "/v1/completions")}


class AnyModelName(Gateway):
    """One model answers to every name."""

    def known(self, body: Json) -> None:
        """Nothing is refused."""


class StrictFields(Gateway):
    """Fields that OpenAI does not know are refused."""

    def body(self, request: Request) -> Json:
        found = super().body(request)
        unknown = sorted(set(found) - _OF_OPENAI)
        if unknown:
            raise RefusedError(f"Unrecognized request argument supplied: {unknown[0]!r}", kind="invalid_request_error")
        return found


class OnePage(Gateway):
    """A web application behind the same address: every unknown path is its page, 200."""

    async def routed(self, request: Request, connection: Connection) -> Response | None:
        if self.place(request) not in self.routes():
            return Response(body=b"<!doctype html><div id=app></div>", headers={"content-type": "text/html"})
        return await super().routed(request, connection)


class SaysOk(Gateway):
    """Every unknown path is answered 200 and `{"status": "ok"}`."""

    async def routed(self, request: Request, connection: Connection) -> Response | None:
        if self.place(request) not in self.routes():
            return as_json({"status": "ok", "path": request.path})
        return await super().routed(request, connection)


class ErrorsAre200(Gateway):
    """Without a key the answer is 200 with an error object."""

    def stranger(self, request: Request) -> Response:  # noqa: ARG002
        return as_json({"error": {"message": "no key", "code": 401}})


class StrangersAreRedirected(Gateway):
    """Without a key a client is sent to a page to log in."""

    def stranger(self, request: Request) -> Response:  # noqa: ARG002
        return Response(status=302, headers={"location": "/login"})


class AnotherHeader(Gateway):
    """The key is accepted in `X-Api-Key`, too, as Anthropic's API documents."""

    def admitted(self, request: Request) -> bool:
        return request.headers.get("x-api-key") == self.key or super().admitted(request)


class ModelsAreOpen(Gateway):
    """Everybody may list the models, as with several public services; answers need the key."""

    open_routes = ("/v1/models",)


class SlashesAreRedirected(Gateway):
    """A slash at the end is redirected to the path without it, on the host that the client named."""

    async def routed(self, request: Request, connection: Connection) -> Response | None:
        if request.path.rstrip("/") in self.routes() and request.path.endswith("/"):
            location = f"http://{request.headers.get('host', '')}{request.path.rstrip('/')}"
            return Response(status=307, headers={"location": location})
        return await super().routed(request, connection)


class RequestIds(Gateway):
    """The id of a request comes back as it was sent, and is logged with its line ends escaped."""

    async def answer(self, request: Request, connection: Connection) -> None:
        respond, name = connection.respond, request.headers.get("x-request-id", "none")
        self.log(f"id {name!r}")
        connection.respond = lambda response: respond(  # type: ignore[method-assign]
            Response(status=response.status, body=response.body, headers={**response.headers, "x-request-id": name})
        )
        await super().answer(request, connection)
        connection.respond = respond  # type: ignore[method-assign]


class AnyOrigin(Gateway):
    """Every web page may read answers, without credentials."""

    async def routed(self, request: Request, connection: Connection) -> Response | None:
        found = await super().routed(request, connection)
        allowed = {"access-control-allow-origin": "*"}
        return found and Response(status=found.status, body=found.body, headers={**found.headers, **allowed})


class PreflightsAreAnswered(Gateway):
    """OPTIONS is answered 204 for every path, by the layer that handles other origins."""

    async def routed(self, request: Request, connection: Connection) -> Response | None:
        if request.method == "OPTIONS":
            return Response(status=204, headers={"access-control-allow-methods": "GET, POST", "allow": "GET, POST"})
        return await super().routed(request, connection)


class EveryHeadIsOk(Gateway):
    """HEAD is answered 200 for every path, by a layer that knows no paths."""

    async def routed(self, request: Request, connection: Connection) -> Response | None:
        return Response() if request.method == "HEAD" else await super().routed(request, connection)


class ErrorsClose(Gateway):
    """A connection ends with an error, without saying so, as in vLLM 0.25."""

    async def answer(self, request: Request, connection: Connection) -> None:
        respond = connection.respond

        def closing(response: Response) -> None:
            respond(response)
            if response.status >= 400:
                connection.close()

        connection.respond = closing  # type: ignore[method-assign]
        await super().answer(request, connection)
        connection.respond = respond  # type: ignore[method-assign]


class ModelIsAPath(Gateway):
    """The model is named by its folder, and refusals name it."""

    model = "/srv/models/llama"

    def known(self, body: Json) -> None:
        if body.get("model") not in (None, self.model):
            raise RefusedError(f"no such model; served is {self.model}", status=404, kind="NotFoundError")


class LargeBodiesAre502(Gateway):
    """The server refuses a large body by closing the connection, which the gateway reports (RFC 9110, section 15.6.3)."""

    async def answer(self, request: Request, connection: Connection) -> None:
        if len(request.body) > 100_000:
            connection.respond(page(502, "Bad Gateway"))
            return
        await super().answer(request, connection)


class QuotesInPart(Gateway):
    """A refusal of a part of a message quotes the end of it, as pydantic does."""

    def asked(self, body: Json, *, chat: bool) -> Asked:
        for message in body.get("messages") or ():
            for part in message.get("content") or () if isinstance(message, dict) else ():
                if isinstance(part, dict) and part.get("type") not in (None, "text"):
                    raise RefusedError(f"1 validation error: Field required [input_value={{'t...{str(part)[-7:]}]")
        return super().asked(body, chat=chat)


class HasRoutesOfItsOwn(Gateway):
    """Routes for which the API's key is not enough, and routes that delete or restart something with that key."""

    emptied = False

    def routes(self) -> dict[str, str]:
        own = {"/spend/logs": "GET", "/realtime/calls": "POST", "/cache/flush": "POST", "/models/all": "DELETE"}
        return {**super().routes(), **own, "/openapi.json": "GET"}

    async def routed(self, request: Request, connection: Connection) -> Response | None:
        if self.routes().get(request.path) != request.method or request.path in super().routes():
            return self.error(503, "everything was deleted") if self.emptied else await super().routed(request, connection)
        if not self.admitted(request):
            return self.stranger(request)
        if request.path == "/openapi.json":
            return await super().routed(request, connection)
        if request.path in ("/spend/logs", "/realtime/calls"):
            return as_json({"error": {"message": "this needs another credential"}}, 401)
        self.emptied = True
        return as_json({"deleted": True})


GATEWAYS: dict[str, type[Gateway | Double]] = {
    gateway.__name__: gateway
    for gateway in (
        *(PagesOfNginx, NoMethodIsKnown, KeyForEverything, PageForStrangers, ForbiddenIfUnknown, StrangersAreForbidden),
        *(NotFoundForStrangers, BodyBeforeKey, LimitsTheRate, DropsPictures, ChatOnly, CompletionsOnly, AnyModelName),
        *(StrictFields, OnePage, SaysOk, ErrorsAre200, StrangersAreRedirected, AnotherHeader, ModelsAreOpen),
        *(SlashesAreRedirected, RequestIds, AnyOrigin, PreflightsAreAnswered, EveryHeadIsOk, ErrorsClose, ModelIsAPath),
        *(LargeBodiesAre502, QuotesInPart, StrangersAreTooMany, HasRoutesOfItsOwn),
    )
}
