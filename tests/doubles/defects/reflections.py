"""Defects of what comes back: parts of a request in headers and logs, internals in errors, redirects, and fetches."""

from __future__ import annotations

import asyncio
import contextlib
import urllib.request
from typing import Any
from urllib.parse import unquote

from doubles.asked import Asked
from doubles.bodies import Json
from doubles.defects.bypasses import fields
from doubles.defects.catalogue import defect
from doubles.refusal import RefusedError
from doubles.server import Double
from doubles.wire import Connection, Request, Response, as_json

DENIAL = "security/test_denial.py::test_"
HOSTILE = f"{DENIAL}a_hostile_request_does_no_harm"
INJECTION = "security/test_injection.py::test_"
LEAKS = "security/test_leaks.py::test_"
LOGS = "security/test_logs.py::test_no_part_of_a_request_writes_lines_into_the_log"
REFLECTION = "security/test_reflection.py::test_nothing_of_a_request_becomes_a_response_header"
ROUTES = "security/test_routes.py::test_"


class Reflecting(Double):
    """Adds headers to responses that are made of the request."""

    def added(self, request: Request) -> dict[str, str]:
        """The headers."""
        raise NotImplementedError

    async def answer(self, request: Request, connection: Connection) -> None:
        begin, respond, more = connection.begin, connection.respond, self.added(request)

        def with_more(response: Response) -> None:
            respond(Response(status=response.status, body=response.body, headers={**response.headers, **more}))

        connection.respond = with_more  # type: ignore[method-assign]
        connection.begin = lambda headers: begin({**headers, **more})  # type: ignore[method-assign]
        await super().answer(request, connection)
        connection.respond, connection.begin = respond, begin  # type: ignore[method-assign]


@defect("request-id-is-decoded", "The id of a request comes back decoded.", f"{REFLECTION}[header:X-Request-Id]")
class RequestIdIsDecoded(Reflecting):
    def added(self, request: Request) -> dict[str, str]:
        return {"x-request-id": unquote(request.headers.get("x-request-id", ""))}


@defect("request-id-is-decoded-in-streams", "Streams return the id decoded.", f"{REFLECTION}[header:X-Request-Id]")
class RequestIdIsDecodedInStreams(Reflecting):
    def added(self, request: Request) -> dict[str, str]:
        streamed = bool(fields(request).get("stream"))
        return {"x-request-id": unquote(request.headers.get("x-request-id", ""))} if streamed else {}


@defect("model-name-in-a-header", "The model's name is written into a header.", f"{REFLECTION}[field:model]")
class ModelNameInAHeader(Reflecting):
    def added(self, request: Request) -> dict[str, str]:
        return {"x-model": str(fields(request).get("model", "")).encode("latin-1", "replace").decode("latin-1")}


@defect("users-low-bytes-in-a-header", "The low bytes of the user are a header.", f"{REFLECTION}[field:user]")
class UsersLowBytesInAHeader(Reflecting):
    def added(self, request: Request) -> dict[str, str]:
        user = str(fields(request).get("user", "")).replace("\r", "").replace("\n", "")
        return {"x-user": "".join(chr(ord(character) & 255) for character in user)}


@defect("escapes-are-read-in-a-header", "Escapes in a language become a header.", f"{REFLECTION}[header:Accept-Language]")
class EscapesAreReadInAHeader(Reflecting):
    def added(self, request: Request) -> dict[str, str]:
        return {"content-language": request.headers.get("accept-language", "en").replace("\\r", "\r").replace("\\n", "\n")}


@defect("path-in-a-header", "The decoded path is a header.", f"{REFLECTION}[path]")
class PathInAHeader(Reflecting):
    def added(self, request: Request) -> dict[str, str]:
        return {"x-path": request.path.encode("latin-1", "replace").decode("latin-1")}


@defect("origin-is-decoded", "The origin comes back decoded.", f"{REFLECTION}[header:Origin]")
class OriginIsDecoded(Reflecting):
    def added(self, request: Request) -> dict[str, str]:
        return {"access-control-allow-origin": unquote(request.headers.get("origin", "*"))}


