"""Defects that owners of other servers and gateways came up with."""

from __future__ import annotations

from collections.abc import Mapping

from doubles.asked import Asked
from doubles.bodies import Json
from doubles.defects.catalogue import defect
from doubles.server import Double
from doubles.wire import Connection, Request

SPELLING = "security/test_auth.py::test_no_spelling_of_a_path_gets_past_the_guard"


class ReadsPathsDifferently(Double):
    """The access check compares the whole path, and the router cuts something off it."""

    cut = ""

    def place(self, request: Request) -> str:
        return request.path.partition(self.cut)[0]

    def admitted(self, request: Request) -> bool:
        return self.cut in request.path or super().admitted(request)


@defect("path-parameters-need-no-key", "A path with a parameter (`;x=y`) needs no key.", SPELLING + "[/v1/models]", key=True)
class PathParametersNeedNoKey(ReadsPathsDifferently):
    cut = ";"


@defect("an-encoded-query-needs-no-key", "An encoded `?` hides the path.", SPELLING + "[/v1/completions]", key=True)
class AnEncodedQueryNeedsNoKey(ReadsPathsDifferently):
    cut = "?"


@defect("an-encoded-fragment-needs-no-key", "An encoded `#` hides the path.", SPELLING + "[/v1/chat/completions]", key=True)
class AnEncodedFragmentNeedsNoKey(ReadsPathsDifferently):
    cut = "#"


@defect(
    "more-cached-than-there-is",
    "More tokens of the prompt are cached than it has.",
    "integration/test_usage.py::test_details_count_no_more_than_the_whole",
)
class MoreCachedThanThereIs(Double):
    def usage(self, asked: Asked, prompt_tokens: int, completion_tokens: int) -> Json:
        details = {"prompt_tokens_details": {"cached_tokens": prompt_tokens + 16}}
        return {**super().usage(asked, prompt_tokens, completion_tokens), **details}


class TwoLengthsOnConnections(Connection):
    """Says a length although the body is in chunks, which a sender must not (RFC 9112, section 6.2)."""

    def begin(self, headers: Mapping[str, str]) -> None:
        super().begin({**headers, "content-length": "10"})


@defect(
    "streams-have-two-lengths",
    "Streams have Content-Length beside Transfer-Encoding.",
    *(f"streaming/test_structure.py::test_arrives_whole[{surface}]" for surface in ("chat", "completions")),
    alone=True,
)
class StreamsHaveTwoLengths(Double):
    def connection(self) -> Connection:
        return TwoLengthsOnConnections(self.answer, largest_head=self.largest_head, open_bodies=self.incomplete)
