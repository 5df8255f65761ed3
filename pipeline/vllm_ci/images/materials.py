"""What an image is made of, written down when it is built and bound to its digest.

A release reads it. Nothing is derived from the checkout again, because its locks may have changed by then.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from vllm_ci.domain.errors import BuildError
from vllm_ci.domain.image_spec import ImageSpec
from vllm_ci.images.lockfile import LockedDeb, LockedWheel
from vllm_ci.images.store import Store, canonical

FORMAT = "vllm-ci/materials/v1"
_KIND = "materials"
# Owner of files in the builder's account that come from the commit: overlays, changed files of vLLM, the commit's name.
_COMMIT = "commit"


@dataclass(frozen=True, kw_only=True)
class BuiltFrom:
    """Everything that went into an image.

    Attributes:
        wheels: Wheels of all its platforms, a commit's own wheel of vLLM among them.
        debs: Debian packages of its base; none when it is based on another image.
        suite: Debian suite that those come from.
        files: Files of the commit: absolute path in the image to hex sha256.
        locks: Lock files: name to hex sha256.
        parameters: What the build was asked for.
        base: Image that it is based on (``NAME@DIGEST``), empty for none.
    """

    wheels: tuple[LockedWheel, ...] = ()
    debs: tuple[LockedDeb, ...] = ()
    suite: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    locks: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    base: str = ""

    @classmethod
    def of_spec(cls, spec: ImageSpec) -> BuiltFrom:
        """What the spec says, before anything was built."""
        locks = (spec.wheels_lock, spec.debs_lock)
        overlays = [{"from": each.source, "to": each.target} for each in spec.overlays]
        return cls(
            suite="" if spec.base.image else spec.base.suite,
            locks={path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in locks},
            parameters={"image": spec.name, "variant": spec.variant, "platforms": list(spec.targets), "overlays": overlays},
            base=spec.base.image,
        )

    def with_platform(
        self, store: Store, wheels: Iterable[LockedWheel], debs: Iterable[LockedDeb], layers: Iterable[str]
    ) -> BuiltFrom:
        """With what went into the image of one more platform.

        Args:
            store: Where its layers are.
            wheels: Its wheels.
            debs: Debian packages of its base layer.
            layers: Digests of the layers with the commit's files, lowest first.
        """
        files = dict(self.files)
        for digest in layers:
            files.update(_files(store, digest))
        return replace(
            self,
            wheels=tuple(dict.fromkeys((*self.wheels, *wheels))),
            debs=tuple(dict.fromkeys((*self.debs, *debs))),
            files=files,
        )

    def to_json(self, image: str) -> dict[str, Any]:
        """As it is written down, for the image with digest ``image``."""
        return {"format": FORMAT, "image": image, **asdict(self)}


def keep(store: Store, image: str, made: BuiltFrom) -> None:
    """Write down what the image with digest ``image`` is made of."""
    value = json.loads(canonical(made.to_json(image)))
    if store.record(_KIND, _key(image)) != value:
        store.keep(_KIND, _key(image), value)


def read(store: Store, image: str) -> BuiltFrom:
    """What was written down when the image with digest ``image`` was built here.

    Raises:
        BuildError: Nothing was, or it is about another image.
    """
    value = store.record(_KIND, _key(image))
    if not isinstance(value, dict) or (value.get("format"), value.get("image")) != (FORMAT, image):
        raise BuildError(
            f"there is no record of what {image} is made of in {store.root}",
            why="it was built on another machine or by an earlier version, or the record was removed",
            remedy="build it again: vllm-ci build COMMIT (the same inputs give the same digest)",
        )
    fields = {name: value[name] for name in ("suite", "files", "locks", "parameters", "base")}
    wheels = tuple(LockedWheel(**{**each, "platforms": tuple(each["platforms"])}) for each in value["wheels"])
    return BuiltFrom(wheels=wheels, debs=tuple(LockedDeb(**each) for each in value["debs"]), **fields)


def _key(image: str) -> str:
    return image.removeprefix("sha256:")


def _files(store: Store, digest: str) -> dict[str, str]:
    """The commit's files in a layer; one that it only deletes has no hash."""
    record = store.record("files", digest.removeprefix("sha256:"))
    if record is None:
        raise BuildError(
            f"there is no record of the files in layer {digest}", remedy=f"remove {store.root / 'layers'} and build again"
        )
    return {f"/{path}": expected for path, expected in record.get(_COMMIT, {}).items() if expected}
