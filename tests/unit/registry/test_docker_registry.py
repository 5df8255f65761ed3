"""The client against a real registry, and a faulty proxy in front of it."""

from __future__ import annotations

import base64
import dataclasses
import functools
import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from registries.docker import PASSWORD, USERNAME, DockerRegistry, docker_registry, is_installed
from registries.images import add_image, add_index, layer_of, noise, referrer, small_image
from registries.proxy import Fault, FaultyProxy
from vllm_ci.registry.access import Access
from vllm_ci.registry.client import RemoteRepository
from vllm_ci.registry.credentials import Credentials
from vllm_ci.registry.errors import (
    DigestError,
    ForbiddenError,
    NotFoundError,
    UnauthorizedError,
    UnreachableError,
    UnsupportedError,
)
from vllm_ci.registry.layout import Layout
from vllm_ci.registry.manifest import Manifest
from vllm_ci.registry.retry import Retry
from vllm_ci.registry.transfer import pull, push

pytestmark = pytest.mark.needs_registry


def _from(content: bytes, start: int) -> list[bytes]:
    return [content[start:]]


def attach(repository: RemoteRepository, subject: Manifest, text: str) -> Manifest:
    manifest, blobs = referrer(subject, text)
    for descriptor, blob in zip(manifest.blobs, blobs, strict=True):
        repository.put_blob(descriptor, functools.partial(_from, blob))
    repository.attach(manifest)
    return manifest


@pytest.fixture(name="big")
def _big(tmp_path: Path) -> tuple[Layout, Manifest]:
    """An image whose one layer needs about five chunks."""
    layout = Layout(tmp_path / "big")
    return layout, add_image(layout, layer_of({"model": noise(300_000)}))


def test_what_is_pushed_is_pulled_unchanged(registry: DockerRegistry, access: Access, tmp_path: Path) -> None:
    layout, image = small_image(tmp_path / "one")
    result = push(layout, image.digest, f"{registry.host}/team/name", ["one", "two"], access=access)
    assert result.reference == f"{registry.host}/team/name@{image.digest}"
    back = pull(f"{registry.host}/team/name", "two", tmp_path / "back", access=access)
    assert back.digest == image.digest
    assert Layout(tmp_path / "back").manifest("two").content == image.content
    for blob in image.blobs:
        assert Layout(tmp_path / "back").blob(blob.digest) == layout.blob(blob.digest)


def test_what_is_there_is_not_sent_again(proxy: FaultyProxy, access: Access, tmp_path: Path) -> None:
    layout, image = small_image(tmp_path / "one")
    first = push(layout, image.digest, f"{proxy.host}/name", ["one"], access=access)
    assert first.pushed_bytes == sum(blob.size for blob in image.blobs) + len(image.content)
    sent = proxy.seen.sent_up
    again = push(layout, image.digest, f"{proxy.host}/name", ["one"], access=access)
    assert (again.pushed_bytes, again.pushed_blobs) == (0, 0)
    assert proxy.seen.sent_up == sent


def test_only_a_changed_layer_is_sent(registry: DockerRegistry, access: Access, tmp_path: Path) -> None:
    layout, first = small_image(tmp_path / "images", seed=1)
    _, second = small_image(tmp_path / "images", seed=2)
    push(layout, first.digest, f"{registry.host}/name", access=access)
    result = push(layout, second.digest, f"{registry.host}/name", access=access)
    assert result.pushed_blobs == 2  # config and one layer
    assert result.present_bytes == first.blobs[1].size


def test_blobs_of_another_repository_are_mounted(registry: DockerRegistry, access: Access, tmp_path: Path) -> None:
    layout, image = small_image(tmp_path / "one")
    push(layout, image.digest, f"{registry.host}/base", access=access)
    result = push(
        layout,
        image.digest,
        f"{registry.host}/other",
        mount_from=[f"{registry.host}/nowhere", f"{registry.host}/base"],
        access=access,
    )
    assert (result.pushed_blobs, result.pushed_bytes) == (0, len(image.content))
    assert result.present_bytes == sum(blob.size for blob in image.blobs)


