"""The release settings of a configuration, for the command line and other callers.

    found = releases.of(loaded)
    candidate = found.candidate(commit)
    moved = publish(found.setup, candidate, "staging")

Commands are functions of :mod:`vllm_ci.release` that take a :class:`~vllm_ci.release.setup.Setup`: ``publish``, ``promote``,
``rollback``, ``prune``, ``past`` (history), ``verify``, ``explain`` (policy). Their results have a ``to_json``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vllm_ci.config.load import Loaded
from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import ConfigError
from vllm_ci.evidence import keys
from vllm_ci.evidence.bundle import Signer, Trusted
from vllm_ci.evidence.keyless import Identity, Keyless
from vllm_ci.evidence.keys import PRIVATE_NAME, PUBLIC_NAME, PublicKey
from vllm_ci.evidence.materials import materials
from vllm_ci.images import materials as built
from vllm_ci.images.store import Store
from vllm_ci.registry.access import Access
from vllm_ci.registry.layout import Layout
from vllm_ci.release import candidate
from vllm_ci.release.candidate import Candidate
from vllm_ci.release.ledger import Ledger
from vllm_ci.release.setup import Setup
from vllm_ci.report import files
from vllm_ci.system import vcs

STATE = ".vllm-ci"


@dataclass(frozen=True, kw_only=True)
class Releases:
    """The release settings of a project.

    Attributes:
        loaded: The configuration.
        setup: Its release settings.
        state: Local directory for everything that is not configured elsewhere.
        embedded: No registry is configured: everything is kept in that directory.
    """

    loaded: Loaded
    setup: Setup
    state: Path
    embedded: bool

    def candidate(
        self,
        commit: Commit,
        reports: Sequence[Path] = (),
        *,
        osv: Path | None = None,
        scanner: Path | None = None,
        run: str = "",
    ) -> Candidate:
        """What to publish for a commit.

        Args:
            commit: The commit.
            reports: Directories of runs; by default all runs of the commit in the report directory. If there are none, the
                image with the commit's tag in the repository is used.
            osv: OSV data to scan with.
            scanner: Report of another scanner.
            run: URL or id of the CI run.

        Raises:
            BuildError: The materials of the image were not recorded.
            ConfigError: A report cannot be read.
            UsageError: The commit has no report and was never published.
        """
        folder = self.loaded.folder / self.loaded.config.report.directory
        found = [files.read(path) for path in reports] or [each for each in files.read_all(folder) if each.is_of(commit)]
        if not found:
            return candidate.published(commit, self.setup)
        store = Store()
        chosen = candidate.tested(commit, found, layout=Layout(store.layout))
        made = materials(built.read(store, chosen.image.digest))
        return replace(chosen, materials=made, osv=osv, scanner=scanner, run=run)

    def with_local_key(self, folder: Path | None = None, *, note: Callable[[str], None] = lambda _: None) -> Releases:
        """The same, with a new key if no registry and no key are configured.

        Args:
            folder: Directory for the key; by default in the state directory.
            note: Called with a message when a key was created in the state directory.
        """
        section = self.loaded.config.release
        place = folder or self.state / "keys"
        if not self.embedded or section.key or section.signers or (place / PRIVATE_NAME).exists():
            return self
        if folder is None:
            keep_out_of_git(self.state)
            note(f"created a signing key: {place / PRIVATE_NAME}")
        public = keys.generate(place)
        setup = replace(
            self.setup,
            signers={"release": public},
            key=lambda: keys.load(str(place / PRIVATE_NAME), environment={}),
        )
        return replace(self, setup=setup)


def of(loaded: Loaded) -> Releases:
    """Read the release settings of a configuration: registry, ledger, channels, trusted signers, key.

    Raises:
        ConfigError: A trusted key cannot be read, or the ledger's repository is unknown.
    """
    section = loaded.config.release
    state = loaded.folder.resolve() / STATE
    stages = loaded.config.stages.enabled()
    channels = {name: each.domain(name, image=section.image_name, stages=stages) for name, each in section.channels.items()}
    setup = Setup(
        repository=section.repository or f"oci:{state / 'registry'}",
        subject=section.repository or f"localhost/{loaded.name}",
        # Only a configured path may be created: a remote that is missing is unreachable, not empty.
        ledger=Ledger(_ledger(loaded, state), section.ledger.branch, create=not _remote(loaded)),
        channels=channels,
        signers=_signers(loaded, state),
        key=lambda: _key(loaded, state),
        access=Access.from_environment().pushing_to(section.repository),
    )
    return Releases(loaded=loaded, setup=setup, state=state, embedded=not section.repository)


def keep_out_of_git(state: Path) -> None:
    """Create the state directory, and make git ignore it: it contains keys."""
    state.mkdir(exist_ok=True)
    if not (state / ".gitignore").exists():
        (state / ".gitignore").write_text("*\n", encoding="utf-8")


def _ledger(loaded: Loaded, state: Path) -> str:
    """URL or absolute path of the ledger's repository."""
    named = loaded.config.release.ledger.repository
    if not named:
        return str(state / "ledger.git")
    if "://" in named or ":" in named.partition("/")[0]:
        return named
    if _remote(loaded):
        try:
            url = vcs.git("remote", "get-url", named, cwd=loaded.folder).decode().strip()
        except vcs.GitError as error:
            raise ConfigError(
                f"release.ledger.repository: {named} is not a remote, path or URL", remedy="see git remote -v, or write the URL"
            ) from error
        return url if "://" in url or ":" in url.partition("/")[0] else str((loaded.folder / url).resolve())
    return str((loaded.folder / named).resolve())


def _remote(loaded: Loaded) -> bool:
    """Whether the ledger's repository is a remote of the project's repository."""
    named = loaded.config.release.ledger.repository
    return bool(named) and "/" not in named and ":" not in named and not (loaded.folder / named).exists()


def _signers(loaded: Loaded, state: Path) -> dict[str, Trusted]:
    section = loaded.config.release
    own = state / "keys" / PUBLIC_NAME
    if not section.signers:
        return {"release": PublicKey.read("release", own)} if own.exists() else {}
    found: dict[str, Trusted] = {}
    for name, each in section.signers.items():
        if isinstance(each, str):
            found[name] = PublicKey.read(name, loaded.folder / each)
        else:
            found[name] = Identity(name=name, identity=each.identity, issuer=each.issuer, trust=_trust(loaded))
    return found


def _key(loaded: Loaded, state: Path) -> Signer:
    section = loaded.config.release
    public = loaded.folder / section.public_key if section.public_key else None
    if section.key == "keyless":
        return Keyless(trust=_trust(loaded))
    if not section.key:
        return keys.load(str(state / "keys" / PRIVATE_NAME), public_key=public)
    if section.key.partition(":")[0] in ("env", *keys.SERVICES):
        return keys.load(section.key, public_key=public)
    return keys.load(str(loaded.folder / section.key), public_key=public)


def _trust(loaded: Loaded) -> Path | None:
    named = loaded.config.release.trust_config
    return loaded.folder / named if named else None
