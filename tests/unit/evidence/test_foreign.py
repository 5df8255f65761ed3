"""Errors of key services and Sigstore, by their types: what a user has to do differs, and nothing comes raw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, Signature, Signer, SSlibKey  # type: ignore[attr-defined]

from registries.evidence import MATERIALS, NOW, commit_of
from vllm_ci.domain.errors import ConfigError, ErroredError, VllmCiError
from vllm_ci.domain.image import ImageRef
from vllm_ci.evidence import keyless, keys
from vllm_ci.evidence.foreign import translated
from vllm_ci.evidence.keyless import Identity, Keyless
from vllm_ci.evidence.predicates import provenance

IMAGE = ImageRef(repository="r.example.com/name", digest="sha256:" + "f" * 64)


def foreign(name: str, *above: type, **attributes: Any) -> Exception:
    """An error of a library that is not installed here, by the name of its type."""
    module, _, qualified = name.rpartition(".")
    kind = type(qualified, above or (Exception,), {"__module__": module, **attributes})
    error = kind("said the service")
    assert isinstance(error, Exception)
    return error


def answered(code: str) -> Exception:
    return foreign("botocore.exceptions.ClientError", response={"Error": {"Code": code}})


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (UnsupportedLibraryError("boto3 is needed"), ConfigError, "a package is missing"),
        (ImportError("no boto3"), ConfigError, "a package is missing"),
        (foreign("botocore.exceptions.NoCredentialsError"), ConfigError, "no valid credentials"),
        (foreign("google.auth.exceptions.DefaultCredentialsError", type(foreign("google.auth.exceptions.GoogleAuthError"))),
         ConfigError, "no valid credentials"),
        (answered("ExpiredTokenException"), ConfigError, "no valid credentials"),
        (answered("AccessDeniedException"), ConfigError, "the key service refused"),
        (foreign("hvac.exceptions.Forbidden"), ConfigError, "the key service refused"),
        (foreign("azure.core.exceptions.HttpResponseError", status_code=403), ConfigError, "the key service refused"),
        (answered("NotFoundException"), ConfigError, "no such key"),
        (foreign("azure.core.exceptions.HttpResponseError", status_code=404), ConfigError, "no such key"),
        (ConnectionRefusedError("x"), ErroredError, "cannot be reached"),
        (TimeoutError("x"), ErroredError, "cannot be reached"),
        (foreign("botocore.exceptions.EndpointConnectionError", type(foreign("botocore.exceptions.ConnectionError"))),
         ErroredError, "cannot be reached"),
        (foreign("google.api_core.exceptions.ServiceUnavailable", type(foreign("google.api_core.exceptions.ServerError"))),
         ErroredError, "cannot be reached"),
        (answered("ThrottlingException"), ErroredError, "cannot be reached"),
        (foreign("azure.core.exceptions.HttpResponseError", status_code=503), ErroredError, "cannot be reached"),
        (RuntimeError("signing failed"), ErroredError, "the key service failed"),
        (foreign("PyKCS11.PyKCS11Error"), ErroredError, "the key service failed"),
    ],
)  # fmt: skip
def test_an_error_of_another_library_is_told_as_ours(error: Exception, kind: type[VllmCiError], words: str) -> None:
    with pytest.raises(VllmCiError, match=words) as caught, translated("the key service", missing="install it"):
        raise error
    assert type(caught.value) is kind
    assert caught.value.remedy
    assert type(error).__name__ in caught.value.why
    assert caught.value.__cause__ is error


def test_what_caused_an_error_counts() -> None:
    with pytest.raises(ErroredError, match="cannot be reached"), translated("it", missing=""):
        raise RuntimeError("signing failed") from ConnectionResetError("reset")


def test_errors_of_ours_stay_as_they_are() -> None:
    mine = ConfigError("mine")
    with pytest.raises(ConfigError) as caught, translated("it", missing=""):
        raise mine
    assert caught.value is mine


class FailingSigner(Signer):
    """A key service that can be opened and does not sign."""

    error: Exception = RuntimeError()
    key: SSlibKey
    pin: str

    @classmethod
    def from_priv_key_uri(cls, priv_key_uri: str, public_key: Any, secrets_handler: Any = None) -> FailingSigner:  # noqa: ARG003
        signer = cls()
        signer.key = public_key
        signer.pin = secrets_handler("pin")
        return signer

    @property
    def public_key(self) -> SSlibKey:
        return self.key

    def sign(self, payload: bytes) -> Signature:  # noqa: ARG002
        raise self.error


@pytest.mark.parametrize(
    ("error", "kind"), [(answered("AccessDeniedException"), ConfigError), (ConnectionResetError("x"), ErroredError)]
)
def test_a_key_service_that_fails_while_signing_is_told_with_its_name(
    error: Exception, kind: type[VllmCiError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SIGNER_FOR_URI_SCHEME, "awskms", FailingSigner)
    monkeypatch.setattr(FailingSigner, "error", error)
    keys.generate(tmp_path)
    key = keys.load("awskms:one", public_key=tmp_path / keys.PUBLIC_NAME, environment={"VLLM_CI_KEY_PASSPHRASE": "1234"})
    assert vars(key.signer)["pin"] == "1234"
    statement = provenance.statement(IMAGE, commit_of(1), MATERIALS, started=NOW, finished=NOW)
    with pytest.raises(kind, match="the key service behind awskms:one"):
        key.sign_statement(statement)


class _Context:
    """Sigstore's, as far as we use it, with an error at the place that is asked for."""

    def __init__(self, place: str, error: Exception) -> None:
        self.place, self.error = place, error

    def at(self, place: str) -> Any:
        if place == self.place:
            raise self.error
        return self

    def detect_credential(self) -> Any:
        self.at("credential")
        return "token"

    def __getattr__(self, name: str) -> Any:
        if name in ("Error", "VerificationError"):
            return type(name, (Exception,), {})
        return lambda *_, **__: self.at(name)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("place", "error", "kind"),
    [
        (
            "credential",
            foreign("id.GitHubOidcPermissionCredentialError", type(foreign("id.AmbientCredentialError"))),
            ConfigError,
        ),
        ("IdentityToken", foreign("sigstore.oidc.ExpiredIdentity"), ConfigError),
        ("signer", foreign("requests.exceptions.ConnectionError", OSError), ErroredError),
        ("sign_dsse", foreign("sigstore._internal.rekor.client.RekorClientError"), ErroredError),
        ("sign_dsse", foreign("sigstore.sign.ExpiredCertificate"), ErroredError),
    ],
)
def test_keyless_signing_that_fails_is_told_as_ours(
    place: str, error: Exception, kind: type[VllmCiError], monkeypatch: pytest.MonkeyPatch
) -> None:
    sigstore = _Context(place, error)
    sigstore.SigningContext = sigstore.ClientTrustConfig = sigstore  # type: ignore[attr-defined]
    monkeypatch.setattr(keyless, "_sigstore", lambda: sigstore)
    statement = provenance.statement(IMAGE, commit_of(1), MATERIALS, started=NOW, finished=NOW)
    with pytest.raises(VllmCiError, match="keyless signing") as caught:
        Keyless().sign_statement(statement)
    assert type(caught.value) is kind


def test_a_list_of_trusted_keys_that_cannot_be_had_is_no_malformed_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    sigstore = _Context("production", foreign("sigstore.errors.TUFError"))
    sigstore.ClientTrustConfig = sigstore  # type: ignore[attr-defined]
    monkeypatch.setattr(keyless, "_sigstore", lambda: sigstore)
    with pytest.raises(ErroredError, match="cannot be reached") as caught:
        keyless.verify(b"{}", {"ci": Identity(name="ci", identity="i", issuer="u")})
    assert type(caught.value) is ErroredError