def test_an_index_brings_its_images(registry: DockerRegistry, access: Access, tmp_path: Path) -> None:
    layout, one = small_image(tmp_path / "images", seed=1)
    _, two = small_image(tmp_path / "images", seed=2)
    index = add_index(layout, one, two)
    push(layout, index.digest, f"{registry.host}/name", ["both"], access=access)
    pull(f"{registry.host}/name", "both", tmp_path / "back", access=access)
    back = Layout(tmp_path / "back").manifest("both")
    assert [each.platform for each in back.manifests] == ["linux/amd64", "linux/arm64"]
    assert Layout(tmp_path / "back").manifest(two.digest).content == two.content


def test_blobs_may_come_from_a_store_and_from_another_registry(
    registry: DockerRegistry, access: Access, tmp_path: Path
) -> None:
    layout, image = small_image(tmp_path / "one")
    push(layout, image.digest, f"{registry.host}/base", access=access)
    base, own = image.blobs[1], image.blobs[2]
    (tmp_path / "store/blobs/sha256").mkdir(parents=True)
    for blob, target in ((own, tmp_path / "store/blobs/sha256" / own.digest[7:]), (base, None)):
        file = layout.find(blob.digest)
        assert file
        file.rename(target) if target else file.unlink()
    with RemoteRepository(f"{registry.host}/base", access) as elsewhere:
        arguments = layout.path, image.digest, f"{registry.host}/name", ["one"]
        push(*arguments, stores=[tmp_path / "store"], fallbacks=[elsewhere], access=access)
    assert pull(f"{registry.host}/name", "one", tmp_path / "back", access=access).digest == image.digest


@pytest.mark.parametrize("method", ["PATCH", "PUT", "POST", "HEAD"])
def test_a_push_survives_errors_and_waits_longer_each_time(
    method: str, proxy: FaultyProxy, access: Access, big: tuple[Layout, Manifest], waits: list[float]
) -> None:
    layout, image = big
    proxy.faults = [Fault(kind="status", method=method, status=502, times=3, path="uploads" if method != "HEAD" else "blobs")]
    one_by_one = dataclasses.replace(access, parallel=1)
    push(layout, image.digest, f"{proxy.host}/name", ["one"], access=one_by_one)
    assert len(waits) == 3
    assert waits[0] <= 0.5
    assert 1.0 <= waits[2] <= 2.0
    with RemoteRepository(f"{proxy.host}/name", access) as repository:
        assert repository.resolve("one") == image.digest


def test_a_cut_upload_goes_on_where_it_was(proxy: FaultyProxy, access: Access, big: tuple[Layout, Manifest]) -> None:
    layout, image = big
    proxy.faults = [Fault(kind="cut_request", method="PATCH", times=1)]
    push(layout, image.digest, f"{proxy.host}/name", access=access)
    size = sum(blob.size for blob in image.blobs)
    assert proxy.seen.sent_up == size + len(image.content)  # no byte arrived twice
    assert proxy.seen.count("PATCH") == 6  # five chunks, one of them twice


def test_a_registry_that_kept_half_a_chunk_gets_the_blob_anew(
    proxy: FaultyProxy, access: Access, big: tuple[Layout, Manifest]
) -> None:
    layout, image = big
    proxy.faults = [Fault(kind="cut_upstream", method="PATCH", times=1)]
    push(layout, image.digest, f"{proxy.host}/name", ["one"], access=access)
    with RemoteRepository(f"{proxy.host}/name", access) as repository:
        assert repository.resolve("one") == image.digest


def test_a_whole_upload_that_was_cut_is_sent_again(proxy: FaultyProxy, access: Access, tmp_path: Path) -> None:
    layout, image = small_image(tmp_path / "one")
    proxy.faults = [Fault(kind="cut_upstream", method="PUT", path="uploads", times=2)]
    push(layout, image.digest, f"{proxy.host}/name", access=access)
    assert proxy.faults[0].times == 0


def test_a_lost_answer_is_not_a_lost_blob(proxy: FaultyProxy, access: Access, tmp_path: Path) -> None:
    layout, image = small_image(tmp_path / "one")
    proxy.faults = [Fault(kind="lost_answer", method="PUT", path="uploads", times=3)]
    push(layout, image.digest, f"{proxy.host}/name", ["one"], access=access)
    assert proxy.seen.count("PUT", "uploads") == 3