@defect("request-ids-write-the-log", "The decoded id of a request is logged.", f"{LOGS}[header:X-Request-Id]")
class RequestIdsWriteTheLog(Double):
    async def answer(self, request: Request, connection: Connection) -> None:
        self.log(f"id {unquote(request.headers.get('x-request-id', ''))}")
        await super().answer(request, connection)


@defect("paths-write-the-log", "The decoded path is logged.", f"{LOGS}[path]")
class PathsWriteTheLog(Double):
    async def answer(self, request: Request, connection: Connection) -> None:
        self.log(f"path {unquote(request.target)}")
        await super().answer(request, connection)


@defect("metadata-writes-the-log", "Metadata is logged as it is.", f"{LOGS}[field:metadata]")
class MetadataWritesTheLog(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        self.log(f"note {(body.get('metadata') or {}).get('note')}")
        return super().asked(body, chat=chat)


class Crossing(Double):
    """Allows an origin with credentials."""

    def allows(self, origin: str) -> bool:
        """Whether this origin is allowed."""
        raise NotImplementedError

    async def routed(self, request: Request, connection: Connection) -> Response | None:
        found, origin = await super().routed(request, connection), request.headers.get("origin", "")
        if found is None or not self.allows(origin):
            return found
        allowed = {"access-control-allow-origin": origin, "access-control-allow-credentials": "true"}
        return Response(status=found.status, body=found.body, headers={**found.headers, **allowed})


@defect("null-origin-is-allowed", "The origin `null` may use credentials.", f"{ROUTES}no_cross_origin_credentials[null]")
class NullOriginIsAllowed(Crossing):
    def allows(self, origin: str) -> bool:
        return origin == "null"


@defect("origins-by-their-beginning", "An origin is compared by its beginning.", f"{ROUTES}no_cross_origin_credentials[suffix]")
class OriginsByTheirBeginning(Crossing):
    def allows(self, origin: str) -> bool:
        return origin.startswith("https://127.0.0.1")


class Talkative(Double):
    """Errors of some requests show more than they should."""

    inside = ""

    def shows(self, request: Request) -> bool:
        """Whether this request's error does."""
        raise NotImplementedError

    async def routed(self, request: Request, connection: Connection) -> Response | None:
        try:
            found = await super().routed(request, connection)
        except RefusedError as error:
            if self.shows(request):
                raise RefusedError(f"{error.message}\n{self.inside}", status=error.status, kind=error.kind) from error
            raise
        if found is not None and found.status >= 400 and self.shows(request):
            return as_json({"detail": f"{found.body.decode()} {self.inside}"}, found.status)
        return found


@defect(
    "streamed-errors-show-code", "Errors of streams show a traceback.", f"{ROUTES}errors_show_no_code[a wrong number, streamed]"
)
class StreamedErrorsShowCode(Talkative):
    inside = 'Traceback (most recent call last):\n  File "serve.py", line 7, in call'

    def shows(self, request: Request) -> bool:
        return bool(fields(request).get("stream"))


@defect("errors-show-files", "An error names a file of the server.", f"{ROUTES}errors_show_no_code[an unknown model]")
class ErrorsShowFiles(Talkative):
    inside = "not found in /srv/models/registry.json"

    def shows(self, request: Request) -> bool:
        return fields(request).get("model") == "no-such-model"


@defect(
    "errors-show-java",
    "An unknown path shows a trace of Java.",
    f"{ROUTES}errors_outside_of_routes_show_no_code[an unknown path]",
)
class ErrorsShowJava(Talkative):
    inside = "java.lang.NullPointerException\n\tat com.example.gateway.Router.route(Router.java:118)"

    def shows(self, request: Request) -> bool:
        return request.path.startswith("/no/")


@defect("errors-show-the-environment", "An error shows the environment.", f"{ROUTES}errors_show_no_code[bad JSON]")
class ErrorsShowTheEnvironment(Talkative):
    inside = "HF_TOKEN=hf_x PYTHONPATH=x"

    def shows(self, request: Request) -> bool:
        return request.body == b"{"


@defect(
    "two-slashes-redirect",
    "An address with two slashes leads to another site.",
    f"{ROUTES}nobody_is_redirected_to_another_site",
)
class TwoSlashesRedirect(Double):
    async def routed(self, request: Request, connection: Connection) -> Response | None:
        if request.target.startswith("//"):
            return Response(status=307, headers={"location": request.target.rstrip(".").rstrip("/")})
        return await super().routed(request, connection)


@defect(
    "forwarded-host-redirects",
    "A redirect is made of X-Forwarded-Host.",
    f"{ROUTES}no_address_is_made_of_a_header[X-Forwarded-Host]",
)
class ForwardedHostRedirects(Double):
    async def routed(self, request: Request, connection: Connection) -> Response | None:
        host = request.headers.get("x-forwarded-host") or request.headers.get("host", "")
        if request.path == "/v1/models/":
            return Response(status=307, headers={"location": f"http://{host}/v1/models"})
        return await super().routed(request, connection)


@defect("pictures-are-fetched", "A picture is fetched from any address.", f"{INJECTION}media_urls_open_nothing_inside[address]")
class PicturesAreFetched(Double):
    async def posted(self, path: str, body: Json, connection: Connection) -> Response | None:
        for part in self.parts(body):
            url = str((part.get("image_url") or {}).get("url", "")) if isinstance(part.get("image_url"), dict) else ""
            if url.startswith("http"):
                await asyncio.to_thread(self.fetch, url)
        return await super().posted(path, body, connection)

    def parts(self, body: Json) -> list[dict[str, Any]]:
        """Parts of the messages."""
        messages = body.get("messages")
        contents = [each.get("content") for each in messages if isinstance(each, dict)] if isinstance(messages, list) else []
        return [part for content in contents if isinstance(content, list) for part in content if isinstance(part, dict)]

    def fetch(self, url: str) -> None:
        """Get it, and forget it."""
        with contextlib.suppress(OSError, ValueError):
            urllib.request.urlopen(url, timeout=2).close()


@defect("request-ids-in-metrics", "The metrics have the id of a request as a label.", f"{LEAKS}metrics_hold_no_prompt")
class RequestIdsInMetrics(Double):
    seen = "none"

    async def answer(self, request: Request, connection: Connection) -> None:
        self.seen = request.headers.get("x-request-id", self.seen)
        await super().answer(request, connection)

    def metrics(self) -> str:
        return super().metrics() + f'last_request{{id="{self.seen}"}} 1\n'


@defect(
    "streamed-errors-repeat-prompts", "Errors of streams show the prompt of another request.", f"{LEAKS}errors_hold_no_prompt"
)
class StreamedErrorsRepeatPrompts(Double):
    last = ""

    def asked(self, body: Json, *, chat: bool) -> Asked:
        before, self.last = self.last, str(body)[:2000]
        try:
            return super().asked(body, chat=chat)
        except RefusedError as error:
            if body.get("stream"):
                raise RefusedError(f"{error.message} in {before}", status=error.status) from error
            raise


@defect("dies-of-bad-words", "A list of bad words ends the process.", f"{HOSTILE}[many-bad-words]", alone=True)
class DiesOfBadWords(Double):
    def asked(self, body: Json, *, chat: bool) -> Asked:
        if len(body.get("bad_words") or ()) > 10_000:
            asyncio.get_running_loop().stop()
        return super().asked(body, chat=chat)


@defect("hangs-by-a-request", "After a request with a long name no request is answered.", f"{HOSTILE}[long-user]", alone=True)
class HangsByARequest(Double):
    hung = False

    async def answer(self, request: Request, connection: Connection) -> None:
        self.hung = self.hung or len(str(fields(request).get("user", ""))) > 10_000
        if self.hung:
            await asyncio.sleep(3600)
        await super().answer(request, connection)


@defect("giant-bodies-break-it", "A giant body is answered 500.", f"{DENIAL}a_giant_body_is_refused_or_bounded", alone=True)
class GiantBodiesBreakIt(Double):
    def connection(self) -> Connection:
        return Breaking(self.answer, largest_head=self.largest_head, open_bodies=self.incomplete)


class Breaking(Connection):
    """Says that it is the server's fault."""

    def _refuse(self, status: int, message: str) -> None:
        super()._refuse(500 if status == 413 else status, message)
