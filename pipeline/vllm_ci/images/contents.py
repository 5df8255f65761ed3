"""What the layers of one image are made of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import ConfigError
from vllm_ci.domain.events import Emit
from vllm_ci.domain.image_spec import Files, ImageSpec, Overlay
from vllm_ci.images import bytecode, conflicts, layer, overlay, plan, supply
from vllm_ci.images.bytecode import Bytecode
from vllm_ci.images.debian import base
from vllm_ci.images.entries import Entry, Inline, read
from vllm_ci.images.interpreter import Compilers
from vllm_ci.images.lockfile import LockedDeb, LockedWheel, read_debs, read_wheels
from vllm_ci.images.overlay import Blob
from vllm_ci.images.plan import LayerPlan, Made
from vllm_ci.images.store import Store, canonical
from vllm_ci.images.vllm import delta
from vllm_ci.images.vllm.history import History
from vllm_ci.images.vllm.ladder import Ladder, Step
from vllm_ci.images.wheels import wheel
from vllm_ci.images.wheels.wheel import Environment, Wheel, belongs
from vllm_ci.system import vcs


class Contents:
    """The layers of the image of one commit for one platform."""

    def __init__(
        self,
        *,
        source: Path,
        commit: Commit,
        spec: ImageSpec,
        platform: str,
        store: Store,
        threads: int,
        compilers: Callable[[], Compilers],
        emit: Emit,
    ) -> None:
        self.source, self.commit, self.spec, self.platform = source, commit, spec, platform
        self.store, self.emit = store, emit
        self.environment = Environment(prefix=spec.prefix, python=spec.python)
        self.debs = debs_for(spec, platform)
        self._locked = tuple(wheel for wheel in read_wheels(spec.wheels_lock, spec.platforms) if platform in wheel.platforms)
        self.bytecode = Bytecode(
            store=store,
            python=spec.python,
            key=bytecode.key(interpreter_of(spec, self.debs)),
            compilers=compilers,
            threads=threads,
        )

    @cached_property
    def checkout(self) -> Path:
        """Top folder of the repository."""
        return vcs.root(self.source)

    @cached_property
    def step(self) -> Step | None:
        """How vLLM's own files are obtained, when the repository is vLLM."""
        vllm = self.spec.vllm
        if vllm is None:
            return None
        step = Ladder(
            spec=self.spec,
            vllm=vllm,
            root=self.checkout,
            commit=self.commit,
            platform=self.platform,
            wheels=self._locked,
            store=self.store,
            emit=self.emit,
        ).choose()
        if vllm.requirements:
            self._check_requirements(vllm.requirements)
        return step

    def _check_requirements(self, names: tuple[str, ...]) -> None:
        from vllm_ci.images import requirements  # packaging's parser takes as long to load as an unchanged build has left

        wanted = requirements.of_files(self.checkout, self.commit.sha, names)
        whose = f"commit {self.commit.short}"
        requirements.check(wanted, spec=self.spec, wheels=self._locked, platform=self.platform, whose=whose)

    @cached_property
    def wheels(self) -> tuple[LockedWheel, ...]:
        """The wheels of the image."""
        if self.step is None:
            return self._locked
        return tuple(self.step.wheel if wheel.project == self.step.wheel.project else wheel for wheel in self._locked)

    def explain(self) -> tuple[str, ...]:
        """How vLLM's own files are obtained, for messages."""
        return (f"vllm ({self.platform}): step {self.step.number}, {self.step.explain}",) if self.step else ()

    def plans(self) -> list[LayerPlan]:
        """All layers, lowest first."""
        return [
            *([] if self.spec.base.image else [self._base()]),
            self._settings(),
            *(self._wheels(tier.files, name, group) for tier, name, group in plan.deal(self.spec, self.wheels)),
            *self._commit(),
            self._metadata(),
        ]

    def _common(self) -> dict[str, Any]:
        return {"layer": layer.facts(self.spec.compression)}

    def _base(self) -> LayerPlan:
        spec, debs = self.spec, self.debs

        def make() -> Made:
            tree = base.root(self.store, debs, spec.base, emit=self.emit)
            entries = list(base.entries(tree))
            name = f"debian-{base.key(debs, spec.base)}"
            compiled = self.bytecode.of_pack(name, [entry for entry in entries if entry.path.startswith("usr/lib/python3")])
            return Made(entries=entries + compiled, files={"debian": _digests(entries)})

        inputs = {**self._common(), "recipe": base.key(debs, spec.base), "python": self.bytecode.key}
        inputs["debs"] = {deb.name: f"{deb.version} {deb.sha256}" for deb in debs}
        what = f"{len(debs)} Debian packages of {spec.base.suite}"
        return LayerPlan(tier="base", inputs=inputs, make=make, explain=what, whose=lambda _: "the Debian packages of the base")

    def _settings(self) -> LayerPlan:
        entries = list(base.settings(self.spec))
        files = _digests(entries)
        facts = [[entry.path, entry.mode, entry.link, files.get(entry.path, "")] for entry in entries]
        return LayerPlan(
            tier="environment",
            inputs={**self._common(), "entries": facts},
            make=lambda: Made(entries=entries, files={"settings": files}),
            explain="user, writable folders, interpreter links",
            whose=conflicts.owners(base.names(self.spec)),
        )

    def _wheels(self, files: Files, name: str, group: tuple[LockedWheel, ...]) -> LayerPlan:
        spec, prefix = self.spec, hashlib.sha256(self.spec.prefix.encode()).hexdigest()[:8]

        def make() -> Made:
            found: list[tuple[str, Entry, str]] = []
            compiled: list[Entry] = []
            for locked in group:
                mine = [
                    (entry, digest)
                    for entry, digest in self._wheel(locked).files()
                    if belongs(entry, files) and not plan.loses(entry.path, locked.project, spec.winners)
                ]
                found += [(locked.project, entry, digest or _digest(entry)) for entry, digest in mine]
                sources = [entry for entry, _ in mine if entry.path.startswith(self.environment.site_packages)]
                compiled += self.bytecode.of_pack(f"{locked.sha256[:32]}-{files}-{prefix}", sources)
            entries, owned = plan.united(found)
            return Made(entries=entries + plan.added(entries, compiled), files=owned)

        inputs = {
            **self._common(),
            "environment": [spec.prefix, spec.python],
            "rules": wheel.RULES,
            "python": self.bytecode.key,
            "files": str(files),
            "winners": dict(spec.winners),
            "wheels": {wheel.project: f"{wheel.version} {wheel.sha256}" for wheel in group},
        }
        what = f"{len(group)} wheels" if len(group) != 1 else f"{group[0].project} {group[0].version}"
        return LayerPlan(tier=name, inputs=inputs, make=make, wheels=group, explain=what)

    def _wheel(self, locked: LockedWheel) -> Wheel:
        return Wheel(supply.wheel_path(self.store, locked), self.environment, project=locked.project)

    def _commit(self) -> Iterator[LayerPlan]:
        """One layer with all files of the commit: a difference to the image without them, never to an earlier commit."""
        brought = [(blob, item) for item in self.spec.overlays for blob in overlay.blobs(self.source, self.commit, item)]
        found = {blob.target: blob for blob, _ in brought}
        changed: tuple[Blob, ...] = ()
        deleted: tuple[str, ...] = ()
        folders: tuple[str, ...] = ()
        wheels: tuple[LockedWheel, ...] = ()
        if self.step is not None:
            changed, deleted, folders = self._delta(self.step)
            changed = tuple(blob for blob in changed if blob.target not in found)
            wheels = (self.step.wheel,) if deleted else ()
        if not found and not changed and not deleted:
            return
        blobs = [found[target] for target in sorted(found)]
        python = self.spec.python
        of_file = {blob.target: _named(item) for blob, item in brought}
        near = conflicts.owners([("", "vllm of this commit"), *((item.target, _named(item)) for item in self.spec.overlays)])

        def whose(path: str) -> str:
            return of_file.get(path) or near(path)

        def make() -> Made:
            entries = overlay.entries(self.source, self.commit, blobs)
            entries += overlay.entries(self.checkout, self.commit, changed) if changed else []
            conflicts.check_one([(entry, whose(entry.path)) for entry in entries], error=ConfigError)
            compiled = self.bytecode.of_files(entries)
            taken = delta.whiteouts(deleted, folders, python) + delta.stale(entries, compiled, python)
            files = {**_digests(entries), **dict.fromkeys(deleted, "")}
            return Made(entries=entries + compiled + taken, files={"commit": files})

        inputs = {
            **self._common(),
            "python": self.bytecode.key,
            "files": {blob.target: f"{blob.mode} {blob.identity}" for blob in (*blobs, *changed)},
            "deleted": list(deleted),
            "rules": overlay.RULES,
        }
        what = f"{len(blobs) + len(changed)} files of {self.commit.short}" + (f", {len(deleted)} deleted" if deleted else "")
        yield LayerPlan(tier="commit", inputs=inputs, make=make, wheels=wheels, explain=what, whose=whose)

    def _delta(self, step: Step) -> tuple[tuple[Blob, ...], tuple[str, ...], tuple[str, ...]]:
        """Changed files of vLLM, what is gone, and which of that are folders."""
        assert self.spec.vllm is not None  # noqa: S101
        history = History(root=self.checkout, inputs=self.spec.vllm.inputs)
        package, site = f"{self.spec.vllm.package}/", self.environment.site_packages
        changed = delta.blobs(history, self.commit, step.changes, site)
        removed = [change.path for change in step.changes if change.deleted]
        if not removed:
            return changed, (), ()
        supply.fetch_wheels(self.store, [step.wheel], emit=self.emit)
        tracked = history.files(step.base, package)
        kept = history.files(self.commit.sha, package) - set(removed) | {blob.path for blob in changed}
        others = {info.filename for info in self._wheel(step.wheel).archive.members} - tracked
        paths = delta.gone(removed, kept, others)
        return changed, tuple(f"{site}/{path}" for path in paths), tuple(f"{site}/{path}" for path in set(paths) - set(removed))

    def _metadata(self) -> LayerPlan:
        facts = {"commit": self.commit.sha, "dirty": self.commit.dirty, "image": self.spec.name, "variant": self.spec.variant}
        text = canonical(facts)
        entry = Entry(path=f"{self.environment.root}/share/vllm-ci/image.json", content=Inline(text + b"\n"))
        return LayerPlan(
            tier="metadata",
            inputs={**self._common(), "text": text.decode(), "path": entry.path},
            make=lambda: Made(entries=[entry], files={"commit": _digests([entry])}),
            explain="the commit's name",
            whose=lambda _: "the name of the commit",
        )