def test_a_registry_that_keeps_failing_ends_in_an_error_that_says_so(
    proxy: FaultyProxy, access: Access, tmp_path: Path
) -> None:
    layout, image = small_image(tmp_path / "one")
    proxy.faults = [
        Fault(kind="status", method="PATCH", status=500, times=99),
        Fault(kind="status", method="PUT", status=500, times=99),
    ]
    with pytest.raises(UnreachableError, match="keeps failing"):
        push(layout, image.digest, f"{proxy.host}/name", access=access)


def test_the_wait_is_what_the_registry_asks_for(proxy: FaultyProxy, access: Access, tmp_path: Path, waits: list[float]) -> None:
    layout, image = small_image(tmp_path / "one")
    push(layout, image.digest, f"{proxy.host}/name", ["one"], access=access)
    proxy.faults = [Fault(kind="status", path="manifests", status=429, headers={"Retry-After": "7"}, times=2)]
    pull(f"{proxy.host}/name", "one", tmp_path / "back", access=access)
    assert waits == [7.0, 7.0]


def test_a_cut_download_goes_on_where_it_was(
    proxy: FaultyProxy, access: Access, big: tuple[Layout, Manifest], tmp_path: Path
) -> None:
    layout, image = big
    push(layout, image.digest, f"{proxy.host}/name", ["one"], access=access)
    layer = image.blobs[1]
    proxy.faults = [Fault(kind="cut_response", path=layer.digest, times=2)]
    seen: list[int] = []
    pull(
        f"{proxy.host}/name",
        "one",
        tmp_path / "back",
        access=access,
        on_bytes=lambda digest, n: seen.append(n * (digest == layer.digest)),
    )
    assert Layout(tmp_path / "back").blob(layer.digest) == layout.blob(layer.digest)
    assert sum(seen) == layer.size  # nothing twice


def test_wrong_bytes_are_read_again_and_never_kept(
    proxy: FaultyProxy, access: Access, big: tuple[Layout, Manifest], tmp_path: Path
) -> None:
    layout, image = big
    push(layout, image.digest, f"{proxy.host}/name", ["one"], access=access)
    proxy.faults = [Fault(kind="wrong_bytes", path=image.blobs[1].digest, times=1)]
    pull(f"{proxy.host}/name", "one", tmp_path / "good", access=access)
    proxy.faults = [Fault(kind="wrong_bytes", path=image.blobs[1].digest, times=99)]
    with pytest.raises(DigestError):
        pull(f"{proxy.host}/name", "one", tmp_path / "bad", access=access)
    assert not Layout(tmp_path / "bad").has_blob(image.blobs[1].digest)
    assert not list((tmp_path / "bad/blobs/sha256").glob(".part-*"))


def test_an_altered_manifest_is_refused(proxy: FaultyProxy, access: Access, tmp_path: Path) -> None:
    layout, image = small_image(tmp_path / "one")
    push(layout, image.digest, f"{proxy.host}/name", access=access)
    proxy.faults = [Fault(kind="wrong_bytes", path="manifests", times=1)]
    with RemoteRepository(f"{proxy.host}/name", access) as repository, pytest.raises(DigestError, match="altered"):
        repository.manifest(image.digest)


def test_bytes_altered_on_the_way_up_are_sent_again_and_damage_here_is_named(
    registry: DockerRegistry, access: Access, tmp_path: Path
) -> None:
    layout, image = small_image(tmp_path / "one")
    file = layout.find(image.blobs[2].digest)
    assert file
    file.write_bytes(noise(image.blobs[2].size, seed=99))
    with pytest.raises(DigestError, match="damaged on this machine"):
        push(layout, image.digest, f"{registry.host}/name", access=access)


def test_a_slow_registry_is_waited_for(proxy: FaultyProxy, access: Access, tmp_path: Path) -> None:
    layout, image = small_image(tmp_path / "one")
    proxy.faults = [Fault(kind="slow", method="PUT", seconds=0.3)]
    push(layout, image.digest, f"{proxy.host}/name", access=access)


def test_a_registry_that_hangs_is_given_up(proxy: FaultyProxy) -> None:
    access = Access(retry=Retry(attempts=2, sleep=lambda _: None), timeout_s=0.2)
    proxy.faults = [Fault(kind="slow", method="HEAD", seconds=1.0, times=99)]
    with RemoteRepository(f"{proxy.host}/name", access) as repository, pytest.raises(UnreachableError, match="ReadTimeout"):
        repository.resolve("one")


