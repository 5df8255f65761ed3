"""From a spec and a commit to an image in the store: plan, fetch what is not known, write layers, put the parts together."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import ConfigError
from vllm_ci.domain.image import ImageRef
from vllm_ci.domain.spec import ImageSpec
from vllm_ci.images import base, bytecode, layer, oci, overlay, plan, supply
from vllm_ci.images.bytecode import Bytecode
from vllm_ci.images.entries import Entry, Inline, read, with_parents
from vllm_ci.images.interpreter import Compilers
from vllm_ci.images.locks import LockedDeb, LockedWheel, read_debs, read_wheels
from vllm_ci.images.plan import LayerPlan, Made
from vllm_ci.images.spec import host_platform
from vllm_ci.images.store import Store, canonical, disk, publish
from vllm_ci.images.wheel import Environment, Wheel, belongs

Progress = Callable[[str], None]
MAX_LAYERS = 127


@dataclass(frozen=True, kw_only=True)
class LayerInfo:
    """A layer of a built image.

    Attributes:
        tier: Name of its tier.
        digest: Of its compressed bytes.
        size_bytes: Of its compressed bytes.
        built: It was made now; false when it was known.
        platform: Platform of the image it belongs to.
        reason: Why it was made, or why not.
        seconds: How long making it took.
    """

    tier: str
    digest: str
    size_bytes: int
    built: bool
    platform: str = ""
    reason: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class BuiltImage:
    """An image in a layout.

    Attributes:
        ref: Name, digest and tags.
        layout: OCI image layout that holds it.
        layers: Its layers, lowest first, platform by platform.
        seconds: How long all took.
        explain: How each part was come by, one line each.
        manifests: Digest of the manifest by platform.
    """

    ref: ImageRef
    layout: Path
    layers: tuple[LayerInfo, ...]
    seconds: float
    explain: tuple[str, ...]
    manifests: dict[str, str]


def build(
    *,
    source: Path,
    commit: Commit,
    spec: ImageSpec,
    output: Path | None = None,
    progress: Progress = lambda _: None,
    store: Store | None = None,
    threads: int = 0,
) -> BuiltImage:
    """Build the image of a commit for all targets of ``spec``.

    Args:
        source: Folder that overlays are relative to, in a checkout of the commit.
        commit: What to build; a dirty one is built from the work tree.
        spec: What the image is made of.
        output: Folder to export the image to as an OCI image layout; the store's own layout holds it in any case.
        progress: Told what happens, one line at a time.
        store: Where layers are kept; ``VLLM_CI_HOME`` by default.
        threads: How many layers are written at once; as many as there are processors by default.

    Raises:
        BuildError: A part could not be had or made.
        ConfigError: Spec, locks or overlays do not fit together.
    """
    started = time.monotonic()
    store = store or Store()
    store.prepare()
    builder = _Builder(
        source=source, commit=commit, spec=spec, progress=progress, store=store, threads=threads or os.cpu_count() or 1
    )
    images: dict[str, dict[str, Any]] = {}
    layers: list[LayerInfo] = []
    for platform in spec.targets:
        descriptor, made = builder.image(platform)
        images[platform] = descriptor
        layers += made
    final = next(iter(images.values())) if len(images) == 1 else oci.index(store, images, commit)
    tag = spec.tag(commit.sha + ("-dirty" if commit.dirty else ""))
    store.tag(final, (f"{spec.repository}:{tag}",))
    if output:
        oci.export(store, final, output, tag)
    return BuiltImage(
        ref=ImageRef(repository=spec.repository, digest=final["digest"], tags=(tag,)),
        layout=output or store.layout,
        layers=tuple(layers),
        seconds=time.monotonic() - started,
        explain=tuple(f"{item.tier}: {item.reason}" for item in layers),
        manifests={platform: item["digest"] for platform, item in images.items()},
    )


class _Builder:
    """One build: what its platforms share."""

    def __init__(
        self, *, source: Path, commit: Commit, spec: ImageSpec, progress: Progress, store: Store, threads: int
    ) -> None:
        self.source, self.commit, self.spec = source, commit, spec
        self.progress, self.store, self.threads = progress, store, threads
        self.environment = Environment(prefix=spec.prefix, python=spec.python)
        self.all_wheels = read_wheels(spec.wheels_lock, spec.platforms)
        self.all_debs = read_debs(spec.debs_lock) if spec.base.suite else ()
        self._compilers: Compilers | None = None
        self._stack = ExitStack()
        self._lock = threading.Lock()

    def debs(self, platform: str) -> tuple[LockedDeb, ...]:
        found = tuple(deb for deb in self.all_debs if deb.architecture == platform.partition("/")[2])
        if not found:
            raise ConfigError(f"{self.spec.debs_lock} has nothing for {platform}", remedy="run vllm-ci lock")
        return found

    def image(self, platform: str) -> tuple[dict[str, Any], list[LayerInfo]]:
        plans = self.plans(platform)
        if len(plans) > MAX_LAYERS:
            raise ConfigError(
                f"the image would have {len(plans)} layers, and container engines take {MAX_LAYERS}",
                remedy="raise max_bytes of tiers",
            )
        unknown = [item for item in plans if self._known(item) is None]
        supply.fetch_wheels(self.store, {w.sha256: w for item in unknown for w in item.wheels}.values(), progress=self.progress)
        with self._stack, ThreadPoolExecutor(self.threads, thread_name_prefix="layer") as pool:
            # The largest first; the order of the result is that of the plan.
            order = sorted(plans, key=lambda item: -sum(wheel.size_bytes for wheel in item.wheels))
            futures = {item.key: pool.submit(self._layer, item) for item in order}
            made = [futures[item.key].result() for item in plans]
            self._compilers = None
        self._check_collisions(made)
        infos = [self._info(item, facts, platform) for item, facts in zip(plans, made, strict=True)]
        self._remember(plans, platform)
        descriptor = oci.image(
            self.store,
            spec=self.spec,
            commit=self.commit,
            platform=platform,
            layers=[facts for facts, _ in made],
            plans=plans,
            wheels=self.all_wheels,
        )
        return descriptor, infos

    def _known(self, item: LayerPlan) -> dict[str, Any] | None:
        facts: dict[str, Any] | None = self.store.record("layers", item.key)
        if facts is None:
            return None
        try:
            whole = self.store.blob(facts["digest"]).stat().st_size == facts["size_bytes"]
        except FileNotFoundError:
            return None
        return facts if whole else None

    def _layer(self, item: LayerPlan) -> tuple[dict[str, Any], float]:
        """Facts of a layer and, when it was made now, the seconds that took (else 0)."""
        if (facts := self._known(item)) is not None:
            return facts, 0.0
        with self.store.lock(f"layer-{item.key}"):
            if (facts := self._known(item)) is not None:
                return facts, 0.0
            started = time.monotonic()
            facts = self._write(item)
            seconds = time.monotonic() - started
        self.progress(f"layer {item.tier}: {facts['size_bytes'] / 1e6:,.1f} MB in {seconds:.1f} s")
        return facts, max(seconds, 1e-9)

    def _write(self, item: LayerPlan) -> dict[str, Any]:
        handle, name = tempfile.mkstemp(dir=self.store.blobs, prefix=".part-")
        os.close(handle)
        part = Path(name)
        try:
            with disk(part, needed_bytes=sum(wheel.size_bytes for wheel in item.wheels)):
                made = item.make()
                written = layer.write(with_parents(made.entries), part, self.spec.compression)
                part.chmod(0o644)
                publish(part, self.store.blob(written.digest))
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        facts = {
            "tier": item.tier,
            "digest": written.digest,
            "diff_id": written.diff_id,
            "size_bytes": written.size_bytes,
            "unpacked_bytes": written.unpacked_bytes,
        }
        # Files first: a layer is known only when all that belongs to it is there.
        self.store.keep("files", written.digest.removeprefix("sha256:"), made.files)
        self.store.keep("layers", item.key, facts)
        return facts

    def _check_collisions(self, made: list[tuple[dict[str, Any], float]]) -> None:
        digests = [facts["digest"].removeprefix("sha256:") for facts, _ in made]
        name = hashlib.sha256(canonical(digests[:-2])).hexdigest()
        if not any(seconds for _, seconds in made) and self.store.record("checked", name) is not None:
            return
        records = (self.store.record("files", digest) or {} for digest in digests)
        plan.check_collisions(
            {owner: files for owner, files in record.items() if owner not in {"debian", "commit"}} for record in records
        )
        self.store.keep("checked", name, True)

    def _info(self, item: LayerPlan, made: tuple[dict[str, Any], float], platform: str) -> LayerInfo:
        facts, seconds = made
        return LayerInfo(
            tier=item.tier,
            digest=facts["digest"],
            size_bytes=facts["size_bytes"],
            built=bool(seconds),
            platform=platform,
            reason=self._reason(item, platform, built=bool(seconds)),
            seconds=seconds,
        )

    def _last(self, platform: str) -> str:
        return f"{self.spec.name}-{platform.replace('/', '-')}"

    def _reason(self, item: LayerPlan, platform: str, *, built: bool) -> str:
        if not built:
            return f"{item.explain}; known"
        before = (self.store.record("last", self._last(platform)) or {}).get(item.tier)
        if before is None:
            return f"{item.explain}; made for the first time"
        return f"{item.explain}; made anew: {plan.difference(before, item.inputs)}"

    def _remember(self, plans: list[LayerPlan], platform: str) -> None:
        value = {item.tier: item.inputs for item in plans}
        if self.store.record("last", self._last(platform)) != value:
            self.store.keep("last", self._last(platform), value)

    # What the layers are made of

    def plans(self, platform: str) -> list[LayerPlan]:
        wheels = [wheel for wheel in self.all_wheels if platform in wheel.platforms]
        return [
            self._base(platform),
            self._settings(),
            *(self._wheels(tier.files, name, group, platform) for tier, name, group in plan.deal(self.spec, wheels)),
            *self._overlays(platform),
            self._metadata(),
        ]

    def _common(self) -> dict[str, Any]:
        return {"layer": layer.facts(self.spec.compression)}

    def _interpreter(self, platform: str) -> str:
        """The exact interpreter of the image: package version and architecture-independent."""
        name = f"python{self.spec.python}-minimal"
        for deb in self.debs(platform):
            if deb.name == name:
                return f"{name} {deb.version}"
        raise ConfigError(
            f"{self.spec.debs_lock} has no {name}", remedy=f"add python{self.spec.python} to base.packages and run vllm-ci lock"
        )

    def _bytecode(self, platform: str) -> Bytecode:
        return Bytecode(
            store=self.store,
            python=self.spec.python,
            key=bytecode.key(self._interpreter(platform)),
            compilers=self.compilers,
            threads=self.threads,
        )

    def compilers(self) -> Compilers:
        """Interpreters of this machine's platform, started once a build."""
        with self._lock:
            if self._compilers is None:
                own = host_platform()
                tree = base.root(self.store, self.debs(own), self.spec.base, progress=self.progress)
                self._compilers = Compilers(tree, self.spec.python, own, size=self.threads)
                self._stack.callback(self._compilers.close)
        return self._compilers

    def _base(self, platform: str) -> LayerPlan:
        debs = self.debs(platform)

        def make() -> Made:
            tree = base.root(self.store, debs, self.spec.base, progress=self.progress)
            entries = list(base.entries(tree))
            name = f"debian-{base.key(debs, self.spec.base)}"
            compiled = self._bytecode(platform).of_pack(
                name, [entry for entry in entries if entry.path.startswith("usr/lib/python3")]
            )
            files = {entry.path: hashlib.sha256(read(entry.content)).hexdigest() for entry in entries if entry.content}
            return Made(entries=entries + compiled, files={"debian": files})

        inputs = {
            **self._common(),
            "recipe": base.key(debs, self.spec.base),
            "python": bytecode.key(self._interpreter(platform)),
        }
        inputs["debs"] = {deb.name: f"{deb.version} {deb.sha256}" for deb in debs}
        return LayerPlan(
            tier="base", inputs=inputs, make=make, explain=f"{len(debs)} Debian packages of {self.spec.base.suite}"
        )

    def _settings(self) -> LayerPlan:
        entries = list(base.settings(self.spec))
        files = {entry.path: hashlib.sha256(read(entry.content)).hexdigest() for entry in entries if entry.content}
        facts = [[entry.path, entry.mode, entry.link, files.get(entry.path, "")] for entry in entries]
        return LayerPlan(
            tier="environment",
            inputs={**self._common(), "entries": facts},
            make=lambda: Made(entries=entries, files={"settings": files}),
            explain="user, writable folders, interpreter links",
        )

    def _wheels(self, files: Any, name: str, group: tuple[LockedWheel, ...], platform: str) -> LayerPlan:
        compiles = self._bytecode(platform)

        def make() -> Made:
            found: list[tuple[str, Entry, str]] = []
            compiled: list[Entry] = []
            for locked in group:
                wheel = Wheel(supply.wheel_path(self.store, locked), self.environment, project=locked.project)
                mine = [
                    (entry, digest)
                    for entry, digest in wheel.files()
                    if belongs(entry, files) and not plan.loses(entry.path, locked.project, self.spec.winners)
                ]
                found += [(locked.project, entry, digest or _digest(entry)) for entry, digest in mine]
                pack = f"{locked.sha256[:32]}-{files}-{hashlib.sha256(self.spec.prefix.encode()).hexdigest()[:8]}"
                compiled += compiles.of_pack(
                    pack, [entry for entry, _ in mine if entry.path.startswith(self.environment.site_packages)]
                )
            entries, owned = plan.united(found)
            taken = {entry.path for entry in entries}
            return Made(entries=entries + [entry for entry in _first(compiled) if entry.path not in taken], files=owned)

        inputs = {
            **self._common(),
            "environment": [self.spec.prefix, self.spec.python],
            "python": compiles.key,
            "files": str(files),
            "winners": dict(self.spec.winners),
            "wheels": {wheel.project: f"{wheel.version} {wheel.sha256}" for wheel in group},
        }
        what = f"{len(group)} wheels" if len(group) != 1 else f"{group[0].project} {group[0].version}"
        return LayerPlan(tier=name, inputs=inputs, make=make, wheels=group, explain=what)

    def _overlays(self, platform: str) -> Iterator[LayerPlan]:
        if not self.spec.overlays:
            return
        compiles = self._bytecode(platform)
        found = {blob.target: blob for item in self.spec.overlays for blob in overlay.blobs(self.source, self.commit, item)}
        blobs = [found[target] for target in sorted(found)]

        def make() -> Made:
            entries = overlay.entries(self.source, self.commit, blobs)
            files = {entry.path: _digest(entry) for entry in entries if entry.content}
            return Made(entries=entries + compiles.of_files(entries), files={"commit": files})

        inputs = {
            **self._common(),
            "python": compiles.key,
            "files": {blob.target: f"{blob.mode} {blob.identity}" for blob in blobs},
        }
        yield LayerPlan(tier="commit", inputs=inputs, make=make, explain=f"{len(blobs)} files of {self.commit.short}")

    def _metadata(self) -> LayerPlan:
        text = canonical(
            {"commit": self.commit.sha, "dirty": self.commit.dirty, "image": self.spec.name, "variant": self.spec.variant}
        )
        entry = Entry(path=f"{self.environment.root}/share/vllm-ci/image.json", content=Inline(text + b"\n"))
        return LayerPlan(
            tier="metadata",
            inputs={**self._common(), "text": text.decode(), "path": entry.path},
            make=lambda: Made(entries=[entry], files={"commit": {entry.path: _digest(entry)}}),
            explain="the commit's name",
        )


def _digest(entry: Entry) -> str:
    return hashlib.sha256(read(entry.content)).hexdigest() if entry.content else ""


def _first(entries: list[Entry]) -> Iterator[Entry]:
    seen: set[str] = set()
    for entry in entries:
        if entry.path not in seen:
            seen.add(entry.path)
            yield entry
