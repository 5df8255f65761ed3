"""The image of a commit as an object."""

from typing import Annotated, Any

import dagger
from dagger import Doc, field, object_type

from vllm_ci.module.arguments import Password, RegistryService, Settings, Username, settings
from vllm_ci.module.caching import never_cached


@object_type
class Layer:
    """One layer of an image."""

    tier: Annotated[str, Doc("Name of the layer in the image spec")] = field()
    digest: Annotated[str, Doc("Digest of the layer")] = field()
    size_bytes: Annotated[int, Doc("Compressed size in bytes")] = field()
    built: Annotated[bool, Doc("Whether this build created it; otherwise it came from the cache volume")] = field()


@object_type
class Image(Settings):
    """The image of a commit. Its digest is the same wherever it is built."""

    digest: Annotated[str, Doc("Digest of its manifest, or of its index for several platforms")] = field()
    reference: Annotated[str, Doc("Name and digest: repository@sha256:...")] = field()
    tags: Annotated[list[str], Doc("Tags that a push sets; none if the tree is dirty")] = field()
    commit: Annotated[str, Doc("Commit that it was built from")] = field()
    dirty: Annotated[bool, Doc("The checkout had uncommitted changes: the image can be tested but not published")] = field()
    layers: Annotated[list[Layer], Doc("Layers, lowest first")] = field()
    summary: Annotated[str, Doc("All fields as text")] = field()

    @never_cached
    async def container(self) -> dagger.Container:
        """Return a container with the image, for further Dagger calls."""
        from vllm_ci.module import work

        return await work.container(self, self.reference)

    @never_cached
    async def as_tarball(self) -> dagger.File:
        """Return the image as one file (an OCI layout in a tar archive), with the same digest."""
        from vllm_ci.module import work

        return await work.tarball(self)

    @never_cached
    async def sbom(self) -> dagger.File:
        """Return the bill of materials of the image (CycloneDX, JSON), as recorded when it was built."""
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
        """Push the image with the tag of its commit; return its reference there, with the same digest."""
        from vllm_ci.module import work

        return await work.pushed(self, registry, username, password, registry_service)


def of(holder: Settings, summary: dict[str, Any]) -> Image:
    """Create the object from the output of ``vllm-ci build --json``."""
    image, commit = summary["image"], summary["commit"]
    made: Any = Image  # a dataclass, but the types of the SDK's decorator lose that
    found: Image = made(
        **settings(holder),
        digest=image["digest"],
        reference=image["reference"],
        tags=[] if commit["dirty"] else list(image["tags"]),
        commit=commit["sha"],
        dirty=commit["dirty"],
        layers=[_layer(each) for each in summary["layers"]],
        summary=_text(summary),
    )
    return found


def _text(summary: dict[str, Any]) -> str:
    image, commit = summary["image"], summary["commit"]
    lines = [f"image    {image['reference']}", f"commit   {commit['sha']}"]
    if commit["dirty"]:
        lines.append("dirty    it contains uncommitted changes and cannot be published")
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
