"""The read-only server over a layout."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from registries.images import noise, small_image
from vllm_ci.registry.access import Access
from vllm_ci.registry.client import RemoteRepository
from vllm_ci.registry.errors import UnsupportedError
from vllm_ci.registry.layout import Layout
from vllm_ci.registry.manifest import OCI_MANIFEST, Descriptor, Manifest, digest_of
from vllm_ci.registry.server import ReadOnlyRegistry
from vllm_ci.registry.transfer import pull, push


@pytest.fixture(name="image")
def _image(tmp_path: Path) -> tuple[Layout, Manifest]:
    layout, image = small_image(tmp_path / "image")
    layout.put_manifest(image, tag="one")
    return layout, image


@pytest.fixture(name="host")
def _host(image: tuple[Layout, Manifest]) -> Iterator[str]:
    with ReadOnlyRegistry(image[0]) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_what_it_serves_can_be_pulled_under_any_name(
    host: str, image: tuple[Layout, Manifest], access: Access, tmp_path: Path
) -> None:
    for name in ("name", "team/some-other"):
        result = pull(f"{host}/{name}", image[1].digest, tmp_path / name.replace("/", "-"), access=access)
        assert result.digest == image[1].digest
    with RemoteRepository(f"{host}/name", access) as repository:
        assert repository.resolve("one") == image[1].digest
        assert repository.tags() == ("one",)


def test_head_says_what_get_would_send(host: str, image: tuple[Layout, Manifest]) -> None:
    blob = image[1].blobs[1]
    for path in (f"manifests/{image[1].digest}", f"blobs/{blob.digest}"):
        head, get = (httpx.request(method, f"http://{host}/v2/name/{path}") for method in ("HEAD", "GET"))
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["Content-Length"] == get.headers["Content-Length"] == str(len(get.content))
        assert head.headers["Docker-Content-Digest"] == digest_of(get.content)
    assert httpx.get(f"http://{host}/v2/").status_code == 200


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=10-19", slice(10, 20)),
        ("bytes=1990-", slice(1990, None)),
        ("bytes=-5", slice(-5, None)),
        ("bytes=0-999999999", slice(None)),
        ("lines=1-2", slice(None)),
    ],
)
def test_ranges(header: str, expected: slice, host: str, image: tuple[Layout, Manifest]) -> None:
    blob = image[1].blobs[2]
    whole = image[0].blob(blob.digest)
    answer = httpx.get(f"http://{host}/v2/name/blobs/{blob.digest}", headers={"Range": header})
    assert answer.content == whole[expected]
    assert answer.status_code == (200 if len(answer.content) == len(whole) else 206)
    if answer.status_code == 206:
        first, last = answer.headers["Content-Range"].removeprefix("bytes ").split("/")[0].split("-")
        assert whole[int(first) : int(last) + 1] == answer.content


@pytest.mark.slow
def test_what_is_not_there_has_the_specification_s_error_codes(host: str) -> None:
    nothing = "sha256:" + "0" * 64
    for path, code in (
        (f"name/blobs/{nothing}", "BLOB_UNKNOWN"),
        (f"name/manifests/{nothing}", "MANIFEST_UNKNOWN"),
        ("name/manifests/two", "MANIFEST_UNKNOWN"),
        ("name/blobs/..%2f..%2findex.json", "BLOB_UNKNOWN"),
        ("name/blobs/../../index.json", "UNSUPPORTED"),
        ("_catalog", "UNSUPPORTED"),
    ):
        answer = httpx.get(f"http://{host}/v2/{path}")
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (404, code), path
    past = httpx.get(f"http://{host}/v2/", headers={"Range": "bytes=99999-"})
    assert past.status_code == 200


def test_a_range_past_the_end_is_refused(host: str, image: tuple[Layout, Manifest]) -> None:
    answer = httpx.get(f"http://{host}/v2/name/blobs/{image[1].blobs[1].digest}", headers={"Range": "bytes=999999-"})
    assert answer.status_code == 416


def test_it_only_reads(host: str, access: Access, tmp_path: Path) -> None:
    layout, other = small_image(tmp_path / "other", seed=9)
    with pytest.raises(UnsupportedError):
        push(layout, other.digest, f"{host}/name", access=access)


def test_later_builds_into_the_layout_are_served(
    host: str, image: tuple[Layout, Manifest], access: Access, tmp_path: Path
) -> None:
    _, later = small_image(image[0].path, seed=7)
    assert pull(f"{host}/name", later.digest, tmp_path / "later", access=access).digest == later.digest


@pytest.mark.slow
def test_as_a_program_it_says_where_it_listens_and_stops_when_asked(image: tuple[Layout, Manifest], tmp_path: Path) -> None:
    store = tmp_path / "store/blobs/sha256"
    store.mkdir(parents=True)
    big = noise(3_000_000)
    (store / digest_of(big)[7:]).write_bytes(big)
    command = [
        sys.executable,
        "-m",
        "vllm_ci.registry.server",
        "--layout",
        str(image[0].path),
        "--blobs",
        str(tmp_path / "store"),
    ]
    with subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        host = process.stdout.readline().split()[-1]
        assert httpx.get(f"http://{host}/v2/name/blobs/{digest_of(big)}").content == big
        process.terminate()
        assert process.wait(10) == 0


def test_it_needs_nothing_beyond_the_standard_library() -> None:
    check = (
        "import sys, vllm_ci.registry.server; print([name for name in ('httpx', 'pydantic', 'click') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.needs_tool
def test_skopeo_pulls_from_it(host: str, image: tuple[Layout, Manifest], tmp_path: Path) -> None:
    if shutil.which("skopeo") is None:
        pytest.skip("skopeo is not on PATH (apt-get install skopeo)")
    source = f"docker://{host}/name@{image[1].digest}"
    command = [
        "skopeo",
        "--insecure-policy",
        "copy",
        "--src-tls-verify=false",
        "--preserve-digests",
        source,
        f"oci:{tmp_path / 'copy'}:one",
    ]
    subprocess.run(command, check=True, capture_output=True)
    assert Layout(tmp_path / "copy").resolve("one") == image[1].digest


def test_an_empty_blob_has_a_length(host: str, image: tuple[Layout, Manifest]) -> None:
    empty = Descriptor(media_type="text/plain", digest=digest_of(b""), size=0)
    image[0].put_blob(empty, lambda _: [b""])
    answer = httpx.get(f"http://{host}/v2/name/blobs/{empty.digest}")
    assert (answer.status_code, answer.content) == (200, b"")


def test_referrers_are_listed_by_the_api_where_there_is_one(host: str, image: tuple[Layout, Manifest], access: Access) -> None:
    layout, subject = image
    assert _referrers(host, subject, access) == ()
    value = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": "text/plain",
        "config": subject.blobs[0].to_json(),
        "layers": [],
        "subject": subject.descriptor.to_json(),
    }
    about = Manifest(content=json.dumps(value).encode(), media_type=OCI_MANIFEST)
    layout.attach(about)
    assert [(each.digest, each.artifact_type) for each in _referrers(host, subject, access)] == [(about.digest, "text/plain")]


def _referrers(host: str, subject: Manifest, access: Access) -> tuple[Descriptor, ...]:
    with RemoteRepository(f"{host}/name", access) as repository:
        return repository.referrers(subject.digest)
