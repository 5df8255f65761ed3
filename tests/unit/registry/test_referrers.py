"""What is attached is seen: lists in pages, registries without the API, and tags that are not what they should be."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from registries.images import add_index, referrer, small_image
from registries.proxy import Answer, FaultyProxy, faulty_proxy
from vllm_ci.domain.errors import RegistryError
from vllm_ci.registry.access import Access
from vllm_ci.registry.client import RemoteRepository
from vllm_ci.registry.errors import ForbiddenError, RefusedError, UnauthorizedError, UnreachableError
from vllm_ci.registry.layout import Layout
from vllm_ci.registry.manifest import OCI_INDEX, OCI_MANIFEST, Manifest
from vllm_ci.registry.transfer import push

INDEX = [("Content-Type", OCI_INDEX)]
SUBJECT = "sha256:" + "a" * 64


def descriptor(number: int) -> dict[str, object]:
    return {"mediaType": OCI_MANIFEST, "digest": f"sha256:{number:064x}", "size": 7, "artifactType": "text/plain"}


def index(*numbers: int) -> bytes:
    return json.dumps(
        {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [descriptor(each) for each in numbers]}
    ).encode()


def numbers(repository: RemoteRepository) -> list[int]:
    return sorted(int(each.digest[7:], 16) for each in repository.referrers(SUBJECT))


class Lists:
    """A registry that holds nothing but lists: `referrers` answers for the API, `fallback` is under the fallback's tag."""

    def __init__(self, referrers: Callable[[str], Answer], fallback: Answer | None = None, tags: Answer | None = None) -> None:
        self.referrers, self.fallback, self.tags = referrers, fallback, tags

    def __call__(self, request: BaseHTTPRequestHandler) -> Answer | None:
        if "/referrers/" in request.path:
            return self.referrers(request.path)
        if "/tags/" in request.path:
            return self.tags or (404, [], b"")
        if request.path.endswith(SUBJECT.replace(":", "-")) and self.fallback:
            return self.fallback
        return 404, [], b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}'


@pytest.fixture(name="home")
def _home() -> Iterator[FaultyProxy]:
    with faulty_proxy() as server:
        yield server


LINKS = {
    "path": '<{path}?o={next}>; rel="next"',
    "relative": '<?o={next}>; rel="next"',
    "unquoted": "<{path}?o={next}>;rel=next",
    "absolute": '<http://{host}{path}?o={next}>; rel="next"',
    "among others": '<{path}?o=0>; rel="first", <{path}?o={next}>; title="a, b"; REL="prev Next", <{path}?o=2>; rel=last',
}


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
def test_all_pages_are_read(home: FaultyProxy, access: Access, link: str) -> None:
    def page(path: str) -> Answer:
        number = int(parse_qs(urlsplit(path).query).get("o", ["0"])[0])
        more = [("Link", link.format(path=urlsplit(path).path, next=number + 1, host=home.host))] if number < 4 else []
        return 200, [*INDEX, *more], index(number)

    home.guard = Lists(page)
    with RemoteRepository(f"{home.host}/name", access) as repository:
        assert numbers(repository) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ("<?o=1>; rel=next", "is repeated"),
        ("<>; rel=next", "is repeated"),
        ("<http://other.example/v2/>; rel=next", "another host"),
        ("<ftp://x/>; rel=next", "cannot be used"),
        ("<http://[::1/>; rel=next", "cannot be used"),
    ],
)
def test_pages_that_do_not_end_or_lead_elsewhere_are_no_list(home: FaultyProxy, access: Access, link: str, words: str) -> None:
    home.guard = Lists(lambda _: (200, [*INDEX, ("Link", link)], index(1)))
    with RemoteRepository(f"{home.host}/name", access) as repository, pytest.raises(RegistryError) as caught:
        repository.referrers(SUBJECT)
    assert words in str(caught.value)


@pytest.mark.parametrize("second", [(404, [], b""), (400, [], b""), (200, [("Content-Type", "text/html")], b"<html>")])
def test_a_page_that_fails_is_not_the_end_of_the_list(home: FaultyProxy, access: Access, second: Answer) -> None:
    first = 200, [*INDEX, ("Link", "<?o=1>; rel=next")], index(1)
    home.guard = Lists(lambda path: second if "o=1" in path else first, fallback=(200, INDEX, index(2)))
    with RemoteRepository(f"{home.host}/name", access) as repository, pytest.raises(RegistryError):
        repository.referrers(SUBJECT)


