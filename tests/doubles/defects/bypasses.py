"""Defects of access control: some requests need no key, or take another one, depending on how they are asked."""

from __future__ import annotations

import json
import re
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from doubles.bodies import Json
from doubles.defects.catalogue import defect
from doubles.server import Double
from doubles.wire import Connection, Request, Response, as_json

AUTH = "security/test_auth.py::test_"
CONNECTIONS = "security/test_connections.py::test_"
ROUTES = "security/test_routes.py::test_"
NO_WAY = f"{AUTH}no_way_to_ask_needs_no_key"
WRONG = f"{AUTH}a_wrong_key_opens_nothing"


def fields(request: Request) -> Json:
    """The JSON object of a request; empty without one."""
    try:
        found = json.loads(request.body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


class Unguarded(Double):
    """Some requests need no key."""

    def free(self, request: Request) -> bool:
        """Whether this one needs none."""
        raise NotImplementedError

    def admitted(self, request: Request) -> bool:
        return self.free(request) or super().admitted(request)


@defect("streams-need-no-key", "Streams need no key.", f"{NO_WAY}[chat]", f"{NO_WAY}[completions]", key=True)
class StreamsNeedNoKey(Unguarded):
    def free(self, request: Request) -> bool:
        return bool(fields(request).get("stream"))


@defect("chat-streams-need-no-key", "Streams of chat need no key.", f"{NO_WAY}[chat]", key=True)
class ChatStreamsNeedNoKey(Unguarded):
    def free(self, request: Request) -> bool:
        return bool(fields(request).get("stream")) and "chat" in request.path


@defect("any-key-fits-for-streams", "A stream takes any key.", f"{WRONG}[another-key]", key=True)
class AnyKeyFitsForStreams(Unguarded):
    def free(self, request: Request) -> bool:
        return bool(fields(request).get("stream")) and len(request.headers.get("authorization", "")) > 7


@defect("several-choices-need-no-key", "A request for several choices needs no key.", f"{NO_WAY}[completions]", key=True)
class SeveralChoicesNeedNoKey(Unguarded):
    def free(self, request: Request) -> bool:
        return fields(request).get("n") == 2


@defect("tools-need-no-key", "A request with tools needs no key.", f"{NO_WAY}[chat]", key=True)
class ToolsNeedNoKey(Unguarded):
    def free(self, request: Request) -> bool:
        return bool(fields(request).get("tools"))


@defect("structures-need-no-key", "A request for a JSON schema needs no key.", f"{NO_WAY}[chat]", key=True)
class StructuresNeedNoKey(Unguarded):
    def free(self, request: Request) -> bool:
        return (fields(request).get("response_format") or {}).get("type") == "json_schema"


@defect("prompt-lists-need-no-key", "A list of prompts needs no key.", f"{NO_WAY}[completions]", key=True)
class PromptListsNeedNoKey(Unguarded):
    def free(self, request: Request) -> bool:
        return isinstance(fields(request).get("prompt"), list)


@defect("echo-needs-no-key", "A request with echo needs no key.", f"{NO_WAY}[completions]", key=True)
class EchoNeedsNoKey(Unguarded):
    def free(self, request: Request) -> bool:
        return bool(fields(request).get("echo"))


@defect(
    "only-embeddings-are-open",
    "Embeddings need no key.",
    f"{NO_WAY}[embeddings]",
    f"{AUTH}nothing_is_open_that_should_not_be",
    key=True,
)
class OnlyEmbeddingsAreOpen(Unguarded):
    def free(self, request: Request) -> bool:
        return request.path == "/v1/embeddings"


@defect("scores-are-open", "A route for scores needs no key.", f"{NO_WAY}[scoring]", key=True)
class ScoresAreOpen(Unguarded):
    def routes(self) -> dict[str, str]:
        return {**super().routes(), "/v1/rerank": "POST"}

    def free(self, request: Request) -> bool:
        return request.path == "/v1/rerank"

    async def posted(self, path: str, body: Json, connection: Connection) -> Response | None:
        if path == "/v1/rerank":
            return as_json({"results": [{"index": 0, "relevance_score": 0.5}]})
        return await super().posted(path, body, connection)


@defect("another-model-is-open", "An adapter in the list needs no key.", f"{AUTH}no_other_model_needs_no_key", key=True)
class AnotherModelIsOpen(Unguarded):
    adapter = "double-adapter"

    def free(self, request: Request) -> bool:
        return fields(request).get("model") == self.adapter

    def got(self, path: str) -> Response:
        cards = [self.card(), {**self.card(), "id": self.adapter, "parent": self.model}]
        return as_json({"object": "list", "data": cards}) if path == "/v1/models" else super().got(path)

    def known(self, body: Json) -> None:
        super().known({**body, "model": None} if body.get("model") == self.adapter else body)


@defect("an-empty-key-fits", "`Bearer` without a key is accepted.", f"{WRONG}[empty-key]", key=True)
class AnEmptyKeyFits(Double):
    def key_fits(self, header: str) -> bool:
        return header.strip().lower() == "bearer" or super().key_fits(header)


@defect("the-first-letter-fits", "The first letter of the key is enough.", f"{WRONG}[one-letter-of-the-key]", key=True)
class TheFirstLetterFits(Double):
    def key_fits(self, header: str) -> bool:
        given = header.partition(" ")[2]
        return given != "" and given[0] == self.key[0]


@defect("a-longer-key-fits", "What begins with the key is accepted.", f"{WRONG}[more-than-the-key]", key=True)
class ALongerKeyFits(Double):
    def key_fits(self, header: str) -> bool:
        return header.partition(" ")[2].startswith(self.key)


@defect("null-fits", "The word `null` is accepted as a key.", f"{WRONG}[null-key]", key=True)
class NullFits(Double):
    def key_fits(self, header: str) -> bool:
        return header.partition(" ")[2] in ("null", "None", self.key)


@defect("internal-clients-are-trusted", "A header says that a client is internal.", f"{WRONG}[internal-client]", key=True)
class InternalClientsAreTrusted(Unguarded):
    def free(self, request: Request) -> bool:
        return request.headers.get("x-internal") == "true"


@defect("key-in-the-query", "The key may stand in the address.", f"{AUTH}a_key_in_the_address_is_not_accepted", key=True)
class KeyInTheQuery(Unguarded):
    def free(self, request: Request) -> bool:
        return parse_qs(urlsplit(request.target).query).get("api_key") == [self.key]


@defect(
    "key-in-a-cookie", "The key may be in a cookie.", f"{AUTH}the_key_is_accepted_in_documented_places_only[a-cookie]", key=True
)
class KeyInACookie(Unguarded):
    def free(self, request: Request) -> bool:
        return self.key in request.headers.get("cookie", "")


class Remembering(Double):
    """Knows how many requests with the key came on a connection."""

    async def answer(self, request: Request, connection: Connection) -> None:
        if vars(connection).get("known"):
            request.headers["authorization"] = f"Bearer {self.key}"
        vars(connection)["known"] = self.admitted(request) and "authorization" in request.headers
        await super().answer(request, connection)


@defect(
    "a-kept-connection-keeps-the-key",
    "The key is asked for once on a connection.",
    f"{CONNECTIONS}a_kept_connection_does_not_keep_the_key[no key]",
    f"{CONNECTIONS}a_pipelined_request_needs_the_key",
    key=True,
)
class AKeptConnectionKeepsTheKey(Remembering):
    pass


@defect(
    "options-lists-models", "OPTIONS is answered like GET.", f"{AUTH}no_other_method_gets_past_the_guard[OPTIONS]", key=True
)
class OptionsListsModels(Double):
    def admitted(self, request: Request) -> bool:
        if request.method == "OPTIONS":
            request.method = "GET"
            return True
        return super().admitted(request)


@defect("head-needs-no-key", "HEAD is answered without a key.", f"{AUTH}no_other_method_gets_past_the_guard[HEAD]", key=True)
class HeadNeedsNoKey(Double):
    async def routed(self, request: Request, connection: Connection) -> Response | None:
        if request.method != "HEAD" or request.path != "/v1/models":
            return await super().routed(request, connection)
        return Response(headers={"content-length": str(len(self.got(request.path).body))})


@defect(
    "a-slash-at-the-end",
    "The guard overlooks a path with a slash at its end.",
    f"{AUTH}no_spelling_of_a_path_gets_past_the_guard[/v1/chat/completions]",
    key=True,
)
class ASlashAtTheEnd(Unguarded):
    def place(self, request: Request) -> str:
        return request.path.rstrip("/") or "/"

    def free(self, request: Request) -> bool:
        return request.path.endswith("/")


@defect(
    "absolute-targets-need-no-key",
    "A request with a whole URL as its target needs no key.",
    f"{CONNECTIONS}no_form_of_a_request_gets_past_the_guard[absolute-form]",
    key=True,
)
class AbsoluteTargetsNeedNoKey(Unguarded):
    def place(self, request: Request) -> str:
        return re.sub(r"^https?://[^/]+", "", request.path)

    def free(self, request: Request) -> bool:
        return request.target.startswith("http")


@defect(
    "chunked-bodies-need-no-key",
    "A request with a chunked body needs no key.",
    f"{CONNECTIONS}no_form_of_a_request_gets_past_the_guard[chunked]",
    key=True,
)
class ChunkedBodiesNeedNoKey(Unguarded):
    def free(self, request: Request) -> bool:
        return "chunked" in request.headers.get("transfer-encoding", "")


class WithSockets(Connection):
    """Opens a websocket for anybody."""

    def data_received(self, data: bytes) -> None:
        if b"\r\nupgrade: websocket\r\n" in data.lower() and data.startswith(b"GET /v1/realtime"):
            self.raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        else:
            super().data_received(data)


@defect(
    "a-websocket-is-open",
    "A websocket needs no key.",
    f"{CONNECTIONS}no_websocket_opens_without_the_key[/v1/realtime]",
    key=True,
)
class AWebsocketIsOpen(Double):
    def connection(self) -> Connection:
        return WithSockets(self.answer, largest_head=self.largest_head, open_bodies=self.incomplete)


class BelievingLengths(Connection):
    """Takes the end of a chunked body for the end of a request that was checked, and what follows as checked, too."""

    models: ClassVar[bytes] = b'{"object":"list","data":[{"id":"double"}]}'

    def data_received(self, data: bytes) -> None:
        head, _, rest = data.partition(b"\r\n\r\n")
        if b"content-length" in head.lower() and b"transfer-encoding: chunked" in head.lower() and b"GET /v1/models" in rest:
            length = len(self.models)
            self.raw(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
            self.raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % length + self.models)
        else:
            super().data_received(data)


@defect(
    "hidden-requests-are-served",
    "A request that hides in the body of another is served.",
    f"{CONNECTIONS}a_request_inside_another_is_not_served[length-and-chunked]",
    key=True,
)
class HiddenRequestsAreServed(Double):
    def connection(self) -> Connection:
        return BelievingLengths(self.answer, largest_head=self.largest_head, open_bodies=self.incomplete)


@defect(
    "no-key-is-an-error", "A request without a key is answered 500.", f"{AUTH}a_missing_key_is_the_clients_mistake", key=True
)
class NoKeyIsAnError(Double):
    def stranger(self, request: Request) -> Response:
        if "authorization" in request.headers:
            return super().stranger(request)
        return self.error(500, "internal error", "InternalServerError")


@defect(
    "development-routes-by-two-slashes",
    "A development route is reached by two slashes.",
    f"{ROUTES}development_routes_are_off",
    key=True,
)
class DevelopmentRoutesByTwoSlashes(Double):
    def routes(self) -> dict[str, str]:
        return {**super().routes(), "//collective_rpc": "POST"}


@defect("the-configuration-is-shown", "A development route tells the configuration.", f"{ROUTES}development_routes_are_off")
class TheConfigurationIsShown(Double):
    async def routed(self, request: Request, connection: Connection) -> Response | None:
        settings: dict[str, Any] = {"vllm_config": {"model": self.model}}
        if request.method == "GET" and request.path == "/server_info":
            return as_json(settings)
        return await super().routed(request, connection)
