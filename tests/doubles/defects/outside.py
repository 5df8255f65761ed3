"""Defects by which a server is reached from outside where it should not be: odd keys, hosts, schemas, media, files."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import urllib.request
from pathlib import Path

from doubles.bodies import Json
from doubles.defects.bypasses import AUTH, ROUTES
from doubles.defects.catalogue import defect
from doubles.server import Double
from doubles.wire import Connection, Request, Response, as_json

INJECTION = "security/test_injection.py::test_"


@defect(
    "odd-keys-crash",
    "A key that is not ASCII is answered 500, as a comparison of texts in constant time does.",
    f"{AUTH}a_key_of_odd_characters_is_the_clients_mistake[accents]",
    f"{AUTH}a_key_of_odd_characters_is_the_clients_mistake[emoji]",
    key=True,
    alone=True,
)
class OddKeysCrash(Double):
    async def routed(self, request: Request, connection: Connection) -> Response | None:
        if not request.headers.get("authorization", "").isascii():
            return as_json({"error": {"message": "Internal Server Error", "code": 500}}, 500)
        return await super().routed(request, connection)


class Fetching(Double):
    """Fetches an address that stands in a request."""

    address = re.compile(r'"url": "(http[^"]+)')
    paths: tuple[str, ...] = ()

    async def posted(self, path: str, body: Json, connection: Connection) -> Response | None:
        if path in self.paths and (found := self.address.search(json.dumps(body))):
            await asyncio.to_thread(_fetched, found[1])
        return await super().posted(path, body, connection)


def _fetched(url: str) -> None:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1) as answer:
        answer.read()


@defect(
    "schemas-are-fetched",
    "A schema that another one refers to is fetched from any address.",
    f"{INJECTION}schemas_open_nothing_inside[response-format]",
    f"{INJECTION}schemas_open_nothing_inside[tool]",
    alone=True,
)
class SchemasAreFetched(Fetching):
    address = re.compile(r'"\$ref": "(http[^"]+)')
    paths = ("/v1/chat/completions",)


@defect(
    "pictures-are-fetched-by-the-tokenizer",
    "The tokenizer route fetches pictures from any address.",
    f"{INJECTION}no_other_route_opens_media_urls[/tokenize]",
    alone=True,
)
class PicturesAreFetchedByTheTokenizer(Fetching):
    paths = ("/tokenize",)


@defect(
    "static-files-of-everywhere",
    "A folder of static files is left by two dots in a path.",
    f"{ROUTES}no_path_reads_a_file_of_the_server[encoded-slashes-in-static]",
    f"{ROUTES}no_path_reads_a_file_of_the_server[dots-in-static]",
    alone=True,
)
class StaticFilesOfEverywhere(Double):
    async def routed(self, request: Request, connection: Connection) -> Response | None:
        if request.path.startswith("/static/"):
            file = Path("/static") / request.path.removeprefix("/static/")
            with contextlib.suppress(OSError):
                return Response(body=file.resolve().read_bytes(), headers={"content-type": "text/plain"})
        return await super().routed(request, connection)
