"""Addresses that servers name: resolved as RFC 3986 says, and refused where they lead astray."""

from __future__ import annotations

import pytest

from vllm_ci.domain.errors import RegistryError
from vllm_ci.registry import locations

UPLOADS = "https://r.example:5000/v2/a/b/blobs/uploads/"


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("id?_state=1", UPLOADS + "id?_state=1"),
        ("/v2/a/b/blobs/uploads/id", UPLOADS + "id"),
        ("../x", "https://r.example:5000/v2/a/b/blobs/x"),
        ("?x=1", UPLOADS + "?x=1"),
        ("//other.example/up", "https://other.example/up"),
        ("//r.example:5000/up", "https://r.example:5000/up"),
        ("/up?cb=http://x/y&z=a%3D%3D", "https://r.example:5000/up?cb=http://x/y&z=a%3D%3D"),
        ("/up?a=1#f", "https://r.example:5000/up?a=1"),
        ("HTTPS://Other.Example/up", "https://Other.Example/up"),
        ("/a b/\u00fc|\\", "https://r.example:5000/a%20b/%C3%BC%7C%5C"),
        ("https://[::1]:5000/x", "https://[::1]:5000/x"),
        ("  /x ", "https://r.example:5000/x"),
        ("", UPLOADS),
    ],
)
def test_a_location_is_relative_to_what_was_asked(location: str, expected: str) -> None:
    assert locations.resolve(UPLOADS, location) == expected


@pytest.mark.parametrize(
    "location",
    [
        *("http://r.example:5000/x", "HTTP://other.example/x"),  # without TLS
        *("ftp://x/y", "file:///etc/passwd", "javascript:alert(1)", "data:,x", "unix:/x"),
        *("https://user:password@x/y", "https://user@x/", "//user@x/"),
        *("https:///x", "https://:80/x", "https://x:0/", "https://x:99999/", "https://x:y/", "https://[::1/", "https://x y/"),
        *("/a\nb", "/a\r\nHost: x", "\t/x", "/\x00"),
        *("https://x\\@y/", "https://x%2ey/", "https://\u0430.example/", "https://-x/"),
    ],
)
def test_a_location_that_leads_astray_is_refused(location: str) -> None:
    with pytest.raises(RegistryError):
        locations.resolve(UPLOADS, location)


def test_a_way_from_https_to_http_says_what_to_configure() -> None:
    with pytest.raises(RegistryError, match="from https to http") as caught:
        locations.resolve(UPLOADS, "http://r.example:5000/v2/")
    assert "X-Forwarded-Proto" in caught.value.remedy


def test_an_origin_is_scheme_host_and_port() -> None:
    assert locations.origin("https://R.example/x") == locations.origin("https://r.example:443")
    others = ("http://r.example", "https://r.example:444", "https://s.example", "https://r.example.evil")
    assert all(locations.origin("https://r.example") != locations.origin(each) for each in others)


def test_a_query_is_added_to() -> None:
    assert locations.with_query("http://h/p?a=b%3D", "digest=sha256:0") == "http://h/p?a=b%3D&digest=sha256:0"
    assert locations.with_query("http://h/p", "digest=sha256:0") == "http://h/p?digest=sha256:0"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (['</v2/x?last=b>; rel="next"'], "/v2/x?last=b"),
        (["<x>; rel=next"], "x"),
        (["<x>;REL=Next"], "x"),
        (['<x> ; title="a, b; rel=prev" ; rel = \'other\', <y,z> ; rel="prev next"'], "y,z"),
        (["<a>; rel=prev, <b>; rel=next, <c>; rel=last"], "b"),
        (["<a>; rel=prev", "<b>; rel=next"], "b"),
        (["<a>; rel=prev; rel=next"], None),  # the first counts (RFC 8288, section 3.3)
        (["<>; rel=next"], ""),
        (["<a>;; rel=next"], "a"),
        (["<a>; rel=nextpage", "<a>", "", "a; rel=next", "<a; rel=next"], None),
    ],
)
def test_the_next_page_is_found_among_links(headers: list[str], expected: str | None) -> None:
    assert locations.next_link(headers) == expected
