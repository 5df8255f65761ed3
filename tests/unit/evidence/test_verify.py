"""Every way in which evidence can be wrong is refused, with a message of its own."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from registries.evidence import MATERIALS, NOW, bundles_of, commit_of, statements_of
from registries.images import small_image
from vllm_ci.domain.image import ImageRef
from vllm_ci.evidence import refusals, strict, verify
from vllm_ci.evidence.attachment import Attached, attach
from vllm_ci.evidence.bundle import Bundle, Trusted
from vllm_ci.evidence.keys import PrivateKey
from vllm_ci.evidence.predicates import provenance
from vllm_ci.evidence.statement import PROVENANCE, SIGNATURE, Statement
from vllm_ci.evidence.verify import Expected, Findings
from vllm_ci.registry.errors import NotFoundError
from vllm_ci.registry.layout import Layout
from vllm_ci.registry.manifest import Manifest

COMMIT = commit_of(1)


@pytest.fixture(name="image")
def _image(folder: Path) -> tuple[Layout, Manifest, ImageRef]:
    layout, manifest = small_image(folder)
    return layout, manifest, ImageRef(repository="r.example.com/team/name", digest=manifest.digest)


@pytest.fixture(name="trusted")
def _trusted(key: PrivateKey) -> dict[str, Trusted]:
    return {"ci": key.public}


def expected(image: ImageRef) -> Expected:
    return Expected(digest=image.digest, commit=COMMIT.sha, repositories=(image.repository,))


def judged(bundle: bytes, image: ImageRef, trusted: dict[str, Trusted]) -> refusals.Refusal:
    """The refusal of one bundle."""
    found = verify.judge([Attached(digest="sha256:x", bundle=bundle)], expected(image), trusted, now=NOW)
    assert not found.evidence
    [refusal] = found.refused.values()
    return refusal


def signed(image: ImageRef, key: PrivateKey) -> Bundle:
    return key.sign_statement(provenance.statement(image, COMMIT, MATERIALS, started=NOW, finished=NOW))


def test_what_is_attached_is_found_and_verified(
    image: tuple[Layout, Manifest, ImageRef], key: PrivateKey, trusted: dict[str, Trusted]
) -> None:
    layout, _, ref = image
    for bundle in bundles_of(statements_of(ref, COMMIT), key):
        attach(layout, ref.digest, bundle)
        attach(layout, ref.digest, bundle)
    found = verify.verify(layout, expected(ref), trusted, now=NOW)
    assert sorted(each.kind for each in found.evidence) == ["provenance", "sbom", *["test result"] * 4]
    assert {each.signer for each in found.evidence} == {"ci"}
    assert not found.refused
    assert provenance.commit_of(found.of(PROVENANCE)[0].statement) == dataclasses.replace(COMMIT, committed_at=0)


def test_another_key_is_refused(
    image: tuple[Layout, Manifest, ImageRef], other_key: PrivateKey, trusted: dict[str, Trusted]
) -> None:
    refusal = judged(signed(image[2], other_key).content, image[2], trusted)
    assert isinstance(refusal, refusals.OtherKeyError)
    assert "trusted keys: ci" in refusal.why


def test_an_altered_payload_is_refused(
    image: tuple[Layout, Manifest, ImageRef], key: PrivateKey, trusted: dict[str, Trusted]
) -> None:
    bundle = signed(image[2], key)
    altered = dataclasses.replace(bundle, payload=bundle.payload.replace(b'"dirty":false', b'"dirty":true '))
    assert altered.payload != bundle.payload
    refusal = judged(altered.content, image[2], trusted)
    assert isinstance(refusal, refusals.AlteredPayloadError)


def test_an_altered_image_is_refused(image: tuple[Layout, Manifest, ImageRef], trusted: dict[str, Trusted]) -> None:
    layout, manifest, ref = image
    layer = layout.find(manifest.blobs[1].digest)
    assert layer
    layer.write_bytes(b"x" + layer.read_bytes()[1:])
    with pytest.raises(refusals.AlteredImageError, match=ref.digest):
        verify.check_image(layout, ref.digest, layers=True)
    config = layout.find(manifest.blobs[0].digest)
    assert config
    config.write_bytes(config.read_bytes() + b" ")
    with pytest.raises(refusals.AlteredImageError):
        verify.verify(layout, expected(ref), trusted, now=NOW)
    file = layout.find(ref.digest)
    assert file
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(refusals.AlteredImageError):
        verify.verify(layout, expected(ref), trusted, now=NOW)


def test_an_image_that_is_not_there_is_said_so(image: tuple[Layout, Manifest, ImageRef], trusted: dict[str, Trusted]) -> None:
    with pytest.raises(NotFoundError):
        verify.verify(image[0], Expected(digest="sha256:" + "0" * 64), trusted, now=NOW)


def test_a_statement_about_another_digest_is_refused(
    image: tuple[Layout, Manifest, ImageRef], key: PrivateKey, trusted: dict[str, Trusted]
) -> None:
    other = dataclasses.replace(image[2], digest="sha256:" + "e" * 64)
    assert isinstance(judged(signed(other, key).content, image[2], trusted), refusals.OtherImageError)


def test_a_statement_about_another_commit_is_refused(
    image: tuple[Layout, Manifest, ImageRef], key: PrivateKey, trusted: dict[str, Trusted]
) -> None:
    statement = provenance.statement(image[2], commit_of(2), MATERIALS, started=NOW, finished=NOW)
    refusal = judged(key.sign_statement(statement).content, image[2], trusted)
    assert isinstance(refusal, refusals.OtherCommitError)


def test_evidence_replayed_from_another_repository_is_refused(
    image: tuple[Layout, Manifest, ImageRef], key: PrivateKey, trusted: dict[str, Trusted]
) -> None:
    elsewhere = dataclasses.replace(image[2], repository="r.example.com/other/name")
    refusal = judged(signed(elsewhere, key).content, image[2], trusted)
    assert isinstance(refusal, refusals.OtherRepositoryError)
    assert "r.example.com/other/name" in refusal.message


def test_a_nameless_statement_counts_only_as_a_signature(
    image: tuple[Layout, Manifest, ImageRef], key: PrivateKey, trusted: dict[str, Trusted]
) -> None:
    nameless = dataclasses.replace(image[2], repository="")
    assert isinstance(judged(signed(nameless, key).content, image[2], trusted), refusals.OtherRepositoryError)
    signature = key.sign_statement(Statement.about(nameless, None, SIGNATURE, {}))
    found = verify.judge([Attached(digest="d", bundle=signature.content)], expected(image[2]), trusted, now=NOW)
    assert [each.kind for each in found.evidence] == ["signature"]


@pytest.mark.parametrize(
    "predicate_type",
    [
        "https://slsa.dev/provenance/v0.2",
        "https://in-toto.io/attestation/test-result/v0.2",
        "https://in-toto.io/attestation/vulns/v9",
    ],
)
def test_an_unknown_version_of_a_known_predicate_is_refused(
    predicate_type: str, image: tuple[Layout, Manifest, ImageRef], key: PrivateKey, trusted: dict[str, Trusted]
) -> None:
    statement = Statement.about(image[2], COMMIT, predicate_type, {})
    assert isinstance(judged(key.sign_statement(statement).content, image[2], trusted), refusals.UnknownVersionError)


def test_a_stranger_s_predicate_is_verified_and_left_alone(
    image: tuple[Layout, Manifest, ImageRef], key: PrivateKey, trusted: dict[str, Trusted]
) -> None:
    bundle = key.sign_statement(Statement.about(image[2], COMMIT, "https://example.com/approval/v1", {"by": "me"}))
    found = verify.judge([Attached(digest="d", bundle=bundle.content)], expected(image[2]), trusted, now=NOW)
    assert [each.kind for each in found.evidence] == ["https://example.com/approval/v1"]


def test_a_statement_from_the_future_is_refused(
    image: tuple[Layout, Manifest, ImageRef], key: PrivateKey, trusted: dict[str, Trusted]
) -> None:
    late = NOW + timedelta(minutes=6)
    statement = provenance.statement(image[2], COMMIT, MATERIALS, started=late, finished=late)
    assert isinstance(judged(key.sign_statement(statement).content, image[2], trusted), refusals.FutureError)


def resigned(payload: bytes, key: PrivateKey) -> bytes:
    """A bundle around any payload at all, truly signed."""
    from securesystemslib.dsse import Envelope

    signature = key.sign(Envelope(payload, "application/vnd.in-toto+json", {}).pae())
    return Bundle(payload=payload, signature=signature, hint=key.public.hint).content


def test_a_key_that_stands_twice_is_refused_in_bundle_and_payload(
    image: tuple[Layout, Manifest, ImageRef], key: PrivateKey, trusted: dict[str, Trusted]
) -> None:
    bundle = signed(image[2], key)
    twice = bundle.content.replace(b'{"dsseEnvelope"', b'{"mediaType":"x","dsseEnvelope"', 1)
    assert isinstance(judged(twice, image[2], trusted), refusals.DuplicateKeysError)
    payload = bundle.payload.replace(b'"_type"', b'"predicateType":"x","_type"', 1)
    assert isinstance(judged(resigned(payload, key), image[2], trusted), refusals.DuplicateKeysError)


def _with_keyid(value: Any) -> None:
    value["dsseEnvelope"]["signatures"][0]["keyid"] = "someone"


def _twice_signed(value: Any) -> None:
    value["dsseEnvelope"]["signatures"] *= 2


def _unsigned(value: Any) -> None:
    value["dsseEnvelope"]["signatures"] = []


def _other_payload_type(value: Any) -> None:
    value["dsseEnvelope"]["payloadType"] = "text/plain"


def _other_version(value: Any) -> None:
    value["mediaType"] = "application/vnd.dev.sigstore.bundle.v0.4+json"


def _odd_field(value: Any) -> None:
    value["note"] = "trust me"


def _no_base64(value: Any) -> None:
    value["dsseEnvelope"]["payload"] = "*" + value["dsseEnvelope"]["payload"]


@pytest.mark.parametrize(
    "change", [_with_keyid, _twice_signed, _unsigned, _other_payload_type, _other_version, _odd_field, _no_base64]
)
def test_a_bundle_that_is_not_exactly_one_is_refused(
    change: Callable[[Any], None], image: tuple[Layout, Manifest, ImageRef], key: PrivateKey, trusted: dict[str, Trusted]
) -> None:
    value = json.loads(signed(image[2], key).content)
    change(value)
    assert isinstance(judged(json.dumps(value).encode(), image[2], trusted), refusals.MalformedError)


@pytest.mark.parametrize("content", [b"", b"[]", b'"text"', b'{"a": NaN}', b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_is_refused(
    content: bytes, image: tuple[Layout, Manifest, ImageRef], key: PrivateKey, trusted: dict[str, Trusted]
) -> None:
    assert isinstance(judged(content, image[2], trusted), refusals.MalformedError)
    assert isinstance(judged(resigned(content, key), image[2], trusted), refusals.MalformedError)


def test_a_certificate_is_nobody_s_key(
    image: tuple[Layout, Manifest, ImageRef], key: PrivateKey, trusted: dict[str, Trusted]
) -> None:
    value = json.loads(signed(image[2], key).content)
    value["verificationMaterial"] = {"certificate": {"rawBytes": base64.b64encode(b"x").decode()}}
    assert isinstance(judged(json.dumps(value).encode(), image[2], trusted), refusals.OtherKeyError)


def test_each_refusal_is_told_apart_by_class_and_words() -> None:
    kinds = [each for each in vars(refusals).values() if isinstance(each, type) and issubclass(each, refusals.Refusal)]
    assert len(kinds) == len({kind.__doc__ for kind in kinds}) > 10
    assert all(kind("x").exit_code == 1 for kind in kinds)


def test_one_bad_statement_does_not_hide_the_good_ones(
    image: tuple[Layout, Manifest, ImageRef], key: PrivateKey, other_key: PrivateKey, trusted: dict[str, Trusted]
) -> None:
    found: Findings = verify.judge(
        [
            Attached(digest="one", bundle=signed(image[2], other_key).content),
            Attached(digest="two", bundle=signed(image[2], key).content),
        ],
        expected(image[2]),
        trusted,
        now=NOW,
    )
    assert [each.digest for each in found.evidence] == ["two"]
    assert list(found.refused) == ["one"]


def test_the_same_value_has_the_same_bytes() -> None:
    assert strict.canonical({"b": 1, "a": "ü"}) == strict.canonical({"a": "ü", "b": 1}) == '{"a":"ü","b":1}'.encode()
