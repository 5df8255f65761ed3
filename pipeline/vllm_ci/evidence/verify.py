"""Verifies the statements that are attached to an image; each is accepted, or refused with a reason."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from vllm_ci.evidence import keyless, strict
from vllm_ci.evidence import statement as statements
from vllm_ci.evidence.attachment import Attached, attached
from vllm_ci.evidence.bundle import Bundle, Trusted
from vllm_ci.evidence.refusals import (
    AlteredImageError,
    FutureError,
    OtherCommitError,
    OtherImageError,
    OtherRepositoryError,
    Refusal,
)
from vllm_ci.evidence.statement import Statement, moment
from vllm_ci.registry.errors import DigestError
from vllm_ci.registry.manifest import Manifest
from vllm_ci.registry.repository import Repository

# Clocks of two machines may differ by this much.
_SKEW = timedelta(minutes=5)
_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What statements must be about.

    Attributes:
        digest: Of the image.
        commit: 40-hex id; empty accepts any, but all the same.
        repositories: Names a statement may have been made for.
    """

    digest: str
    commit: str = ""
    repositories: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A statement that was verified.

    Attributes:
        statement: It.
        signer: Name of the key that signed it.
        at: When it was made, as it says itself.
        digest: Of the manifest that holds it.
    """

    statement: Statement
    signer: str
    at: datetime
    digest: str

    @property
    def kind(self) -> str:
        """Short name of what it says."""
        return self.statement.kind


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that is attached to an image.

    Attributes:
        image: Its digest.
        evidence: What was verified.
        refused: What was not, by the digest of its manifest.
    """

    image: str
    evidence: tuple[Evidence, ...] = ()
    refused: Mapping[str, Refusal] = field(default_factory=dict)

    def of(self, predicate_type: str) -> tuple[Evidence, ...]:
        """Verified evidence of one type, oldest first."""
        return tuple(
            sorted(
                (each for each in self.evidence if each.statement.predicate_type == predicate_type), key=lambda each: each.at
            )
        )


def verify(
    repository: Repository, expected: Expected, trusted: Mapping[str, Trusted], *, now: datetime | None = None
) -> Findings:
    """Look at everything that is attached to an image.

    Args:
        repository: Where it is.
        expected: What statements must be about.
        trusted: Keys by the names of their owners.
        now: The present.

    Raises:
        NotFoundError: There is no such image.
        AlteredImageError: Its manifest or its config does not have its digest.
    """
    check_image(repository, expected.digest)
    return judge(attached(repository, expected.digest), expected, trusted, now=now or datetime.now(UTC))


def judge(found: Iterable[Attached], expected: Expected, trusted: Mapping[str, Trusted], *, now: datetime) -> Findings:
    """As :func:`verify`, for bundles that are at hand."""
    evidence: list[Evidence] = []
    refused: dict[str, Refusal] = {}
    for each in found:
        try:
            evidence.append(_verified(each, expected, trusted, now))
        except Refusal as refusal:
            refused[each.digest] = refusal
    return Findings(image=expected.digest, evidence=tuple(evidence), refused=refused)


def check_image(repository: Repository, digest: str, *, layers: bool = False) -> Manifest:
    """The image's manifest, after its bytes (and those of its config, and of its layers if asked) were checked.

    Raises:
        AlteredImageError: Some bytes are not what their digest says.
        NotFoundError: There is no such image.
    """
    try:
        manifest = repository.manifest(digest).require(digest, repository.name)
        for child in manifest.manifests:
            check_image(repository, child.digest, layers=layers)
        for blob in manifest.blobs if layers else manifest.blobs[:1]:
            _check_blob(repository, blob.digest)
    except DigestError as error:
        raise AlteredImageError(
            f"the image {repository.name}@{digest} was altered",
            why=error.message,
            remedy="push it again from where it was built",
        ) from error
    return manifest


def _check_blob(repository: Repository, digest: str) -> None:
    found = hashlib.sha256()
    for piece in repository.read_blob(digest):
        found.update(piece)
    if found.hexdigest() != digest.removeprefix("sha256:"):
        raise DigestError(f"blob {digest} has bytes of sha256:{found.hexdigest()}")


def _verified(found: Attached, expected: Expected, trusted: Mapping[str, Trusted], now: datetime) -> Evidence:
    payload, signer = payload_of(found.bundle, trusted)
    statement = Statement.parse(payload)
    _about(statement, expected)
    at = made_at(statement)
    if at > now + _SKEW:
        raise FutureError(
            f"the {statement.kind} is dated {at:%Y-%m-%d %H:%M} UTC, which is yet to come", remedy="check the clocks"
        )
    return Evidence(statement=statement, signer=signer, at=at, digest=found.digest)


def _about(statement: Statement, expected: Expected) -> None:
    wanted = expected.digest.removeprefix("sha256:")
    images = [each for each in statement.images if each.digest["sha256"] == wanted]
    if not images:
        found = ", ".join("sha256:" + each.digest["sha256"][:12] for each in statement.images) or "no image"
        raise OtherImageError(f"the {statement.kind} is about another image: {found}, expected {expected.digest[:19]}")
    if expected.commit and any(commit != expected.commit for commit in statement.commits):
        raise OtherCommitError(
            f"the {statement.kind} is about commit {statement.commits[0][:12]}, expected {expected.commit[:12]}",
            remedy="build, test and publish that commit",
        )
    # cosign's own signatures name no repository, and claim nothing but the digest.
    names = {each.name for each in images if each.name}
    unnamed_allowed = statement.predicate_type == statements.SIGNATURE
    if expected.repositories and not names & set(expected.repositories) and not (unnamed_allowed and not names):
        raise OtherRepositoryError(
            f"the {statement.kind} was made for {', '.join(sorted(names)) or 'no repository'}, and is replayed here",
            why=f"expected: {', '.join(expected.repositories)}",
            remedy="test and sign in the repository that is released from",
        )


def made_at(statement: Statement) -> datetime:
    """When a statement says it was made; the beginning of time when it does not say.

    Raises:
        MalformedError: It says so in no readable way.
    """
    predicate = statement.predicate
    paths = {
        statements.PROVENANCE: ("runDetails", "metadata", "finishedOn"),
        statements.SBOM: ("metadata", "timestamp"),
        statements.SCAN: ("metadata", "scanFinishedOn"),
        statements.DECISION: ("timeCreated",),
        statements.PERFORMANCE: ("finishedAt",),
        statements.EVALUATION: ("finishedAt",),
    }
    value: object = predicate
    if statement.predicate_type == statements.TEST_RESULT:
        configuration = predicate.get("configuration") or [{}]
        value = ((configuration[0] if isinstance(configuration[0], dict) else {}).get("annotations") or {}).get("finishedAt")
    else:
        for key in paths.get(statement.predicate_type, ("timestamp",)):
            value = value.get(key) if isinstance(value, dict) else None
    return moment(value) if value else _EPOCH


def payload_of(content: bytes, trusted: Mapping[str, Trusted]) -> tuple[bytes, str]:
    """Payload of a bundle, and the name of its signer.

    Raises:
        Refusal: It is not a bundle, or no trusted identity signed it.
    """
    material = strict.loads(content, "the bundle").get("verificationMaterial")
    if isinstance(material, dict) and ("certificate" in material or "x509CertificateChain" in material):
        identities = {name: each for name, each in trusted.items() if isinstance(each, keyless.Identity)}
        return keyless.verify(content, identities)
    bundle = Bundle.parse(content)
    return bundle.payload, bundle.signer(trusted)
