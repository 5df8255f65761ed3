"""in-toto statements (in-toto attestation framework, Statement v1; v0.1 is read, because cosign still writes it)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from vllm_ci.domain.commit import Commit
from vllm_ci.domain.image import ImageRef
from vllm_ci.evidence import strict
from vllm_ci.evidence.refusals import MalformedError, UnknownVersionError

STATEMENT = "https://in-toto.io/Statement/v1"
_READABLE = (STATEMENT, "https://in-toto.io/Statement/v0.1")

PROVENANCE = "https://slsa.dev/provenance/v1"
SBOM = "https://cyclonedx.org/bom"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
SCAN = "https://in-toto.io/attestation/vulns/v0.2"
DECISION = "https://in-toto.io/attestation/svr/v0.1"
SIGNATURE = "https://sigstore.dev/cosign/sign/v1"
PERFORMANCE = "tag:vllm-ci,2026:performance/v1"
EVALUATION = "tag:vllm-ci,2026:evaluation/v1"
MODEL_SIGNATURE = "https://model_signing/signature/v1.0"
KINDS = {
    PROVENANCE: "provenance",
    SBOM: "sbom",
    TEST_RESULT: "test result",
    PERFORMANCE: "performance",
    SCAN: "scan",
    DECISION: "decision",
    SIGNATURE: "signature",
    EVALUATION: "evaluation",
    MODEL_SIGNATURE: "model signature",
}
# What the types above begin with: the same predicate in a version that is not understood begins so too.
_FAMILIES = tuple(kind.rpartition("/")[0] + "/" for kind in KINDS if kind != SBOM)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a statement is about: a name and digests by algorithm."""

    name: str
    digest: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A claim about subjects.

    Attributes:
        subjects: Image (``sha256``) and commit (``gitCommit``).
        predicate_type: Says how to read ``predicate``.
        predicate: The claim.
    """

    subjects: tuple[Subject, ...]
    predicate_type: str
    predicate: Mapping[str, Any]

    @classmethod
    def about(cls, image: ImageRef, commit: Commit | None, predicate_type: str, predicate: Mapping[str, Any]) -> Statement:
        """A statement about an image, and about the commit it was made from."""
        subjects = [Subject(name=image.repository, digest={"sha256": image.digest.removeprefix("sha256:")})]
        if commit:
            subjects.append(Subject(name=f"git+{commit.source}" if commit.source else "git", digest={"gitCommit": commit.sha}))
        return cls(subjects=tuple(subjects), predicate_type=predicate_type, predicate=predicate)

    @classmethod
    def parse(cls, payload: bytes) -> Statement:
        """A statement from an envelope's payload.

        Raises:
            MalformedError: It is not a statement.
            UnknownVersionError: It is one of a version that is not understood.
        """
        value = strict.loads(payload, "the statement")
        kind = value.get("_type")
        if kind not in _READABLE:
            raise UnknownVersionError(
                f"the statement is of type {kind!r}, which is not supported", remedy=f"create it as {STATEMENT}"
            )
        try:
            subjects = tuple(
                Subject(name=str(each.get("name", "")), digest={str(key): str(text) for key, text in each["digest"].items()})
                for each in value["subject"]
            )
            predicate_type, predicate = value["predicateType"], value.get("predicate")
        except (LookupError, TypeError, AttributeError) as error:
            raise MalformedError("the statement lacks subject or predicateType") from error
        if not subjects or not isinstance(predicate_type, str) or not isinstance(predicate, dict):
            raise MalformedError("the statement lacks a subject, or its predicate is not an object")
        if predicate_type not in KINDS and predicate_type.startswith(_FAMILIES):
            raise UnknownVersionError(
                f"predicate {predicate_type} has an unsupported version",
                why=f"supported: {', '.join(KINDS)}",
                remedy="create it in one of those versions, or use a newer vllm-ci",
            )
        return cls(subjects=subjects, predicate_type=predicate_type, predicate=predicate)

    @property
    def payload(self) -> bytes:
        """Its bytes, as they are signed."""
        return strict.canonical(
            {
                "_type": STATEMENT,
                "subject": [{"name": each.name, "digest": dict(each.digest)} for each in self.subjects],
                "predicateType": self.predicate_type,
                "predicate": self.predicate,
            }
        )

    @property
    def kind(self) -> str:
        """Short name of its predicate type; the type itself when it is unknown."""
        return KINDS.get(self.predicate_type, self.predicate_type)

    @property
    def title(self) -> str:
        """Its kind, and of a test result the stage as well."""
        configuration = self.predicate.get("configuration")
        first = configuration[0] if isinstance(configuration, list) and configuration else None
        annotations = first.get("annotations") if isinstance(first, dict) else None
        stage = annotations.get("stage") if isinstance(annotations, dict) else None
        return f"{self.kind} of {stage}" if self.predicate_type == TEST_RESULT and stage else self.kind

    @property
    def images(self) -> tuple[Subject, ...]:
        """Subjects that are images (or other files)."""
        return tuple(each for each in self.subjects if "sha256" in each.digest)

    @property
    def commits(self) -> tuple[str, ...]:
        """Ids of the commits among its subjects."""
        return tuple(each.digest["gitCommit"] for each in self.subjects if "gitCommit" in each.digest)


def timestamp(moment: datetime) -> str:
    """RFC 3339, UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(text: object) -> datetime:
    """The moment an RFC 3339 timestamp means.

    Raises:
        MalformedError: It is not a timestamp, or has no time zone.
    """
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError as error:
        raise MalformedError(f"not a timestamp: {text!r}") from error
    if found.tzinfo is None:
        raise MalformedError(f"the timestamp {text!r} has no time zone")
    return found.astimezone(UTC)
