"""The image of a commit as an object."""

from typing import Annotated, Any

import dagger
from dagger import Doc, field, object_type

from vllm_ci.module.arguments import Password, RegistryService, Settings, Username, settings
from vllm_ci.module.caching import never_cached


@object_type
class Layer:
    """One layer of an image."""

    tier: Annotated[str, Doc("What is in it, as the image spec calls it")] = field()
    digest: Annotated[str, Doc("Its digest")] = field()
    size_bytes: Annotated[int, Doc("Size of its compressed blob, in bytes")] = field()
    built: Annotated[bool, Doc("Made by this build; otherwise the cache volume had it")] = field()


@object_type
class Image(Settings):
    """The image of a commit. It is identified by its digest, which is the same wherever it is built."""

    digest: Annotated[str, Doc("Digest of its manifest, or of its index if it is for several platforms")] = field()
    reference: Annotated[str, Doc("Its name and its digest")] = field()
    tags: Annotated[list[str], Doc("Tags that a push gives it; none if the tree is dirty")] = field()
    commit: Annotated[str, Doc("Commit that it is made from")] = field()
    dirty: Annotated[bool, Doc("The checkout had changes that are not committed: it can be tested, not published")] = field()
    layers: Annotated[list[Layer], Doc("Its layers, lowest first")] = field()
    summary: Annotated[str, Doc("All of this as text")] = field()

    @never_cached
    async def container(self) -> dagger.Container:
        """A container of the image, to chain on."""
        from vllm_ci.module import work

        return await work.container(self, self.reference)

    @never_cached
    async def as_tarball(self) -> dagger.File:
        """The image as one file (an OCI layout in a tar archive), with the same digest."""
        from vllm_ci.module import work

        return await work.tarball(self)

    @never_cached
    async def sbom(self) -> dagger.File:
        """The bill of materials of the image (CycloneDX, JSON), by what was written down when it was built."""
        from vllm_ci.module import work

        return await work.bill(self)

    @never_cached
    async def push(
        self,
        registry: Annotated[str, Doc("Registry and name, e.g. registry.example.com/team/vllm")],
        username: Username = None,
        password: Password = None,
        registry_service: RegistryService = None,
    ) -> str:
        """Push the image under the tag of its commit and return its reference there: the digest stays the same."""
        from vllm_ci.module import work

        return await work.pushed(self, registry, username, password, registry_service)


def of(holder: Settings, summary: dict[str, Any]) -> Image:
    """The object of what ``vllm-ci build --json`` prints."""
    image, commit = summary["image"], summary["commit"]
    made: Any = Image  # a dataclass, which the types of the SDK's decorator do not say
    found: Image = made(
        **settings(holder),
        digest=image["digest"],
        reference=image["reference"],
        tags=[] if commit["dirty"] else list(image["tags"]),
        commit=commit["sha"],
        dirty=commit["dirty"],
        layers=[_layer(each) for each in summary["layers"]],
        summary=_told(summary),
    )
    return found


def _told(summary: dict[str, Any]) -> str:
    image, commit = summary["image"], summary["commit"]
    lines = [f"image    {image['reference']}", f"commit   {commit['sha']}"]
    if commit["dirty"]:
        lines.append("dirty    it holds changes that are not committed, and cannot be published")
    else:
        lines.append(f"tags     {' '.join(image['tags'])}")
    lines += [
        f"layer    {each['tier']:<16} {each['size_bytes'] / 1e6:>10,.1f} MB  {each['digest']}" for each in summary["layers"]
    ]
    return "\n".join(lines)


def _layer(facts: dict[str, Any]) -> Layer:
    made: Any = Layer
    layer: Layer = made(**{name: facts[name] for name in ("tier", "digest", "size_bytes", "built")})
    return layer