NO_API: dict[str, Answer] = {
    "web page": (200, [("Content-Type", "text/html")], b"<!doctype html><title>UI</title>"),
    "empty object": (200, [("Content-Type", "application/json")], b"{}"),
    "empty object as an index": (200, INDEX, b"{}"),
    "a manifest": (200, [("Content-Type", OCI_MANIFEST)], index(9)),
    "no type": (200, [], index(9)),
    **{str(status): (status, [], b"") for status in (400, 404, 405, 406, 410, 415, 422, 501)},
}


@pytest.mark.parametrize("answer", NO_API.values(), ids=NO_API)
def test_what_is_no_list_means_that_the_tag_is_read(home: FaultyProxy, access: Access, answer: Answer) -> None:
    home.guard = Lists(lambda _: answer, fallback=(200, INDEX, index(1, 2)))
    with RemoteRepository(f"{home.host}/name", access) as repository:
        assert numbers(repository) == [1, 2]


@pytest.mark.parametrize("kind", [OCI_INDEX, OCI_INDEX + "; charset=utf-8", OCI_INDEX.upper(), "application/json"])
def test_a_list_is_known_by_its_media_type(home: FaultyProxy, access: Access, kind: str) -> None:
    home.guard = Lists(lambda _: (200, [("Content-Type", kind)], index(1, 2)))
    with RemoteRepository(f"{home.host}/name", access) as repository:
        assert numbers(repository) == [1, 2]


def test_an_empty_list_is_empty(home: FaultyProxy, access: Access) -> None:
    for content in (index(), index().replace(b"[]", b"null")):
        home.guard = Lists(lambda _, content=content: (200, INDEX, content))  # type: ignore[misc]
        with RemoteRepository(f"{home.host}/name", access) as repository:
            assert numbers(repository) == []


@pytest.mark.parametrize(
    ("status", "kind"), [(401, UnauthorizedError), (403, ForbiddenError), (500, UnreachableError), (418, RefusedError)]
)
def test_a_refusal_is_not_an_empty_list(home: FaultyProxy, access: Access, status: int, kind: type[RefusedError]) -> None:
    home.guard = Lists(lambda _: (status, [], b'{"errors":[{"code":"DENIED","message":"not you"}]}'))
    with RemoteRepository(f"{home.host}/name", access) as repository, pytest.raises(kind) as caught:
        repository.referrers(SUBJECT)
    assert "DENIED: not you" in caught.value.why


@pytest.mark.parametrize("content", [b"{", b"\xff", index(1).replace(b"sha256:", b"md5:"), index(1).replace(b"7", b'"x"')])
def test_a_broken_list_is_not_an_empty_one(home: FaultyProxy, access: Access, content: bytes) -> None:
    home.guard = Lists(lambda _: (200, INDEX, content))
    with RemoteRepository(f"{home.host}/name", access) as repository, pytest.raises(RegistryError):
        repository.referrers(SUBJECT)


def test_what_was_attached_before_the_registry_had_the_api_is_still_seen(home: FaultyProxy, access: Access) -> None:
    home.guard = Lists(lambda _: (200, INDEX, index(2, 3)), fallback=(200, INDEX, index(1, 2)))
    with RemoteRepository(f"{home.host}/name", access) as repository:
        assert numbers(repository) == [1, 2, 3]


# Tags -------------------------------------------------------------------------------------------------------------------


def test_tags_come_in_relative_pages_and_may_be_null(home: FaultyProxy, access: Access) -> None:
    def guard(request: BaseHTTPRequestHandler) -> Answer:
        query = parse_qs(urlsplit(request.path).query)
        last = query.get("last", [""])[0]
        if last == "b":
            return 200, [], b'{"name":"name","tags":null}'
        page = {"": "a", "a": "b"}[last]
        return 200, [("Link", f"<list?n=1&last={page}>; rel=next")], json.dumps({"tags": [page]}).encode()

    home.guard = guard
    with RemoteRepository(f"{home.host}/name", access) as repository:
        assert repository.tags() == ("a", "b")


