"""What can be said of keyless signatures without a network: who is missing, and that nothing is taken on trust."""

from __future__ import annotations

import base64
import importlib.util
import json
from pathlib import Path

import pytest

from registries.evidence import MATERIALS, NOW, commit_of
from vllm_ci.domain.errors import ConfigError
from vllm_ci.domain.image import ImageRef
from vllm_ci.evidence import keyless, verify
from vllm_ci.evidence.keyless import Identity, Keyless
from vllm_ci.evidence.keys import PrivateKey
from vllm_ci.evidence.predicates import provenance
from vllm_ci.evidence.refusals import MalformedError, OtherKeyError
from vllm_ci.evidence.statement import Statement

IMAGE = ImageRef(repository="r.example.com/name", digest="sha256:" + "f" * 64)
WORKFLOW = Identity(
    name="ci",
    identity="https://git.example.com/x/.github/workflows/ci.yml@refs/heads/main",
    issuer="https://issuer.example.com",
)
installed = pytest.mark.skipif(
    importlib.util.find_spec("sigstore") is None, reason="sigstore-python is not installed (vllm-ci[keyless])"
)


@pytest.fixture(name="statement")
def _statement() -> Statement:
    return provenance.statement(IMAGE, commit_of(1), MATERIALS, started=NOW, finished=NOW)


def certified(statement: Statement, key: PrivateKey) -> bytes:
    """A bundle with a certificate that is none."""
    value = json.loads(key.sign_statement(statement).content)
    value["verificationMaterial"] = {"certificate": {"rawBytes": base64.b64encode(b"x").decode()}}
    return json.dumps(value).encode()


def test_a_certificate_counts_for_nothing_where_no_identity_is_trusted(statement: Statement, key: PrivateKey) -> None:
    with pytest.raises(OtherKeyError, match="certificate"):
        verify.payload_of(certified(statement, key), {"ci": key.public})


def test_an_identity_is_no_key(statement: Statement, key: PrivateKey) -> None:
    with pytest.raises(OtherKeyError, match="another key"):
        verify.payload_of(key.sign_statement(statement).content, {"ci": WORKFLOW})


@pytest.mark.skipif(importlib.util.find_spec("sigstore") is not None, reason="sigstore-python is installed")
def test_the_missing_package_is_named_with_its_extra(statement: Statement, key: PrivateKey) -> None:
    with pytest.raises(ConfigError, match="sigstore-python") as caught:
        Keyless().sign_statement(statement)
    assert "vllm-ci[keyless]" in caught.value.remedy
    with pytest.raises(ConfigError, match="sigstore-python"):
        verify.payload_of(certified(statement, key), {"ci": WORKFLOW})


@pytest.mark.slow
@installed
def test_a_run_without_an_identity_says_how_to_get_one(statement: Statement, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "GITHUB_ACTIONS", "GITLAB_CI", "BUILDKITE", "SIGSTORE_ID_TOKEN", "CIRCLECI"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="has none"):
        Keyless().sign_statement(statement)


@installed
def test_a_forged_certificate_is_refused(statement: Statement, key: PrivateKey, tmp_path: Path) -> None:
    trust = tmp_path / "trust.json"
    trust.write_text("{}")
    with pytest.raises((ConfigError, MalformedError)):
        keyless.verify(certified(statement, key), {"ci": Identity(**{**vars(WORKFLOW), "trust": trust})})
