"""Section ``release:``: registry, ledger, signing keys, trusted signers, and the policy of each channel.

Modules for signing and verifying are imported only when needed, to keep unchanged builds fast.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from vllm_ci.config.section import Section
from vllm_ci.domain import overlay_path, refs
from vllm_ci.domain.report import Verdict

if TYPE_CHECKING:
    from vllm_ci.release.policy import Accepted, ScanRule
    from vllm_ci.release.setup import Channel


_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


def _day(value: Any) -> Any:
    """Accept only dates: pydantic would read a number as seconds since 1970."""
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        return value
    if not isinstance(value, str) or not _DAY.fullmatch(value):
        raise ValueError("write the date as YYYY-MM-DD, e.g. 2027-06-30")
    return value


def _pattern(value: str) -> str:
    if reason := refs.problem(value):
        raise ValueError(f"the pattern cannot match any branch or tag: {reason}")
    return value


def _overlay(value: str) -> str:
    return overlay_path.normalised(value) if value else value


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


_Verdicts = Annotated[
    list[Verdict],
    Field(min_length=1),
    BeforeValidator(_listed, json_schema_input_type=Verdict | Annotated[list[Verdict], Field(min_length=1)]),
]
# Upper limits that catch typing errors.
_MAX_SOAK_HOURS, _MAX_AGE_DAYS = 10 * 365 * 24, 100 * 365


class AcceptedConfig(Section):
    """A vulnerability that is accepted until a date."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$")]
    """Id of the vulnerability, or one of its aliases, e.g. `CVE-2026-1234`; not a pattern."""
    reason: Annotated[str, Field(min_length=1)]
    """Why it is accepted."""
    until: Annotated[dt.date, BeforeValidator(_day)]
    """Last day on which it is accepted, e.g. `2027-06-30`; afterwards it blocks the release again."""

    def domain(self) -> Accepted:
        """Convert to the policy's type."""
        from vllm_ci.release.policy import Accepted

        return Accepted(id=self.id, reason=self.reason, until=self.until)


class ScanConfig(Section):
    """Requirements on the vulnerability scan."""

    max_age_days: Annotated[float, Field(gt=0, le=_MAX_AGE_DAYS, allow_inf_nan=False)] = 30.0
    """Maximum age of the vulnerability data, in days."""
    fail_on: Literal["low", "medium", "high", "critical"] = "critical"
    """Lowest severity that blocks the release."""
    accept: list[AcceptedConfig] = Field(default_factory=list)
    """Vulnerabilities that do not block the release."""

    def domain(self) -> ScanRule:
        """Convert to the policy's type."""
        from vllm_ci.evidence.osv import Severity
        from vllm_ci.release.policy import ScanRule

        return ScanRule(
            max_age_days=self.max_age_days,
            fail_on=Severity.named(self.fail_on),
            accept=tuple(each.domain() for each in self.accept),
        )


class ChannelConfig(Section):
    """A release channel and its policy. Missing evidence blocks a release."""

    tests: dict[str, _Verdicts] | None = None
    """Accepted verdicts by stage, e.g. `streaming: passed`; by default every enabled stage must pass."""
    signers: Annotated[list[str], Field(min_length=1)] = Field(default_factory=list)
    """Signers whose evidence is accepted, by their names in `release.signers`; by default all of them."""
    approvals: list[str] = Field(default_factory=list)
    """Signers who must also have signed the image (`cosign sign`), by their names in `release.signers`."""
    refs: Annotated[list[Annotated[str, AfterValidator(_pattern)]], Field(min_length=1)] = Field(default_factory=list)
    """Branches (`main`, `release/*`) and tags (`refs/tags/v*`) that may be released; by default all. `**` matches slashes."""
    pull_requests: bool = False
    """Allow releases of images from runs for a pull or merge request."""
    sbom: bool = True
    """Require a software bill of materials (SBOM)."""
    scan: ScanConfig | None = None
    """Requirements on a vulnerability scan; by default no scan is required."""
    after: str = ""
    """Channel that the image must have been released to before."""
    soak_hours: Annotated[float, Field(ge=0, le=_MAX_SOAK_HOURS, allow_inf_nan=False)] = 0.0
    """How long it must have been there, in hours; needs `after`."""
    compared_with: str = ""
    """Channel whose current image must be the baseline of the `performance` result; usually the channel itself."""
    kustomization: Annotated[str, AfterValidator(_overlay)] = ""
    """Path of its kustomization in the ledger's branch, by default `deploy/CHANNEL/kustomization.yaml`; an existing
    `kustomization.yml` or `Kustomization` in the same folder is used instead."""

    def overlay(self, name: str) -> str:
        """Path of the kustomization of the channel ``name``."""
        return self.kustomization or f"deploy/{name}/kustomization.yaml"

    def domain(self, name: str, *, image: str, stages: Iterable[str]) -> Channel:
        """Convert to the type of the release code.

        Args:
            name: Name of the channel.
            image: Name of the image in kustomizations.
            stages: Stages that must pass if ``tests`` is not set.
        """
        from vllm_ci.release.policy import Policy
        from vllm_ci.release.setup import Channel

        wanted = {stage: [Verdict.PASSED] for stage in stages} if self.tests is None else self.tests
        policy = Policy(
            tests={stage: tuple(good) for stage, good in wanted.items()},
            signers=tuple(self.signers),
            approvals=tuple(self.approvals),
            refs=tuple(self.refs),
            pull_requests=self.pull_requests,
            sbom=self.sbom,
            scan=self.scan.domain() if self.scan else None,
            after=self.after,
            soak_hours=self.soak_hours,
            compared_with=self.compared_with,
        )
        return Channel(name=name, policy=policy, overlay=self.overlay(name), image=image)


class IdentityConfig(Section):
    """A signer with an OIDC identity instead of a key (keyless signing)."""

    identity: Annotated[str, Field(min_length=1)]
    """Subject of the certificate: a workflow's URL, or an e-mail address."""
    issuer: Annotated[str, Field(min_length=1)]
    """URL of the OIDC issuer of the identity."""


class LedgerConfig(Section):
    """The git branch that records every release."""

    repository: str = ""
    """URL or path of a git repository, or the name of a remote of this one (`origin`); by default `.vllm-ci/ledger.git`."""
    branch: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")] = "releases"
    """Name of the branch."""


def _channels() -> dict[str, ChannelConfig]:
    return {"staging": ChannelConfig(), "production": ChannelConfig(after="staging")}


class ReleaseConfig(Section):
    """Registry, ledger, signing keys, trusted signers, and the policy of each channel."""

    repository: str = ""
    """Repository that images are pushed to, e.g. `registry.example.com/team/name`; by default a folder, `.vllm-ci/registry`."""
    ledger: LedgerConfig = Field(default_factory=LedgerConfig)
    """The git branch that records every release."""
    key: str = ""
    """Signing key: a PEM file, `env:NAME`, the URI of a key service, or `keyless`; by default `.vllm-ci/keys/release.key`."""
    public_key: str = ""
    """PEM file of the public key; required with a key service."""
    trust_config: str = ""
    """For keyless signatures: file with a client trust configuration; by default the public Sigstore instance is used."""
    signers: dict[str, str | IdentityConfig] = Field(default_factory=dict)
    """Trusted signers: name to a PEM file of a public key or to an identity; by default the public key of the default `key`."""
    image_name: str = "vllm"
    """Name of the image entry in the kustomizations that releases update."""
    channels: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")], ChannelConfig] = Field(
        default_factory=_channels
    )
    """The release channels; by default `staging`, and `production` after it."""