def _named(item: Overlay) -> str:
    return f"overlay {item.source} to {item.target}"


def debs_for(spec: ImageSpec, platform: str) -> tuple[LockedDeb, ...]:
    """Locked Debian packages of a platform.

    Raises:
        ConfigError: There are none.
    """
    found = tuple(deb for deb in read_debs(spec.debs_lock) if deb.architecture == platform.partition("/")[2])
    if not found:
        raise ConfigError(
            f"{spec.debs_lock} has no packages for {platform}", remedy="add the platform to the spec and run vllm-ci lock"
        )
    return found


def interpreter_of(spec: ImageSpec, debs: tuple[LockedDeb, ...]) -> str:
    """The exact interpreter that byte code is made for; the same on every platform.

    Raises:
        ConfigError: The base has none.
    """
    name = f"python{spec.python}-minimal"
    for deb in debs:
        if deb.name == name:
            return f"{name} {deb.version}"
    raise ConfigError(
        f"the base of spec {spec.name} has no {name}",
        remedy=f"add python{spec.python} to base.packages and run vllm-ci lock",
    )


def _digest(entry: Entry) -> str:
    return hashlib.sha256(read(entry.content)).hexdigest() if entry.content else ""


def _digests(entries: list[Entry]) -> dict[str, str]:
    return {entry.path: _digest(entry) for entry in entries if entry.content}
