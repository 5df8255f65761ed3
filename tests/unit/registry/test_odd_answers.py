"""Registries that answer in their own way: statuses, missing headers, web pages, hidden repositories."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from registries.images import small_image
from registries.proxy import Answer, Fault, FaultyProxy, faulty_proxy
from vllm_ci.domain.errors import RegistryError, VllmCiError
from vllm_ci.registry.access import Access
from vllm_ci.registry.client import RemoteRepository
from vllm_ci.registry.credentials import Credentials
from vllm_ci.registry.errors import ForbiddenError, NotFoundError, RefusedError, UnauthorizedError
from vllm_ci.registry.manifest import OCI_INDEX, OCI_MANIFEST
from vllm_ci.registry.transfer import pull, push

DIGEST = "sha256:" + "0" * 64


@pytest.fixture(name="home")
def _home() -> Iterator[FaultyProxy]:
    with faulty_proxy() as server:
        yield server


@pytest.mark.needs_registry
@pytest.mark.parametrize("status", [400, 405, 406, 501])
def test_a_registry_that_does_not_take_head_is_asked_by_get(
    proxy: FaultyProxy, access: Access, tmp_path: Path, status: int
) -> None:
    proxy.guard = lambda request: (status, [], b"") if request.command == "HEAD" else None
    layout, image = small_image(tmp_path / "one")
    with RemoteRepository(f"{proxy.host}/name", access) as repository:
        assert repository.resolve("one") is None
        assert not repository.has_blob(image.blobs[0].digest)
        assert push(layout, image.digest, f"{proxy.host}/name", ["one"], access=access).pushed_blobs == 3
        assert repository.resolve("one") == image.digest
        assert repository.has_blob(image.blobs[0].digest)
        assert push(layout, image.digest, f"{proxy.host}/name", ["one"], access=access).pushed_blobs == 0


@pytest.mark.needs_registry
@pytest.mark.parametrize("status", [401, 403])
def test_a_registry_that_hides_what_is_not_there_can_be_pushed_to(
    proxy: FaultyProxy, access: Access, tmp_path: Path, status: int
) -> None:
    def edit(_request: BaseHTTPRequestHandler, answer: Answer) -> Answer:
        return (status, [], b"") if answer[0] == 404 else answer

    proxy.edit = edit
    layout, image = small_image(tmp_path / "one")
    push(layout, image.digest, f"{proxy.host}/name", ["one"], access=access)
    assert pull(f"{proxy.host}/name", "one", tmp_path / "back", access=access).digest == image.digest
    with RemoteRepository(f"{proxy.host}/name", access) as repository:
        with pytest.raises((UnauthorizedError, ForbiddenError)):
            repository.resolve("two")  # hidden is not absent: who decides by it has to know
        with pytest.raises((UnauthorizedError, ForbiddenError), match=r"name"):
            repository.has_blob(DIGEST)


def test_a_repository_that_does_not_exist_yet_is_looked_at_with_the_right_to_push(home: FaultyProxy, access: Access) -> None:
    """Some token servers refuse the right to pull from what is not there, and grant the right to push to it."""
    access = dataclasses.replace(access, credentials={home.host: Credentials(username="u", password="p")})

    def guard(request: BaseHTTPRequestHandler) -> Answer:
        if request.path.startswith("/token"):
            return (200, [], b'{"token":"t"}') if "push" in request.path else (403, [], b'{"errors":[{"code":"DENIED"}]}')
        if request.headers.get("Authorization") == "Bearer t":
            return 404, [], b'{"errors":[{"code":"NAME_UNKNOWN"}]}'
        return 401, [("WWW-Authenticate", f'Bearer realm="http://{home.host}/token"')], b""

    home.guard = guard
    with RemoteRepository(f"{home.host}/name", access) as repository:
        assert repository.resolve("one") is None
        assert not repository.has_blob(DIGEST)


@pytest.mark.needs_registry
@pytest.mark.parametrize("status", [200, 202])
def test_a_manifest_that_was_taken_in_other_words_is_looked_for(
    proxy: FaultyProxy, access: Access, tmp_path: Path, status: int
) -> None:
    proxy.edit = lambda request, answer: (
        (status, *answer[1:]) if request.command == "PUT" and "/manifests/" in request.path else answer
    )
    layout, image = small_image(tmp_path / "one")
    push(layout, image.digest, f"{proxy.host}/name", ["one"], access=access)
    assert pull(f"{proxy.host}/name", "one", tmp_path / "back", access=access).digest == image.digest


@pytest.mark.needs_registry
def test_a_manifest_that_was_only_said_to_be_taken_is_an_error(proxy: FaultyProxy, access: Access, tmp_path: Path) -> None:
    proxy.guard = lambda request: (200, [], b"ok") if request.command == "PUT" and "/manifests/" in request.path else None
    layout, image = small_image(tmp_path / "one")
    with pytest.raises(RefusedError, match="does not have it"):
        push(layout, image.digest, f"{proxy.host}/name", access=access)


@pytest.mark.needs_registry
@pytest.mark.parametrize("kind", [OCI_MANIFEST + "; charset=utf-8", "application/json", "text/plain", ""])
def test_a_manifest_is_known_by_its_own_media_type_and_without_a_digest_header(
    proxy: FaultyProxy, access: Access, tmp_path: Path, kind: str
) -> None:
    def edit(_request: BaseHTTPRequestHandler, answer: Answer) -> Answer:
        headers = [each for each in answer[1] if each[0] not in ("Docker-Content-Digest", "Content-Type", "Etag")]
        return answer[0], [*headers, *([("Content-Type", kind)] if kind else [])], answer[2]

    proxy.edit = edit
    layout, image = small_image(tmp_path / "one")
    push(layout, image.digest, f"{proxy.host}/name", ["one"], access=access)
    with RemoteRepository(f"{proxy.host}/name", access) as repository:
        assert repository.resolve("one") == image.digest
        assert repository.manifest("one").media_type == OCI_MANIFEST


def test_a_header_with_another_digest_is_not_believed(home: FaultyProxy, access: Access) -> None:
    home.guard = lambda _: (200, [("Docker-Content-Digest", "sha256:" + "1" * 64)], b"{}")
    with (
        RemoteRepository(f"{home.host}/name", access) as repository,
        pytest.raises(RegistryError, match="sent a manifest with"),
    ):
        repository.resolve(DIGEST)


@pytest.mark.parametrize(
    "content",
    [
        *(b"<!doctype html>", b"", b"null", b"[]", b"\xff\xfe", b"[" * 200_000, b'{"mediaType":5}', b'{"layers":[]}'),
        *(b'{"config":{},"layers":5}', b'{"config":null,"layers":[]}', b'{"manifests":{"a":1}}'),
        b'{"config":{"digest":"sha256:x","size":1,"mediaType":"m"},"layers":[],"subject":"x"}',
    ],
)
def test_what_is_no_manifest_is_said_with_the_host(home: FaultyProxy, access: Access, content: bytes) -> None:
    home.guard = lambda _: (200, [("Content-Type", "text/html")], content)
    with RemoteRepository(f"{home.host}/name", access) as repository:
        for read in (repository.resolve, repository.manifest):
            with pytest.raises(RegistryError, match=home.host):
                read("one")


@pytest.mark.parametrize(
    "entry",
    [
        *(5, "x", None, {}, {"digest": 5}, {"digest": DIGEST, "size": -1, "mediaType": "m"}),
        {"digest": DIGEST, "size": "x", "mediaType": "m"},
        {"digest": DIGEST, "size": None, "mediaType": "m"},
        {"digest": DIGEST, "size": [], "mediaType": "m"},
        {"digest": DIGEST, "size": 1e400, "mediaType": "m"},
        {"digest": DIGEST, "size": 1, "mediaType": "m", "annotations": [1]},
        {"digest": DIGEST, "size": 1, "mediaType": "m", "platform": "linux"},
    ],
)
def test_a_malformed_descriptor_is_an_error_of_ours(home: FaultyProxy, access: Access, entry: object) -> None:
    content = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
    home.guard = lambda _: (200, [("Content-Type", OCI_INDEX)], content)
    with RemoteRepository(f"{home.host}/name", access) as repository, pytest.raises(RegistryError, match="descriptor"):
        assert repository.manifest("one").manifests


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (
            400,
            {"errors": [{"code": "TAG_INVALID", "message": "the tag is immutable"}]},
            "400 TAG_INVALID: the tag is immutable",
        ),
        (403, {"errors": [{"code": "DENIED"}, {"code": "QUOTA", "message": "full"}]}, "403 DENIED; QUOTA: full"),
        (418, {"message": "a teapot"}, "418 a teapot"),
        (500, {"errors": [None, 5, {"message": "\u001b[31mred\nline"}]}, "500 [31mred line"),
        (409, {"errors": "no list"}, "409"),
        (404, [], "404"),
    ],
)
def test_a_refusal_keeps_the_registry_s_words(home: FaultyProxy, access: Access, status: int, body: object, words: str) -> None:
    home.guard = lambda _: (status, [("Content-Type", "application/json")], json.dumps(body).encode())
    with RemoteRepository(f"{home.host}/name", access) as repository, pytest.raises(RefusedError) as caught:
        repository.manifest("one")
    assert f"{home.host} answered {words}" in caught.value.why
    assert caught.value.remedy


def test_a_refusal_in_plain_text_is_kept_and_a_web_page_is_not(home: FaultyProxy, access: Access) -> None:
    for kind, words in (("text/plain; charset=utf-8", "blocked by the firewall"), ("text/html", "")):
        home.guard = lambda _, kind=kind: (403, [("Content-Type", kind)], b"blocked by the firewall")
        with RemoteRepository(f"{home.host}/name", access) as repository, pytest.raises(ForbiddenError) as caught:
            repository.manifest("one")
        assert (words in caught.value.why) if words else ("firewall" not in caught.value.why)


def test_not_found_without_a_login_says_that_it_may_be_hidden(home: FaultyProxy, access: Access) -> None:
    home.guard = lambda _: (404, [], b"")
    with RemoteRepository(f"{home.host}/name", access) as repository, pytest.raises(NotFoundError) as caught:
        repository.manifest("one")
    assert "docker login" in caught.value.remedy


@pytest.mark.parametrize("host", ["x..example.com", "a" * 70 + ".example.com", "127.0.0.1:99999", "127.0.0.1:0"])
def test_a_host_that_cannot_be_is_an_error_of_ours(access: Access, host: str) -> None:
    with RemoteRepository(f"{host}/name", access) as repository, pytest.raises(VllmCiError):
        repository.resolve("one")


def test_an_answer_without_end_is_cut_off(home: FaultyProxy, access: Access) -> None:
    home.guard = lambda _: (200, [("Content-Type", OCI_MANIFEST)], b" " * (33 << 20))
    with RemoteRepository(f"{home.host}/name", access) as repository, pytest.raises(RegistryError, match="more than 32 MiB"):
        repository.manifest("one")


@pytest.mark.needs_registry
def test_an_answer_that_breaks_off_is_asked_for_again(proxy: FaultyProxy, access: Access, tmp_path: Path) -> None:
    layout, image = small_image(tmp_path / "one")
    push(layout, image.digest, f"{proxy.host}/name", ["one"], access=access)
    proxy.faults = [Fault(kind="cut_response", path="manifests", times=2)]
    with RemoteRepository(f"{proxy.host}/name", access) as repository:
        assert repository.manifest("one").digest == image.digest


@pytest.mark.needs_registry
def test_a_blob_that_is_shorter_here_than_it_should_be_is_named(proxy: FaultyProxy, access: Access, tmp_path: Path) -> None:
    layout, image = small_image(tmp_path / "one")
    file = layout.find(image.blobs[2].digest)
    assert file
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(RegistryError, match="damaged on this machine"):
        push(layout, image.digest, f"{proxy.host}/name", access=access)


@pytest.mark.needs_registry
def test_a_mirror_that_answers_nonsense_is_passed_over(proxy: FaultyProxy, access: Access, tmp_path: Path) -> None:
    layout, image = small_image(tmp_path / "one")
    push(layout, image.digest, f"{proxy.host}/name", ["one"], access=access)
    with faulty_proxy() as mirror:
        mirrored = dataclasses.replace(access, mirrors={proxy.host: [mirror.host]})
        for answer in (
            (200, [], b"<html>"),
            (302, [("Location", "ftp://x/")], b""),
            (401, [("WWW-Authenticate", "Bearer")], b""),
        ):
            mirror.guard = lambda _, answer=answer: answer
            with RemoteRepository(f"{proxy.host}/name", mirrored) as repository:
                assert repository.manifest("one").digest == image.digest