@pytest.mark.parametrize("content", [b"<html>", b"[]", b'{"tags":"a"}', b'{"tags":[1]}', b"", b'{"tags":{"a":1}}'])
def test_what_is_no_list_of_tags_is_an_error(home: FaultyProxy, access: Access, content: bytes) -> None:
    home.guard = lambda _: (200, [], content)
    with RemoteRepository(f"{home.host}/name", access) as repository, pytest.raises(RegistryError, match="no list of tags"):
        repository.tags()


def test_tags_that_must_not_be_listed_are_a_refusal(home: FaultyProxy, access: Access) -> None:
    refused: Answer = 403, [], b'{"errors":[{"code":"DENIED","message":"no listing"}]}'
    home.guard = Lists(lambda _: (404, [], b""), tags=refused)
    with RemoteRepository(f"{home.host}/name", access) as repository, pytest.raises(ForbiddenError) as caught:
        repository.referrers(SUBJECT)
    assert "DENIED: no listing" in caught.value.why


# The fallback's tag -----------------------------------------------------------------------------------------------------


def dashed(request: BaseHTTPRequestHandler) -> None:
    """As a registry that takes sha256-HEX for sha256:HEX where something is read."""
    if request.command in ("GET", "HEAD"):
        request.path = request.path.replace("/manifests/sha256-", "/manifests/sha256:")


@pytest.mark.needs_registry
@pytest.mark.parametrize("several", [False, True], ids=["image", "image for several platforms"])
def test_a_registry_that_takes_the_fallback_s_tag_for_the_image_keeps_all_evidence(
    proxy: FaultyProxy, access: Access, tmp_path: Path, several: bool
) -> None:
    layout, image = small_image(tmp_path / "one")
    if several:
        image = add_index(layout, image, small_image(tmp_path / "one", seed=2)[1])
    push(layout, image.digest, f"{proxy.host}/name", access=access)
    proxy.guard = dashed
    with RemoteRepository(f"{proxy.host}/name", access) as repository:
        assert repository.referrers(image.digest) == ()
        made = [attached(repository, image, text) for text in ("first", "second")]
        assert {each.digest for each in repository.referrers(image.digest)} == set(made)


@pytest.mark.needs_registry
def test_an_image_under_the_fallback_s_tag_is_left_alone(proxy: FaultyProxy, access: Access, tmp_path: Path) -> None:
    layout, image = small_image(tmp_path / "one")
    other = small_image(tmp_path / "one", seed=2)[1]
    tag = image.digest.replace(":", "-")
    push(layout, image.digest, f"{proxy.host}/name", access=access)
    push(layout, other.digest, f"{proxy.host}/name", [tag], access=access)
    with RemoteRepository(f"{proxy.host}/name", access) as repository:
        made = attached(repository, image, "first")
        assert [each.digest for each in repository.referrers(image.digest)] == [made]
        assert repository.resolve(tag) == other.digest


@pytest.mark.needs_registry
def test_a_mirror_s_old_list_does_not_hide_evidence(proxy: FaultyProxy, access: Access, tmp_path: Path) -> None:
    """The fallback's tag moves, and a mirror may have it from before."""
    import dataclasses

    layout, image = small_image(tmp_path / "one")
    push(layout, image.digest, f"{proxy.host}/name", access=access)
    with faulty_proxy() as mirror:
        mirror.guard = lambda _: (200, INDEX, index())
        mirrored = dataclasses.replace(access, mirrors={proxy.host: [mirror.host]})
        with RemoteRepository(f"{proxy.host}/name", mirrored) as repository:
            made = attached(repository, image, "first")
            proxy.guard = lambda request: (404, [], b"") if "/tags/" in request.path else None
            assert [each.digest for each in repository.referrers(image.digest)] == [made]


def attached(repository: RemoteRepository, subject: Manifest, text: str) -> str:
    manifest, blobs = referrer(subject, text)
    for each, blob in zip(manifest.blobs, blobs, strict=True):
        repository.put_blob(each, lambda start, blob=blob: [blob[start:]])  # type: ignore[misc]
    repository.attach(manifest)
    return manifest.digest


def test_a_folder_lists_what_is_attached(tmp_path: Path) -> None:
    layout, image = small_image(tmp_path / "one")
    manifest, _ = referrer(image, "first")
    layout.attach(manifest)
    assert [each.digest for each in Layout(layout.path).referrers(image.digest)] == [manifest.digest]
