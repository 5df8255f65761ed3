"""A whole release set-up in a folder: key, repository, ledger, channels, and images to publish."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from registries.evidence import MATERIALS, NOW, commit_of, report_of
from registries.images import small_image
from vllm_ci.domain.commit import Commit
from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.report import Verdict
from vllm_ci.evidence import keys
from vllm_ci.evidence.keys import PublicKey
from vllm_ci.registry.access import Access
from vllm_ci.release.candidate import Candidate, ReportFile
from vllm_ci.release.ledger import Ledger
from vllm_ci.release.policy import Policy
from vllm_ci.release.setup import Channel, Setup

STAGES = ("unit", "integration", "streaming", "security")
TESTS: Mapping[str, tuple[Verdict, ...]] = dict.fromkeys(STAGES, (Verdict.PASSED,))
STAGING = Policy(tests=TESTS)
PRODUCTION = Policy(tests=TESTS, refs=("main", "release/*"), after="staging")


@dataclass(frozen=True, kw_only=True)
class World:
    """A folder with everything."""

    folder: Path
    setup: Setup

    def candidate(
        self,
        number: int,
        *,
        verdicts: Mapping[str, Verdict] | None = None,
        at: datetime = NOW,
        osv: Path | None = None,
        commit: Commit | None = None,
        entry_point: tuple[str, ...] = (),
    ) -> Candidate:
        """The image of commit `number`, built and tested."""
        commit = commit or commit_of(number)
        layout, manifest = small_image(
            self.folder / "built", seed=number, labels={"revision": commit.sha}, entry_point=entry_point
        )
        image = ImageRef(repository="cpu", digest=manifest.digest, tags=(f"{commit.sha}-cpu",))
        report = report_of(commit, image, verdicts, at=at)
        return Candidate(
            commit=commit,
            image=image,
            layout=layout,
            tested=(ReportFile(report=report, ctrf=b"{}"),),
            materials=MATERIALS,
            osv=osv,
        )

    def with_policies(self, **policies: Policy) -> World:
        channels = {
            name: Channel(name=name, policy=policy, overlay=f"deploy/{name}/kustomization.yaml")
            for name, policy in policies.items()
        }
        return dataclasses.replace(self, setup=dataclasses.replace(self.setup, channels={**self.setup.channels, **channels}))


def world_in(folder: Path, *, repository: str = "", access: Access | None = None, ledger: str = "") -> World:
    """A set-up in `folder`; made again, it is the same one."""
    if not (folder / "keys/release.key").exists():
        keys.generate(folder / "keys")
    setup = Setup(
        repository=repository or f"oci:{folder / 'registry'}",
        subject=repository or "localhost/project",
        ledger=Ledger(ledger or str(folder / "ledger.git")),
        channels={},
        signers={"ci": PublicKey.read("ci", folder / "keys/release.pub")},
        key=lambda: keys.load(str(folder / "keys/release.key"), environment={}),
        access=access or Access(),
    )
    return World(folder=folder, setup=setup).with_policies(staging=STAGING, production=PRODUCTION)


def tree_hash(folder: Path) -> str:
    """Hash of all files below a folder, for "nothing was changed"."""
    digest = hashlib.sha256()
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
