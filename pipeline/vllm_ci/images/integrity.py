"""What the files of a built image must be: the builder knows each by the hash that its wheel or commit has for it."""

from __future__ import annotations

from vllm_ci.domain.errors import BuildError
from vllm_ci.images.spec import host_platform
from vllm_ci.images.store import Store, image_manifest


def manifest(digest: str, *, platform: str = "", store: Store | None = None) -> dict[str, dict[str, str]]:
    """Owner (a wheel's project, ``debian``, ``settings``, ``commit``) to absolute path to hex sha256, byte code apart.

    A file that a later layer replaces or deletes is the later layer's.

    Raises:
        BuildError: The image was not built here.
    """
    store = store or Store()
    owners: dict[str, tuple[str, str]] = {}
    for item in image_manifest(digest, platform=platform or host_platform(), store=store)["layers"]:
        record = store.record("files", item["digest"].removeprefix("sha256:"))
        if record is None:
            raise BuildError(
                f"nothing is known of the files in layer {item['digest']}", remedy="build the image again: vllm-ci build"
            )
        for owner, files in record.items():
            for path, found in files.items():
                if found:
                    owners[path] = (owner, found)
                else:
                    owners.pop(path, None)
    result: dict[str, dict[str, str]] = {}
    for path, (owner, found) in sorted(owners.items()):
        result.setdefault(owner, {})[f"/{path}"] = found
    return result