def test_nobody_there_is_said_with_the_name(access: Access) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with (
        RemoteRepository(f"127.0.0.1:{port}/name", access) as repository,
        pytest.raises(UnreachableError, match=f"127.0.0.1:{port}"),
    ):
        repository.resolve("one")


def test_what_is_not_there_is_told_apart(registry: DockerRegistry, access: Access, tmp_path: Path) -> None:
    layout, image = small_image(tmp_path / "one")
    with RemoteRepository(f"{registry.host}/name", access) as repository:
        assert repository.tags() == ()
        assert repository.resolve("one") is None
        push(layout, image.digest, f"{registry.host}/name", access=access)
        with pytest.raises(NotFoundError):
            repository.manifest("two")
        with pytest.raises(NotFoundError):
            repository.blob("sha256:" + "0" * 64)


# Authentication and TLS -------------------------------------------------------------------------------------------------


@pytest.fixture(name="guarded")
def _guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[DockerRegistry, Path]]:
    """A registry with a password and TLS by a private authority, and that authority's file."""
    if not is_installed():
        pytest.skip("docker-registry is not on PATH (apt-get install docker-registry)")
    folder = tmp_path_factory.mktemp("guarded")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    for number, blob in enumerate(certificate.cert_chain_pems):
        blob.write_to_path(str(folder / "cert.pem"), append=number > 0)
    with docker_registry(folder, password=True, certificate=(folder / "cert.pem", folder / "key.pem")) as running:
        yield running, folder / "ca.pem"


def docker_config(folder: Path, value: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(value))
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))


