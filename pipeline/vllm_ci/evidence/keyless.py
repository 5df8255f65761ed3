"""Keyless signatures: a short-lived certificate for an OIDC identity, and an entry in a transparency log (sigstore-python).

The package is the extra ``keyless``. By default the public Sigstore instance is used, whose addresses sigstore-python knows; a
client trust configuration (sigstore ``protobuf-specs``) in a file names another one, and needs no network to verify.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from vllm_ci.domain.errors import ConfigError
from vllm_ci.evidence.foreign import translated
from vllm_ci.evidence.refusals import AlteredPayloadError, MalformedError, OtherKeyError
from vllm_ci.evidence.statement import Statement

_INSTALL = "pip install 'vllm-ci[keyless]', or use a key"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """An identity that signs without a key of its own.

    Attributes:
        name: As a policy calls them.
        identity: Subject of the certificate: a workflow's URL, or an e-mail address.
        issuer: URL of the OIDC issuer that vouches for it.
        trust: File with a client trust configuration; ``None`` for the public instance.
    """

    name: str
    identity: str
    issuer: str
    trust: Path | None = None

    @property
    def hint(self) -> str:
        """No key, no hint."""
        return ""

    def verifies(self, _signature: bytes, _content: bytes) -> bool:
        """No key, no signature by one."""
        return False


@dataclass(frozen=True, kw_only=True)
class Certified:
    """A payload that was signed by a certificate, and its bundle."""

    payload: bytes
    content: bytes


@dataclass(frozen=True, kw_only=True)
class Keyless:
    """Signs with the identity of the CI run.

    Attributes:
        trust: As of :class:`Identity`.
    """

    trust: Path | None = None

    def sign_statement(self, statement: Statement) -> Certified:
        """A statement, signed and logged.

        Raises:
            ConfigError: sigstore-python is not installed, or the run has no OIDC identity.
            ErroredError: The certificate authority or the log cannot be reached.
        """
        sigstore = _sigstore()
        with translated("keyless signing", missing=_INSTALL):
            token = sigstore.detect_credential()
            if not token:
                raise ConfigError(
                    "keyless signing needs an OIDC identity, and this run has none",
                    why="the CI provider offers none, or the job is not permitted to request one",
                    remedy="give the job the permission (GitHub: permissions: id-token: write), or sign with a key",
                )
            context = sigstore.SigningContext.from_trust_config(_trust(sigstore, self.trust))
            with context.signer(sigstore.IdentityToken(token)) as signer:
                bundle = signer.sign_dsse(sigstore.Statement(statement.payload))
        return Certified(payload=statement.payload, content=bundle.to_json().encode())


def verify(content: bytes, identities: Mapping[str, Identity]) -> tuple[bytes, str]:
    """Payload of a bundle with a certificate, and the name of the identity that signed it.

    Raises:
        OtherKeyError: None of the identities did.
        AlteredPayloadError: One did, and the bundle was altered.
        MalformedError: It is not such a bundle.
        ConfigError: sigstore-python is not installed, or a trust configuration cannot be read.
        ErroredError: The public instance's list of trusted keys cannot be fetched.
    """
    if not identities:
        raise OtherKeyError(
            "signed by a certificate (keyless), not by a key",
            why="no trusted identity is configured",
            remedy="add the identity to release.signers, or sign with a trusted key",
        )
    sigstore = _sigstore()
    reasons = []
    for name, each in identities.items():
        # A fault in the trust configuration says nothing about the bundle.
        trust = _trust(sigstore, each.trust)
        try:
            bundle = sigstore.Bundle.from_json(content)
            verifier = sigstore.Verifier(trusted_root=trust.trusted_root)
            policy = sigstore.Identity(identity=each.identity, issuer=each.issuer)
            kind, payload = verifier.verify_dsse(bundle, policy)
        except sigstore.VerificationError as error:
            reasons.append(f"{name}: {error}")
            continue
        except (sigstore.Error, ValueError) as error:
            raise MalformedError("the bundle cannot be read", why=str(error)) from error
        if kind != _PAYLOAD_TYPE:
            raise AlteredPayloadError(f"a payload of type {kind!r} is not supported")
        return payload, name
    raise OtherKeyError(
        "no trusted identity signed this bundle", why="; ".join(reasons), remedy="add the identity to release.signers"
    )


def _trust(sigstore: Any, file: Path | None) -> Any:
    if file is None:
        with translated("the public Sigstore instance", missing=_INSTALL):
            return sigstore.ClientTrustConfig.production()
    try:
        return sigstore.ClientTrustConfig.from_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, sigstore.Error) as error:
        raise ConfigError(f"{file} is not a trust configuration: {error}", remedy="see sigstore's ClientTrustConfig") from error


class _Library:
    """What is used of sigstore-python 4, in one place."""

    _USED: ClassVar = {
        "Statement": "sigstore.dsse:Statement",
        "Error": "sigstore.errors:Error",
        "VerificationError": "sigstore.errors:VerificationError",
        "Bundle": "sigstore.models:Bundle",
        "ClientTrustConfig": "sigstore.models:ClientTrustConfig",
        "IdentityToken": "sigstore.oidc:IdentityToken",
        "detect_credential": "sigstore.oidc:detect_credential",
        "SigningContext": "sigstore.sign:SigningContext",
        "Verifier": "sigstore.verify:Verifier",
        "Identity": "sigstore.verify.policy:Identity",
    }

    def __init__(self) -> None:
        for name, place in self._USED.items():
            module, _, attribute = place.partition(":")
            setattr(self, name, getattr(importlib.import_module(module), attribute))


def _sigstore() -> Any:
    try:
        return _Library()
    except ImportError as error:
        raise ConfigError("keyless signatures need sigstore-python", why=str(error), remedy=_INSTALL) from error
