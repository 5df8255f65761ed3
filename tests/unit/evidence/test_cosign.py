"""What we write cosign verifies, and what cosign writes we verify."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from registries.docker import DockerRegistry
from registries.evidence import NOW, bundles_of, commit_of, statements_of
from registries.images import small_image
from vllm_ci.domain.image import ImageRef
from vllm_ci.evidence import keys, verify
from vllm_ci.evidence.attachment import attach
from vllm_ci.evidence.keys import PublicKey
from vllm_ci.evidence.refusals import OtherKeyError
from vllm_ci.evidence.statement import KINDS, PROVENANCE, SBOM, SIGNATURE, TEST_RESULT, Statement
from vllm_ci.evidence.verify import Expected
from vllm_ci.registry.access import Access
from vllm_ci.registry.client import RemoteRepository
from vllm_ci.registry.transfer import push

pytestmark = [pytest.mark.needs_registry, pytest.mark.needs_tool]

Cosign = Callable[..., "subprocess.CompletedProcess[str]"]
COMMIT = commit_of(1)
# No transparency log and no time stamp authority: both would be services on a network.
LOCAL = ("--use-signing-config=false", "--tlog-upload=false", "--allow-insecure-registry", "--yes")
OFFLINE = ("--insecure-ignore-tlog", "--allow-insecure-registry")


@pytest.fixture(name="cosign")
def _cosign(tmp_path: Path) -> Cosign:
    if shutil.which("cosign") is None:
        pytest.skip("cosign is not on PATH (go install github.com/sigstore/cosign/v3/cmd/cosign@v3.1.3)")

    def run(*arguments: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "COSIGN_PASSWORD": "p", "HOME": str(tmp_path)}
        done = subprocess.run(
            ["cosign", *arguments], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
        )
        assert (done.returncode == 0) is ok, done.stderr
        return done

    return run


@pytest.fixture(name="image")
def _image(registry: DockerRegistry, access: Access, tmp_path: Path) -> Iterator[tuple[RemoteRepository, ImageRef]]:
    layout, manifest = small_image(tmp_path / "image")
    name = f"{registry.host}/team/name"
    push(layout, manifest.digest, name, ["one"], access=access)
    with RemoteRepository(name, access) as repository:
        yield repository, ImageRef(repository=name, digest=manifest.digest)


def test_cosign_verifies_every_statement_of_ours(
    cosign: Cosign, image: tuple[RemoteRepository, ImageRef], tmp_path: Path
) -> None:
    repository, ref = image
    keys.generate(tmp_path / "keys")
    key = keys.load(str(tmp_path / "keys/release.key"), environment={})
    statements = [*statements_of(ref, COMMIT), Statement.about(ref, COMMIT, SIGNATURE, {})]
    for bundle in bundles_of(iter(statements), key):
        attach(repository, ref.digest, bundle)
    public = str(tmp_path / "keys/release.pub")
    for kind in (PROVENANCE, SBOM, TEST_RESULT, SIGNATURE):
        done = cosign("verify-attestation", "--key", public, "--type", kind, *OFFLINE, ref.reference)
        assert '"payloadType":"application/vnd.in-toto+json"' in done.stdout
    cosign("verify", "--key", public, *OFFLINE, ref.reference)


def test_cosign_refuses_what_another_key_signed(
    cosign: Cosign, image: tuple[RemoteRepository, ImageRef], tmp_path: Path
) -> None:
    repository, ref = image
    for name in ("ours", "theirs"):
        keys.generate(tmp_path / name)
    key = keys.load(str(tmp_path / "ours/release.key"), environment={})
    attach(repository, ref.digest, key.sign_statement(Statement.about(ref, COMMIT, SIGNATURE, {})))
    cosign("verify", "--key", str(tmp_path / "theirs/release.pub"), *OFFLINE, ref.reference, ok=False)


def test_we_verify_what_cosign_signs_and_attests(
    cosign: Cosign, image: tuple[RemoteRepository, ImageRef], tmp_path: Path
) -> None:
    repository, ref = image
    cosign("generate-key-pair")
    (tmp_path / "predicate.json").write_text('{"by": "a person"}')
    cosign("sign", "--key", "cosign.key", *LOCAL, ref.reference)
    cosign(
        "attest",
        "--key",
        "cosign.key",
        "--type",
        "https://example.com/a/v1",
        "--predicate",
        "predicate.json",
        *LOCAL,
        ref.reference,
    )
    trusted = {"person": PublicKey.read("person", tmp_path / "cosign.pub")}
    expected = Expected(digest=ref.digest, repositories=(ref.repository,))
    found = verify.verify(repository, expected, trusted)
    assert not found.refused
    assert sorted(KINDS.get(each.kind, each.kind) for each in found.evidence) == ["https://example.com/a/v1", "signature"]
    keys.generate(tmp_path / "other")
    other = {"ci": PublicKey.read("ci", tmp_path / "other/release.pub")}
    assert {type(each) for each in verify.verify(repository, expected, other).refused.values()} == {OtherKeyError}


def test_both_write_to_one_image_and_nothing_is_lost(
    cosign: Cosign, image: tuple[RemoteRepository, ImageRef], tmp_path: Path
) -> None:
    repository, ref = image
    cosign("generate-key-pair")
    keys.generate(tmp_path / "keys")
    key = keys.load(str(tmp_path / "keys/release.key"), environment={})
    attach(repository, ref.digest, key.sign_statement(Statement.about(ref, COMMIT, SIGNATURE, {})))
    cosign("sign", "--key", "cosign.key", *LOCAL, ref.reference)
    for bundle in bundles_of(statements_of(ref, COMMIT), key):
        attach(repository, ref.digest, bundle)
    trusted = {"ci": key.public, "person": PublicKey.read("person", tmp_path / "cosign.pub")}
    found = verify.verify(repository, Expected(digest=ref.digest, repositories=(ref.repository,)), trusted, now=NOW)
    assert len(found.evidence) == 8
    assert {each.signer for each in found.evidence} == {"ci", "person"}
    cosign("verify", "--key", "cosign.pub", *OFFLINE, ref.reference)


def test_cosign_takes_over_a_key_of_ours(cosign: Cosign, image: tuple[RemoteRepository, ImageRef], tmp_path: Path) -> None:
    keys.generate(tmp_path / "keys")
    cosign("import-key-pair", "--key", str(tmp_path / "keys/release.key"), "--output-key-prefix", "imported")
    cosign("sign", "--key", "imported.key", *LOCAL, image[1].reference)
    trusted = {"ci": PublicKey.read("ci", tmp_path / "keys/release.pub")}
    found = verify.verify(image[0], Expected(digest=image[1].digest, repositories=(image[1].repository,)), trusted)
    assert [each.kind for each in found.evidence] == ["signature"]