def test_a_private_authority_and_a_login_from_docker_s_configuration(
    guarded: tuple[DockerRegistry, Path], access: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, authority = guarded
    layout, image = small_image(tmp_path / "one")
    auth = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
    docker_config(tmp_path / "docker", {"auths": {registry.host: {"auth": auth}}}, monkeypatch)
    trusting = dataclasses.replace(access, ca_file=authority)
    push(layout, image.digest, f"{registry.host}/team/name", ["one"], access=trusting)
    assert pull(f"{registry.host}/team/name", "one", tmp_path / "back", access=trusting).digest == image.digest


def test_an_unknown_authority_is_refused_and_never_answered_in_the_clear(
    guarded: tuple[DockerRegistry, Path], access: Access
) -> None:
    with (
        RemoteRepository(f"{guarded[0].host}/name", access) as repository,
        pytest.raises(UnreachableError, match="not trusted") as caught,
    ):
        repository.resolve("one")
    assert "VLLM_CI_REGISTRY_CA" in caught.value.remedy


def test_the_authority_may_lie_where_docker_looks_for_it(
    guarded: tuple[DockerRegistry, Path], access: Access, tmp_path: Path
) -> None:
    registry, authority = guarded
    folder = tmp_path / ".config/containers/certs.d" / registry.host
    folder.mkdir(parents=True)
    (folder / "ca.crt").write_bytes(authority.read_bytes())
    with RemoteRepository(f"{registry.host}/name", access) as repository, pytest.raises(UnauthorizedError):
        repository.resolve("one")


def test_no_login_and_a_wrong_one_are_told_apart(guarded: tuple[DockerRegistry, Path], access: Access) -> None:
    registry, authority = guarded
    trusting = dataclasses.replace(access, ca_file=authority)
    with (
        RemoteRepository(f"{registry.host}/name", trusting) as repository,
        pytest.raises(UnauthorizedError, match="requires a login") as none,
    ):
        repository.resolve("one")
    assert f"docker login {registry.host}" in none.value.remedy
    wrong = dataclasses.replace(
        trusting, credentials={registry.host: Credentials(username=USERNAME, password="wrong", source="a test")}
    )
    with (
        RemoteRepository(f"{registry.host}/name", wrong) as repository,
        pytest.raises(UnauthorizedError, match="not accept") as bad,
    ):
        repository.resolve("one")
    assert "a test" in bad.value.why
    assert "wrong and" not in str(bad.value)


def test_a_credential_helper_is_asked(
    guarded: tuple[DockerRegistry, Path], access: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, authority = guarded
    helper = tmp_path / "bin/docker-credential-test"
    helper.parent.mkdir()
    answer = json.dumps({"ServerURL": registry.host, "Username": USERNAME, "Secret": PASSWORD})
    helper.write_text(f"#!/bin/sh\nread host\n[ \"$1 $host\" = 'get {registry.host}' ] || exit 1\necho '{answer}'\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", str(helper.parent), prepend=":")
    docker_config(tmp_path / "docker", {"credHelpers": {registry.host: "test"}}, monkeypatch)
    with RemoteRepository(f"{registry.host}/name", dataclasses.replace(access, ca_file=authority)) as repository:
        assert repository.resolve("one") is None


def test_a_forbidden_push_names_the_account_and_the_right(proxy: FaultyProxy, access: Access, tmp_path: Path) -> None:
    layout, image = small_image(tmp_path / "one")
    body = json.dumps({"errors": [{"code": "DENIED", "message": "requested access to the resource is denied"}]}).encode()
    proxy.faults = [Fault(kind="status", method="POST", status=403, body=body, times=99)]
    someone = dataclasses.replace(access, credentials={proxy.host: Credentials(username="reader", password="x")})
    with pytest.raises(ForbiddenError, match="account reader") as caught:
        push(layout, image.digest, f"{proxy.host}/name", access=someone)
    assert "DENIED" in caught.value.why
    assert "push" in caught.value.why


# Mirrors ----------------------------------------------------------------------------------------------------------------


def test_a_mirror_is_read_first_and_the_registry_where_it_fails(
    registry: DockerRegistry, proxy: FaultyProxy, access: Access, tmp_path: Path
) -> None:
    layout, image = small_image(tmp_path / "one")
    push(layout, image.digest, f"{registry.host}/team/name", ["one"], access=access)
    mirrored = dataclasses.replace(access, mirrors={registry.host: [proxy.host]})
    pull(f"{registry.host}/team/name", image.digest, tmp_path / "back", access=mirrored)
    assert proxy.seen.count("GET", "blobs") == 3
    proxy.faults = [Fault(kind="status", status=404, times=99)]
    pull(f"{registry.host}/team/name", image.digest, tmp_path / "again", access=mirrored)
    assert Layout(tmp_path / "again").resolve(image.digest)


def test_a_mirror_cannot_slip_in_other_bytes(
    registry: DockerRegistry, proxy: FaultyProxy, access: Access, tmp_path: Path
) -> None:
    layout, image = small_image(tmp_path / "one")
    push(layout, image.digest, f"{registry.host}/name", access=access)
    proxy.faults = [Fault(kind="wrong_bytes", times=99)]
    with pytest.raises(DigestError):
        pull(
            f"{registry.host}/name",
            image.digest,
            tmp_path / "back",
            access=dataclasses.replace(access, mirrors={registry.host: [proxy.host]}),
        )


# Referrers --------------------------------------------------------------------------------------------------------------


def test_without_the_referrers_api_the_fallback_lists_what_is_attached(
    registry: DockerRegistry, access: Access, tmp_path: Path
) -> None:
    layout, image = small_image(tmp_path / "one")
    push(layout, image.digest, f"{registry.host}/name", access=access)
    with RemoteRepository(f"{registry.host}/name", access) as repository:
        assert repository.referrers(image.digest) == ()
        first, second = attach(repository, image, "first"), attach(repository, image, "second")
        found = repository.referrers(image.digest)
        assert {each.digest for each in found} == {first.digest, second.digest}
        assert {each.artifact_type for each in found} == {"text/plain"}
        index = repository.manifest(image.digest.replace(":", "-"))
        assert {each.digest for each in index.manifests} == {first.digest, second.digest}


def test_ten_writers_at_once_lose_nothing(registry: DockerRegistry, access: Access, tmp_path: Path) -> None:
    layout, image = small_image(tmp_path / "one")
    push(layout, image.digest, f"{registry.host}/name", access=access)
    made: list[str] = []

    def write(number: int) -> None:
        with RemoteRepository(f"{registry.host}/name", access) as repository:
            made.append(attach(repository, image, f"statement {number}").digest)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with RemoteRepository(f"{registry.host}/name", access) as repository:
        index = repository.manifest(image.digest.replace(":", "-"))
        assert {each.digest for each in index.manifests} == set(made)
    assert len(made) == 10


def test_a_list_that_another_client_overwrote_is_repaired_from_the_tags(
    registry: DockerRegistry, access: Access, tmp_path: Path
) -> None:
    layout, image = small_image(tmp_path / "one")
    push(layout, image.digest, f"{registry.host}/name", access=access)
    with RemoteRepository(f"{registry.host}/name", access) as repository:
        first = attach(repository, image, "first")
        empty = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}
        tag = image.digest.replace(":", "-")
        repository.put_manifest(Manifest(content=json.dumps(empty).encode(), media_type=str(empty["mediaType"])), tag=tag)
        assert [each.digest for each in repository.referrers(image.digest)] == [first.digest]
        second = attach(repository, image, "second")
        assert {each.digest for each in repository.manifest(tag).manifests} == {first.digest, second.digest}


def test_garbage_collection_of_untagged_manifests_leaves_the_evidence(
    registry: DockerRegistry, access: Access, tmp_path: Path
) -> None:
    layout, image = small_image(tmp_path / "one")
    push(layout, image.digest, f"{registry.host}/name", ["one"], access=access)
    with RemoteRepository(f"{registry.host}/name", access) as repository:
        first = attach(repository, image, "first")
        registry.collect_garbage()
        assert [each.digest for each in repository.referrers(image.digest)] == [first.digest]
        assert repository.manifest(first.digest).subject == image.digest


# Other programs ---------------------------------------------------------------------------------------------------------


@pytest.mark.needs_tool
def test_skopeo_copies_what_we_push(registry: DockerRegistry, access: Access, tmp_path: Path) -> None:
    if shutil.which("skopeo") is None:
        pytest.skip("skopeo is not on PATH (apt-get install skopeo)")
    layout, image = small_image(tmp_path / "one")
    push(layout, image.digest, f"{registry.host}/name", ["one"], access=access)
    command = ["skopeo", "copy", "--src-tls-verify=false", "--preserve-digests", "--insecure-policy"]
    subprocess.run(
        [*command, f"docker://{registry.host}/name:one", f"oci:{tmp_path / 'skopeo'}:one"], check=True, capture_output=True
    )
    assert Layout(tmp_path / "skopeo").resolve("one") == image.digest


def test_a_registry_that_keeps_the_list_itself_gets_no_list_from_us(proxy: FaultyProxy, access: Access, tmp_path: Path) -> None:
    layout, image = small_image(tmp_path / "one")
    push(layout, image.digest, f"{proxy.host}/name", access=access)
    proxy.faults = [Fault(kind="header", method="PUT", path="manifests/att-", headers={"OCI-Subject": image.digest})]
    with RemoteRepository(f"{proxy.host}/name", access) as repository:
        made = attach(repository, image, "first")
        assert repository.resolve(image.digest.replace(":", "-")) is None
        assert [tag for tag in repository.tags() if tag.startswith("att-")] == [f"att-{image.digest[7:39]}{made.digest[7:]}"]


def test_tags_come_in_pages(proxy: FaultyProxy, access: Access) -> None:
    pages = [
        Fault(
            kind="status",
            path="tags/list",
            status=200,
            body=b'{"name":"name","tags":["a","b"]}',
            headers={"Link": '</v2/name/tags/list?last=b&n=2>; rel="next"'},
        ),
        Fault(kind="status", path="last=b", status=200, body=b'{"name":"name","tags":["c"]}'),
    ]
    proxy.faults = pages
    with RemoteRepository(f"{proxy.host}/name", access) as repository:
        assert repository.tags() == ("a", "b", "c")


def test_a_registry_that_does_not_delete_is_told_apart(tmp_path: Path, access: Access) -> None:
    if not is_installed():
        pytest.skip("docker-registry is not on PATH (apt-get install docker-registry)")
    layout, image = small_image(tmp_path / "one")
    (tmp_path / "r").mkdir()
    with docker_registry(tmp_path / "r", delete=False) as fixed:
        push(layout, image.digest, f"{fixed.host}/name", ["one"], access=access)
        with RemoteRepository(f"{fixed.host}/name", access) as repository, pytest.raises(UnsupportedError):
            repository.delete(image.digest)
