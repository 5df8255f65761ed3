"""Check an engine for what a pipeline needs."""

import json
from collections.abc import Mapping
from typing import Any

from dagger import dag

from vllm_ci.domain.errors import EngineError
from vllm_ci.domain.program import Program
from vllm_ci.engines.dagger import DaggerEngine
from vllm_ci.engines.dagger_caller import ModuleCaller
from vllm_ci.module import session
from vllm_ci.module.arguments import Settings

# A build needs about this much in the cache volume, and the engine about the same again for the image it runs.
_NEEDED_BYTES = 30e9
# With Dagger's defaults an engine keeps this share free, by removing its cache down to 10 GB.
_DEFAULT_FREE = 0.2
_PAGE = "docs/dagger.md, Disk space"


async def checked(settings: Settings) -> str:
    """One line for each check, marked if it needs attention."""
    async with session.ending_well():
        tool = await session.tool_of(settings)
        async with DaggerEngine(caller=ModuleCaller(package=tool.package), tool=tool) as engine:
            facts = await _facts(engine)
            gpus = await _gpus(engine)
    lines = [f"ok       engine        {await dag.version()}, {facts['cpu_count']} cores", gpus, *_volume(settings.cache, facts)]
    return "\n".join([*lines, collection(facts["free_bytes"], facts["disk_bytes"])])


async def _facts(engine: DaggerEngine) -> Mapping[str, Any]:
    outcome = await engine.run(
        Program(name="volume", argv=("python", "-m", "vllm_ci.engines.dagger_look", "{out}/volume.json"), timeout_s=300.0)
    )
    if not outcome:
        raise EngineError("the cache volume cannot be read", why=outcome.log, remedy="see docs/dagger.md")
    found: Mapping[str, Any] = json.loads(await outcome.output.read("volume.json"))
    return found


async def _gpus(engine: DaggerEngine) -> str:
    try:
        await engine.check_gpus("all")
    except EngineError:
        return "ok       GPUs          none: use --gpus none (see docs/dagger.md to enable GPUs)"
    return "ok       GPUs          available: --gpus all"


def _volume(name: str, facts: Mapping[str, Any]) -> list[str]:
    images, size, free = facts["images"], facts["bytes"], facts["free_bytes"]
    held = f"{name}: {images} images, {size / 1e9:.1f} GB" if images else f"{name}: empty, the next build creates every layer"
    return [
        f"{'ok' if images else 'note':<8} cache volume  {held}",
        f"{'ok' if free + size > _NEEDED_BYTES else 'warning':<8} disk          {free / 1e9:.1f} GB free",
    ]


def collection(free_bytes: int, disk_bytes: int) -> str:
    """A line about the engine's garbage collection, which may remove the cache volume; functions cannot read its settings.

    Args:
        free_bytes: Free bytes of the engine's disk.
        disk_bytes: Its size in bytes.
    """
    remedy = f"unless gc.reservedSpace of engine.json is {_NEEDED_BYTES / 1e9:.0f}GB or more ({_PAGE})"
    share = f"{100 * free_bytes / disk_bytes:.0f} % of the disk is free"
    if free_bytes < _DEFAULT_FREE * disk_bytes:
        return f"warning  collection    {share}: the engine removes the cache volume after each call, {remedy}"
    return f"ok       collection    {share}: below {_DEFAULT_FREE:.0%} the engine removes the cache volume, {remedy}"
