"""vLLM's own files for a commit of vLLM, by the cheapest step that is provably right.

1. The release wheel, when the commit is the release.
2. A wheel of exactly this commit, from a wheel index or a folder.
3. Compiled files of a wheel whose compiled inputs are, by git's hashes, those of the commit; its other files over them.
4. A compile step in a container, whose wheel is kept under the hash of its inputs.

There is no fifth: old kernels never go under new sources.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import BuildError, ConfigError
from vllm_ci.domain.events import Emit
from vllm_ci.domain.image_spec import ImageSpec, VllmSource
from vllm_ci.images.lockfile import LockedWheel
from vllm_ci.images.store import Store, canonical
from vllm_ci.images.vllm import compiling
from vllm_ci.images.vllm.history import Change, History

if TYPE_CHECKING:
    from vllm_ci.images.vllm.commit_wheels import CommitWheels

_ANCESTORS = 30


@dataclass(frozen=True, kw_only=True)
class Step:
    """What was chosen.

    Attributes:
        number: Of the ladder.
        wheel: The wheel that goes into the image.
        base: Commit that the wheel was built from.
        changes: Files of the package to put over it, or to take away.
        explain: Which step and why, in one line.
    """

    number: int
    wheel: LockedWheel
    base: str
    changes: tuple[Change, ...] = ()
    explain: str = ""


def locked_wheel(spec: ImageSpec, vllm: VllmSource, wheels: Iterable[LockedWheel]) -> LockedWheel:
    """The locked wheel that the commit's files replace.

    Raises:
        ConfigError: The lock has none, or several.
    """
    names = {vllm.project} if vllm.project else None
    found = [
        wheel
        for wheel in wheels
        if (wheel.project in names if names else wheel.project == "vllm" or wheel.project.startswith("vllm-"))
    ]
    if len(found) != 1:
        raise ConfigError(
            f"the lock of spec {spec.name} has {len(found)} wheels that could be vLLM",
            remedy="name the project: image.vllm.project",
        )
    return found[0]


class Ladder:
    """Chooses a step for one platform."""

    def __init__(
        self,
        *,
        spec: ImageSpec,
        vllm: VllmSource,
        root: Path,
        commit: Commit,
        platform: str,
        wheels: tuple[LockedWheel, ...],
        store: Store,
        emit: Emit,
    ) -> None:
        self.spec, self.vllm, self.root, self.commit, self.platform = spec, vllm, root, commit, platform
        self.store, self.emit = store, emit
        self.locked = locked_wheel(spec, vllm, wheels)
        self.torch = next((wheel.version for wheel in wheels if wheel.project == "torch"), "")
        self.history = History(root=root, inputs=vllm.inputs)
        self.release = vllm.release or f"v{self.locked.version}"

    @cached_property
    def places(self) -> CommitWheels:
        """Places with wheels of commits."""
        from vllm_ci.images.vllm.commit_wheels import CommitWheels  # loads packaging, which most builds can do without

        return CommitWheels(spec=self.spec, vllm=self.vllm, platform=self.platform, store=self.store, locked=self.locked)

    def choose(self) -> Step:
        """The first step that is right.

        Raises:
            BuildError: None is: the commit has to be compiled, and nothing says how.
        """
        for step in self._steps():
            if step is not None:
                return step
        base = self.history.commit_of(self.release)
        changed = self.history.changed_inputs(base, self.commit) if base else ()
        raise BuildError(
            f"no wheel has the compiled files of {self.commit.short}",
            why=self._why_not(base, changed),
            remedy="add image.vllm.compile (a container builds the wheel), or name wheels of commits: image.vllm.wheels",
        )

    def _why_not(self, base: str, changed: tuple[str, ...]) -> str:
        if not base:
            return f"the release {self.release} is not in this clone (git fetch --tags would bring it)"
        shown = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
        return f"what is compiled has changed since {self.release}: {shown}"

    def _steps(self) -> Iterator[Step | None]:
        base = self.history.commit_of(self.release)
        if base == self.commit.sha and not self.commit.dirty:
            yield Step(number=1, wheel=self.locked, base=base, explain=f"the release wheel: {self.release} is this commit")
        if not self.commit.dirty:
            yield self._of_commit()
        if base:
            yield self._over(base, self.locked, f"{self.release}'s wheel")
        yield self._kept()
        yield self._of_ancestor()
        yield self._compiled()

    def _of_commit(self) -> Step | None:
        if not self.vllm.wheels:
            return None
        found = self.places.find(self.commit.sha)
        if found is None:
            return None
        return Step(number=2, wheel=found, base=self.commit.sha, explain=f"a wheel of exactly this commit: {found.filename}")

    def _over(self, base: str, wheel: LockedWheel, name: str) -> Step | None:
        if self.history.changed_inputs(base, self.commit):
            return None
        changes = tuple(self.history.changes(base, self.commit, f"{self.vllm.package}/"))
        same = self.history.inputs_hash(base)[:12]
        return Step(
            number=3,
            wheel=wheel,
            base=base,
            changes=changes,
            explain=f"compiled files of {name} (same compiled inputs, {same}), {len(changes)} files of the commit over it",
        )

    def _key(self, sha: str) -> str:
        """Under what a compiled wheel is kept: all that its machine code depends on."""
        arguments = dict(self.vllm.compile.arguments) if self.vllm.compile else {}
        facts = [self.history.inputs_hash(sha), self.platform, self.spec.python, self.torch, self.locked.project, arguments]
        return hashlib.sha256(canonical(facts)).hexdigest()

    def _kept(self) -> Step | None:
        """A wheel that an earlier commit with the same compiled inputs was compiled into."""
        record = self.store.record("compiled", self._key(self.commit.sha))
        if record is None or not self.history.commit_of(record["sha"]):
            return None
        wheel = LockedWheel(**{**record["wheel"], "platforms": (self.platform,)})
        return self._over(record["sha"], wheel, f"the wheel compiled for {record['sha'][:12]}")

    def _of_ancestor(self) -> Step | None:
        """A wheel of the nearest ancestor with the same compiled inputs."""
        if not self.vllm.wheels:
            return None
        nearest = (self.commit.sha,) if self.commit.dirty else ()
        for sha in (*nearest, *self.history.ancestors_with_same_inputs(self.commit.sha, _ANCESTORS)):
            if (wheel := self.places.find(sha)) is not None:
                return self._over(sha, wheel, f"the wheel of {sha[:12]}")
        return None

    def _compiled(self) -> Step | None:
        if self.vllm.compile is None:
            return None
        if self.commit.dirty:
            raise BuildError(
                "a dirty tree with changed compiled inputs cannot be built",
                why="a compiled wheel is kept under the hash of what was committed",
                remedy="commit the change, then build",
            )
        key = self._key(self.commit.sha)
        with self.store.lock(f"compile-{key}"):
            if (step := self._kept()) is not None:
                return step
            with compiling.compile_wheel(
                self.vllm.compile, root=self.root, sha=self.commit.sha, platform=self.platform, emit=self.emit
            ) as path:
                wheel = self.places.adopt(path)
            facts = {name: getattr(wheel, name) for name in ("project", "version", "filename", "sha256", "size_bytes")}
            self.store.keep("compiled", key, {"sha": self.commit.sha, "wheel": facts})
        return Step(number=4, wheel=wheel, base=self.commit.sha, explain=f"compiled in a container: {wheel.filename}")
