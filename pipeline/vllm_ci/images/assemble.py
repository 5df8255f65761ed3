"""Turns plans into layers in the store: known layers are reused, the others are written in parallel."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from vllm_ci.domain.commit import Commit
from vllm_ci.domain.errors import ConfigError, Interrupted
from vllm_ci.domain.events import Emit, step
from vllm_ci.domain.image_spec import ImageSpec
from vllm_ci.images import conflicts, foundation, layer, members, plan
from vllm_ci.images.arriving import Arriving
from vllm_ci.images.contents import Contents, debs_for
from vllm_ci.images.debian import base
from vllm_ci.images.entries import Entry, with_parents
from vllm_ci.images.interpreter import Compilers
from vllm_ci.images.lockfile import LockedDeb, LockedWheel
from vllm_ci.images.plan import LayerPlan
from vllm_ci.images.spec_file import host_platform
from vllm_ci.images.store import Store, canonical, disk, publish
from vllm_ci.images.tree import UNPACKED
from vllm_ci.images.unpacking import Unpacking

MAX_LAYERS = 127
# Bumped when layers are checked against each other by other rules.
_RULES = 1


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What an image will be made of.

    Attributes:
        platform: Its platform.
        plans: Layers that we write, lowest first.
        wheels: Wheels of the image.
        debs: Debian packages of the base layer; none when there is an image below.
        under: Image below the layers, if any.
        explain: How vLLM's own files are obtained, for messages.
        vllm_commit: Commit of vLLM, when the repository is vLLM.
    """

    platform: str
    plans: list[LayerPlan]
    wheels: tuple[LockedWheel, ...]
    debs: tuple[LockedDeb, ...]
    under: foundation.Foundation | None
    explain: tuple[str, ...]
    vllm_commit: str


@dataclass(frozen=True, kw_only=True)
class AssembledLayer:
    """A layer in the store.

    Attributes:
        plan: What it was made from.
        facts: Digest, diff id and sizes.
        seconds: How long making it took now; 0 when it was known.
        reason: Why it was made, or why not.
    """

    plan: LayerPlan
    facts: dict[str, Any]
    seconds: float
    reason: str


