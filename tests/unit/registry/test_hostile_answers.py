"""Whatever a registry answers: our own errors, no request to a host that nobody named, no login for another origin.

`FUZZ_EXAMPLES=100000` makes it a campaign.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from unittest import mock

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vllm_ci.domain.errors import VllmCiError
from vllm_ci.registry import locations, wire
from vllm_ci.registry.access import Access
from vllm_ci.registry.challenges import parse_challenges
from vllm_ci.registry.client import RemoteRepository
from vllm_ci.registry.credentials import Credentials
from vllm_ci.registry.manifest import OCI_INDEX, OCI_MANIFEST, Descriptor, digest_of
from vllm_ci.registry.retry import Retry

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "40"))
Reply = tuple[int, list[tuple[str, str]], bytes]
HOME, REALM, OTHER = "home.example", "auth.example", "other.example"
SECRET = "s3cret"
BASIC = "Basic " + base64.b64encode(f"user:{SECRET}".encode()).decode()
BLOB = b"some bytes"
DESCRIPTOR = Descriptor(media_type="text/plain", digest=digest_of(BLOB), size=len(BLOB))


# A small alphabet: hypothesis needs seconds to make one of all of Unicode.
STRAY = "aZ09-._~!$&'()*+,;=:@/?#[]%<>\\\"^`{|} \t\x01\x7f\x80\xff\u00fc\u0430\u2028\u202e\ufeff\U0001f600"


def pieces(*texts: str, most: int = 12) -> st.SearchStrategy[str]:
    """Texts made of these and of stray characters."""
    stray = st.text(STRAY, max_size=3)
    return st.lists(st.one_of(st.sampled_from(texts), st.sampled_from(texts), stray), max_size=most).map("".join)


ADDRESSES = st.one_of(
    pieces(
        *("http://", "https://", "//", "/", "..", "?", "#", "@", ":", "user:x@", "[", "]", "[::1]", "%2e", "\\", " ", "\t"),
        *(OTHER, HOME, ":443", ":80", ":99999", "/v2/team/name/", "a", "=", "&", "HTTPS:", "file:", "//" + HOME + "@"),
    ),
    st.sampled_from([f"https://{OTHER}/x", f"//{OTHER}/x?y", f"http://{HOME}/x", "/x", "x?y=1", f"https://{HOME}:444/x"]),
)
CHALLENGES = st.one_of(
    pieces(
        *("Basic", "Bearer", "Negotiate", "bearer ", " ", ",", ", ", "=", '"', "\\", "realm=", "Realm = ", "abc==", "scope="),
        *(f'"https://{REALM}/token"', f'"http://{REALM}/token"', f"https://{HOME}/t", 'service="x"', '"repository:a:pull"'),
    ),
    st.sampled_from(
        ['Basic realm="x"', f'Bearer realm="https://{REALM}/token"', f'Basic realm=x, Bearer realm="https://{HOME}/token"']
    ),
)
LINKS = st.one_of(
    pieces("<", ">", ";", ",", "rel=", '"next"', "next", "rel=next", "<?o=1>; rel=next", f"<https://{OTHER}/>", "<>", " "),
    ADDRESSES.map(lambda place: f"<{place}>; rel=next"),
)
EMPTY_INDEX = json.dumps({"mediaType": OCI_INDEX, "manifests": []}).encode()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["token", "access_token", "expires_in", "tags", "manifests", "config", "layers", "digest", "size", "mediaType",
         "errors", "code", "message", "subject", "annotations", "platform"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
BODIES = st.one_of(
    st.binary(max_size=40),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.sampled_from(
        [b'{"token":"t"}', b'{"tags":["a"]}', json.dumps({"mediaType": OCI_INDEX, "manifests": []}).encode(), BLOB]
    ),
)
HEADERS = st.lists(
    st.one_of(
        st.tuples(st.just("Location"), ADDRESSES),
        st.tuples(st.just("WWW-Authenticate"), CHALLENGES),
        st.tuples(st.just("Link"), LINKS),
        st.tuples(st.just("Retry-After"), pieces("1", "9" * 30, "Wed, 21 Oct 2015 07:28:00 GMT", "-")),
        st.tuples(st.just("Range"), pieces("0-", "5", "bytes=")),
        st.tuples(st.just("Content-Range"), pieces("bytes ", "5-", "/")),
        st.tuples(st.just("Content-Type"), st.sampled_from([OCI_INDEX, OCI_MANIFEST, "text/plain", "application/json"])),
        st.tuples(st.just("Docker-Content-Digest"), st.sampled_from([DESCRIPTOR.digest, "sha256:x"])),
    ),
    max_size=4,
)
STATUSES = st.sampled_from([200, 201, 202, 204, 206, 301, 302, 303, 307, 308, 400, 401, 401, 401, 403, 404, 405, 416, 429, 503])


def typical(statuses: list[int], name: str, values: st.SearchStrategy[str], body: bytes = b"") -> st.SearchStrategy[Reply]:
    """An answer as it is expected, but for one header."""
    kind = ("Content-Type", OCI_INDEX)
    return st.builds(lambda status, value: (status, [kind, (name, value)], body), st.sampled_from(statuses), values)


# Mostly what a client goes on from: chance alone would end nearly every conversation at its first answer.
ANSWERS = st.lists(
    st.one_of(
        typical([401], "WWW-Authenticate", CHALLENGES),
        typical([301, 302, 307, 308], "Location", ADDRESSES),
        typical([202], "Location", ADDRESSES),
        typical([200], "Link", LINKS, EMPTY_INDEX),
        typical([200], "Link", LINKS, b'{"token":"t","tags":["a"]}'),
        typical([404], "Location", ADDRESSES),
        st.tuples(STATUSES, HEADERS, BODIES),
    ),
    min_size=1,
    max_size=6,
)


@dataclass
class Network:
    """Gives the answers in turn to whoever asks, and keeps what was asked."""

    answers: list[Reply]
    asked: list[httpx.Request] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.asked.append(request)
        status, headers, body = self.answers[(len(self.asked) - 1) % len(self.answers)]
        encoded = [(name.encode(), text.encode()) for name, text in headers]
        return httpx.Response(status, headers=encoded, content=body if request.method != "HEAD" else b"")

    @property
    def named(self) -> str:
        return "\n".join(text for _, headers, _ in self.answers for _, text in headers).lower()


def told(call: Callable[[], object]) -> str:
    """The text of the error; any other error than our own ends the test."""
    try:
        call()
    except VllmCiError as error:
        return str(error)
    return ""


def operations(repository: RemoteRepository) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "resolve", lambda: repository.resolve("one")
    yield "manifest", lambda: repository.manifest("one")
    yield "blob", lambda: repository.blob(DESCRIPTOR.digest)
    yield "tags", repository.tags
    yield "referrers", lambda: repository.referrers(DESCRIPTOR.digest)
    yield "put", lambda: repository.put_blob(DESCRIPTOR, lambda start: [BLOB[start:]])


@pytest.mark.parametrize("operation", ["resolve", "manifest", "blob", "tags", "referrers", "put"])
def test_nothing_that_a_registry_answers_leads_astray(operation: str) -> None:
    access = Access(
        credentials={HOME: Credentials(username="user", password=SECRET)},
        retry=Retry(attempts=2, sleep=lambda _: None),
        chunk_bytes=4,
    )

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(ANSWERS)
    def check(answers: list[Reply]) -> None:
        network = Network(answers)
        client = lambda *_: httpx.Client(transport=httpx.MockTransport(network))  # noqa: E731
        with mock.patch.object(wire, "new_client", client), RemoteRepository(f"{HOME}/team/name", access) as repository:
            said = told(dict(operations(repository))[operation])
        assert SECRET not in said
        assert said.replace("\n", "").isprintable()
        judge(network)

    check()


def judge(network: Network) -> None:
    assert len(network.asked) < 400
    for request in network.asked:
        host = request.url.host
        assert host == HOME or host in network.named, host
        assert request.url.scheme == "https", request.url
        assert not request.url.userinfo
        authorization = request.headers.get("Authorization", "")
        at_home = host == HOME and request.url.port is None
        if authorization.startswith("Bearer "):
            assert at_home, request.url
        elif authorization:
            assert authorization == BASIC
            assert at_home or host == REALM or f"realm={request.url}".lower()[:30] in network.named, request.url
            assert OTHER not in host


@settings(max_examples=EXAMPLES * 5, deadline=None, database=None)
@given(st.one_of(ADDRESSES, CHALLENGES, LINKS, st.text(STRAY)))
def test_no_header_breaks_a_parser(text: str) -> None:
    parse_challenges([text])
    locations.next_link([text])
    try:
        found = locations.resolve(f"https://{HOME}/v2/", text)
    except VllmCiError:
        return
    # httpx, which is what asks, sees the same host.
    assert httpx.URL(found).host.strip("[]") == locations.origin(found)[1]
    assert locations.origin(found)[0] == "https"
