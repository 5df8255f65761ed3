"""Defects that an attacker would look for: open doors, hostile requests that hurt, and what leaks."""

from __future__ import annotations

import re
from typing import ClassVar

from doubles.defects.catalogue import defect
from doubles.server import Double
from doubles.wire import Request, Response, as_json

AUTH = "security/test_auth.py::test_"
ROUTES = "security/test_routes.py::test_"


@defect("no-key-at-all", "The server asks for no key.", f"{AUTH}asks_for_a_key", alone=True)
class NoKeyAtAll(Double):
    pass


@defect(
    "hole-in-one-route", "One route serves completions without a key.", f"{AUTH}nothing_is_open_that_should_not_be", key=True
)
class HoleInOneRoute(Double):
    def routes(self) -> dict[str, str]:
        return {**super().routes(), "/invocations": "POST"}

    def admitted(self, request: Request) -> bool:
        return request.path == "/invocations" or super().admitted(request)


@defect(
    "unlisted-route-is-open",
    "A route that no list knows answers anybody.",
    f"{AUTH}nothing_is_open_that_should_not_be",
    key=True,
)
class UnlistedRouteIsOpen(Double):
    open_routes: ClassVar[tuple[str, ...]] = (*Double.open_routes, "/admin")

    def routes(self) -> dict[str, str]:
        return {**super().routes(), "/admin": "GET"}

    def got(self, path: str) -> Response:
        return as_json({"users": ["root"]}) if path == "/admin" else super().got(path)


@defect("any-key-fits", "Any key opens the door.", f"{AUTH}a_wrong_key_opens_nothing[another-key]", key=True)
class AnyKeyFits(Double):
    def key_fits(self, header: str) -> bool:
        return header.lower().startswith("bearer ") and len(header) > 7


@defect(
    "half-a-key-fits", "The beginning of the key is enough.", f"{AUTH}a_wrong_key_opens_nothing[beginning-of-the-key]", key=True
)
class HalfAKeyFits(Double):
    def key_fits(self, header: str) -> bool:
        given = header.partition(" ")[2]
        return len(given) > 3 and self.key.startswith(given)


@defect(
    "any-scheme-fits",
    "The key opens the door under any scheme.",
    f"{AUTH}the_key_is_accepted_in_documented_places_only[token-scheme]",
    key=True,
)
class AnySchemeFits(Double):
    def key_fits(self, header: str) -> bool:
        return header.endswith(self.key)


@defect(
    "case-does-not-matter", "The key fits in upper case, too.", f"{AUTH}a_wrong_key_opens_nothing[upper-case-key]", key=True
)
class CaseDoesNotMatter(Double):
    def key_fits(self, header: str) -> bool:
        return header.lower() == f"bearer {self.key}".lower()


@defect(
    "localhost-is-trusted",
    "A header that names this machine opens the door.",
    f"{AUTH}a_wrong_key_opens_nothing[forwarded-from-localhost]",
    key=True,
)
class LocalhostIsTrusted(Double):
    def admitted(self, request: Request) -> bool:
        return request.headers.get("x-forwarded-for") == "127.0.0.1" or super().admitted(request)


@defect(
    "the-url-is-rewritten",
    "The guard believes a header about the path.",
    f"{AUTH}a_wrong_key_opens_nothing[rewritten-url]",
    key=True,
)
class TheUrlIsRewritten(Double):
    def admitted(self, request: Request) -> bool:
        return request.headers.get("x-original-url") == "/health" or super().admitted(request)


@defect(
    "owner-is-locked-out",
    "One guarded route refuses the right key.",
    f"{AUTH}the_right_key_opens_every_guarded_route",
    key=True,
)
class OwnerIsLockedOut(Double):
    def admitted(self, request: Request) -> bool:
        return request.path != "/v1/embeddings" and super().admitted(request)


@defect(
    "two-slashes", "The guard overlooks a path with two slashes.", f"{AUTH}no_spelling_of_a_path_gets_past_the_guard", key=True
)
class TwoSlashes(Double):
    def place(self, request: Request) -> str:
        return re.sub("/+", "/", request.path)

    def admitted(self, request: Request) -> bool:
        return "//" in request.path or super().admitted(request)


@defect(
    "dots-in-a-path",
    "The guard reads a path before its dots are resolved.",
    f"{AUTH}no_spelling_of_a_path_gets_past_the_guard",
    key=True,
)
class DotsInAPath(Double):
    def place(self, request: Request) -> str:
        return re.sub(r"/[^/]+/\.\./", "/", request.path)

    def admitted(self, request: Request) -> bool:
        return request.path.startswith("/health") or super().admitted(request)


@defect("put-tells", "PUT is answered like GET, to anybody.", f"{AUTH}no_other_method_gets_past_the_guard", key=True)
class PutTells(Double):
    def admitted(self, request: Request) -> bool:
        if request.method == "PUT":
            request.method = "GET"
            return True
        return super().admitted(request)


@defect("refusal-repeats-the-key", "A refusal repeats the key that was tried.", f"{AUTH}a_refusal_tells_nothing", key=True)
class RefusalRepeatsTheKey(Double):
    def stranger(self, request: Request) -> Response:
        return as_json({"error": f"not the key: {request.headers.get('authorization', '')}"}, 401)


@defect("development-routes", "Routes for development are on.", f"{ROUTES}development_routes_are_off")
class DevelopmentRoutes(Double):
    def routes(self) -> dict[str, str]:
        return {**super().routes(), "/sleep": "POST", "/collective_rpc": "POST"}


@defect("errors-show-code", "Errors show a traceback.", f"{ROUTES}errors_show_no_code")
class ErrorsShowCode(Double):
    def error(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> Response:
        return super().error(status, f'{message}\nTraceback (most recent call last):\n  File "/srv/x.py"', kind, param)


@defect(
    "any-origin-with-credentials", "Any web page may use the key that a browser holds.", f"{ROUTES}no_cross_origin_credentials"
)
class AnyOriginWithCredentials(Double):
    def got(self, path: str) -> Response:
        found = super().got(path)
        allow = {"access-control-allow-origin": "*", "access-control-allow-credentials": "true"}
        return Response(status=found.status, body=found.body, headers={**found.headers, **allow})