class Assembler:
    """One build: what its platforms share."""

    def __init__(self, *, spec: ImageSpec, store: Store, threads: int, emit: Emit, unpack: bool = False) -> None:
        self.spec, self.store, self.threads, self.emit = spec, store, threads, emit
        self._unpack = unpack
        self._stack = ExitStack()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._compilers: Compilers | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def contents(self, source: Path, commit: Commit, platform: str) -> Planned:
        """Plan the image of a commit.

        Raises:
            ConfigError: It would have too many layers, or its parts do not fit together.
        """
        found = Contents(
            source=source,
            commit=commit,
            spec=self.spec,
            platform=platform,
            store=self.store,
            threads=self.threads,
            compilers=self.compilers,
            emit=self.emit,
        )
        under = foundation.load(self.spec.base.image, platform, self.store, self.emit) if self.spec.base.image else None
        plans = found.plans()
        count = len(plans) + (len(under.layers) if under else 0)
        if count > MAX_LAYERS:
            raise ConfigError(
                f"the image would have {count} layers, and container engines support {MAX_LAYERS}",
                remedy="raise max_bytes of tiers",
            )
        return Planned(
            platform=platform,
            plans=plans,
            wheels=found.wheels,
            debs=() if self.spec.base.image else found.debs,
            under=under,
            explain=found.explain(),
            vllm_commit=commit.sha if self.spec.vllm else "",
        )

    def compilers(self) -> Compilers:
        """Interpreters of this machine's platform, started once a build."""
        with self._lock:
            if self._compilers is None:
                own = host_platform()
                tree = base.root(self.store, debs_for(self.spec, own), self.spec.base, emit=self.emit)
                self._compilers = Compilers(tree, self.spec.python, own, size=self.threads)
                self._stack.callback(self._compilers.close)
        return self._compilers

    def layers(self, planned: Planned) -> list[AssembledLayer]:
        """All layers of an image, made or found.

        Raises:
            BuildError: One could not be made.
        """
        plans = planned.plans
        # The one that ends last should not be the one that starts last: the base, whose files are not yet compressed or
        # compiled, then the largest.
        order = sorted(plans, key=lambda item: (item.tier != "base", -sum(wheel.size_bytes for wheel in item.wheels)))
        unpack = self._unpack and planned.platform == host_platform()
        wanted = [item.wheels for item in order if self.known(item) is None]
        with (
            Arriving(self.store, wanted, emit=self.emit) as arriving,
            ThreadPoolExecutor(self.threads, thread_name_prefix="layer") as pool,
        ):
            futures = {item.key: pool.submit(self._have, item, arriving, unpack=unpack) for item in order}
            try:
                wait(futures.values(), return_when=FIRST_EXCEPTION)
                made = [futures[item.key].result() for item in plans if futures[item.key].done()]
            except BaseException:
                # Ctrl-C, or one layer failed: what is half-done stops at its next file, the rest does not begin.
                self._stopped.set()
                arriving.stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        self._check_collisions(plans, made)
        self._shape_all(plans, [facts for facts, _ in made])
        self._check_layers(planned, [facts for facts, _ in made])
        name = f"{self.spec.name}-{planned.platform.replace('/', '-')}"
        before = self.store.record("last", name) or {}
        result = [
            AssembledLayer(
                plan=item, facts=facts, seconds=seconds, reason=_reason(item, before.get(item.tier), built=bool(seconds))
            )
            for item, (facts, seconds) in zip(plans, made, strict=True)
        ]
        after = {item.tier: item.inputs for item in plans}
        if before != after:
            self.store.keep("last", name, after)
        return result

    def known(self, item: LayerPlan) -> dict[str, Any] | None:
        """Facts of a layer that is in the store already."""
        facts: dict[str, Any] | None = self.store.record("layers", item.key)
        if facts is None:
            return None
        try:
            whole = self.store.blob(facts["digest"]).stat().st_size == facts["size_bytes"]
        except FileNotFoundError:
            return None
        return facts if whole else None

    def _have(self, item: LayerPlan, arriving: Arriving, *, unpack: bool) -> tuple[dict[str, Any], float]:
        if (facts := self.known(item)) is not None:
            return facts, 0.0
        arriving.wait(item.wheels)
        with self.store.lock(f"layer-{item.key}"):
            if (facts := self.known(item)) is not None:
                return facts, 0.0
            started = time.monotonic()
            with step(self.emit, f"layer {item.tier}", item.explain) as done:
                facts = self._write(item, unpack=unpack)
                done(f"{facts['size_bytes'] / 1e6:,.1f} MB")
            seconds = time.monotonic() - started
        return facts, max(seconds, 1e-9)

    def _write(self, item: LayerPlan, *, unpack: bool) -> dict[str, Any]:
        self.store.prepare()
        handle, name = tempfile.mkstemp(dir=self.store.blobs, prefix=".part-")
        os.close(handle)
        part = Path(name)
        needed_bytes = sum(wheel.size_bytes for wheel in item.wheels) * (1 + UNPACKED * unpack)
        try:
            with disk(part, needed_bytes=needed_bytes), ExitStack() as stack:
                made = item.make()
                entries = with_parents(made.entries)
                listed = members.of_entries(entries)
                unpacking = stack.enter_context(Unpacking(self.store)) if unpack else None
                tarred = self._until_stopped(unpacking.entries(entries, listed) if unpacking else entries)
                written = layer.write(tarred, part, self.spec.compression)
                part.chmod(0o644)
                publish(part, self.store.blob(written.digest))
                if unpacking:
                    unpacking.keep(written.diff_id)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        facts = {
            "tier": item.tier,
            "inputs": dict(item.inputs),
            "digest": written.digest,
            "diff_id": written.diff_id,
            "size_bytes": written.size_bytes,
            "unpacked_bytes": written.unpacked_bytes,
            "shape": members.shape(listed),
        }
        # Files first: a layer is known only when all that belongs to it is there.
        self.store.keep("files", written.digest.removeprefix("sha256:"), made.files)
        members.keep(self.store, written.digest, listed)
        self.store.keep("layers", item.key, facts)
        return facts

    def _until_stopped(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        for entry in entries:
            if self._stopped.is_set():
                raise Interrupted("the build was stopped")
            yield entry

    def _check_collisions(self, plans: list[LayerPlan], made: list[tuple[dict[str, Any], float]]) -> None:
        """Refuse wheels of different layers that claim the same path; once for each set of layers."""
        digests = [
            facts["digest"].removeprefix("sha256:")
            for item, (facts, _) in zip(plans, made, strict=True)
            if item.wheels and item.tier != "commit"
        ]
        name = hashlib.sha256(canonical(digests)).hexdigest()
        if self.store.record("checked", name) is None:
            plan.check_collisions(self.store.record("files", digest) or {} for digest in digests)
            self.store.keep("checked", name, True)

    def _shape_all(self, plans: list[LayerPlan], made: list[dict[str, Any]]) -> None:
        """Complete the records of layers that an earlier version wrote without a list of their members."""
        old = [(item, facts) for item, facts in zip(plans, made, strict=True) if "shape" not in facts]
        if not old:
            return

        def one(item: LayerPlan, facts: dict[str, Any]) -> None:
            facts["shape"] = members.shape(members.of_layer(self.store, facts))
            self.store.keep("layers", item.key, facts)

        what = f"{len(old)} layers that an earlier version made"
        with step(self.emit, "read layers", what), ThreadPoolExecutor(self.threads, thread_name_prefix="read") as pool:
            list(pool.map(lambda each: one(*each), old))

    def _check_layers(self, planned: Planned, made: list[dict[str, Any]]) -> None:
        """Refuse layers that hide files of lower ones; once for each row of layers that have the same names in them."""
        under = planned.under.layers if planned.under else ()
        reserved = _reserved(self.spec)
        shapes = [*(item["digest"] for item in under), *(facts["shape"] for facts in made)]
        name = hashlib.sha256(canonical(["layers", _RULES, shapes, reserved])).hexdigest()
        if self.store.record("checked", name) is None:
            conflicts.check_layers([*self._under(planned), *self._placed(planned.plans, made)], reserved=reserved)
            self.store.keep("checked", name, True)

    def _under(self, planned: Planned) -> Iterator[conflicts.Placed]:
        if planned.under is None:
            return
        for diff_id, item in zip(planned.under.diff_ids, planned.under.layers, strict=True):
            listed = members.of_layer(self.store, item, diff_id)
            yield conflicts.Placed(name=item["digest"], members=listed, whose=lambda _: "base.image", ours=False)

    def _placed(self, plans: list[LayerPlan], made: list[dict[str, Any]]) -> Iterator[conflicts.Placed]:
        for item, facts in zip(plans, made, strict=True):
            files = self.store.record("files", facts["digest"].removeprefix("sha256:")) or {}
            whose = item.whose or partial(conflicts.owner_of, files, otherwise=f"layer {item.tier}")
            yield conflicts.Placed(name=item.tier, members=members.of_layer(self.store, facts), whose=whose)


def _reserved(spec: ImageSpec) -> dict[str, str]:
    """Paths that wheels and commits must not contain."""
    prefix = spec.prefix.strip("/")
    found = {f"{prefix}/bin/{name}": "the environment's interpreter" for name in ("python", "python3", f"python{spec.python}")}
    found[f"{prefix}/pyvenv.cfg"] = "which configures the Python environment"
    found[spec.interpreter.strip("/")] = "the interpreter"
    return found


def _reason(item: LayerPlan, before: dict[str, Any] | None, *, built: bool) -> str:
    if not built:
        return f"{item.explain}; unchanged"
    if before is None:
        return f"{item.explain}; new"
    return f"{item.explain}; rebuilt: {plan.difference(before, item.inputs)}"
