"""How an image came about (SLSA provenance v1)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from vllm_ci import __version__
from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import FailedError
from vllm_ci.domain.image import ImageRef
from vllm_ci.evidence.materials import Materials
from vllm_ci.evidence.refusals import MalformedError
from vllm_ci.evidence.statement import PROVENANCE, Statement, timestamp

BUILD_TYPE = "tag:vllm-ci,2026:build/v1"
_BUILDER = "tag:vllm-ci,2026:builder"


def statement(
    image: ImageRef,
    commit: Commit,
    materials: Materials,
    *,
    started: datetime,
    finished: datetime,
    run: str = "",
    builder: str = "",
) -> Statement:
    """The statement.

    Args:
        image: What was built.
        commit: From what.
        materials: Of what.
        started: When.
        finished: Until when.
        run: URL or id of the CI run.
        builder: URI of who built it; by default this tool on an unnamed machine.

    Raises:
        FailedError: The commit is dirty: the image cannot be built again.
    """
    if commit.dirty:
        raise FailedError(
            f"the image of {commit.short} was built from a dirty work tree",
            why="the image holds changes that are in no commit, so it cannot be built again",
            remedy="commit your changes, then build, test and publish that commit",
        )
    source = f"git+{commit.source}" if commit.source else "git"
    definition = {
        "buildType": BUILD_TYPE,
        "externalParameters": {"source": source, "ref": commit.ref, "pullRequest": commit.pull_request, **materials.parameters},
        "internalParameters": {"dirty": commit.dirty},
        "resolvedDependencies": [
            {"uri": f"{source}@{commit.ref or commit.sha}", "digest": {"gitCommit": commit.sha}},
            *({"name": name, "digest": {"sha256": digest}} for name, digest in sorted(materials.locks.items())),
            *({"uri": each.purl, "digest": {"sha256": each.sha256}} for each in materials.packages),
            *_base(materials.base),
        ],
    }
    details = {
        "builder": {"id": builder or _BUILDER, "version": {"vllm-ci": __version__}},
        "metadata": {"invocationId": run, "startedOn": timestamp(started), "finishedOn": timestamp(finished)},
    }
    return Statement.about(image, commit, PROVENANCE, {"buildDefinition": definition, "runDetails": details})


def commit_of(found: Statement) -> Commit:
    """The commit that a provenance of ours names.

    Raises:
        MalformedError: It names none.
    """
    try:
        definition: Mapping[str, Any] = found.predicate["buildDefinition"]
        external = definition["externalParameters"]
        dependency = next(each for each in definition["resolvedDependencies"] if "gitCommit" in each.get("digest", {}))
        return Commit(
            sha=dependency["digest"]["gitCommit"],
            ref=str(external.get("ref", "")),
            pull_request=str(external.get("pullRequest", "")),
            # A missing value counts as dirty.
            dirty=definition.get("internalParameters", {}).get("dirty") is not False,
            source=str(external.get("source", "")).removeprefix("git+"),
        )
    except (LookupError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise MalformedError("the provenance names no commit", remedy="publish the image again") from error


def _base(base: str) -> list[dict[str, Any]]:
    name, _, digest = base.partition("@sha256:")
    return [{"uri": f"oci:{name}", "digest": {"sha256": digest}}] if digest else []
