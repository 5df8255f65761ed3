"""What an engine has, as far as a pipeline needs it."""

import json
from collections.abc import Mapping
from typing import Any

import dagger
from dagger import dag

from vllm_ci.domain.errors import EngineError
from vllm_ci.domain.program import Program
from vllm_ci.engines.dagger import DaggerEngine
from vllm_ci.engines.dagger_caller import Function
from vllm_ci.module import session
from vllm_ci.module.arguments import Settings

# A build keeps about this much in the cache volume, and the engine about as much again for the image it runs.
_NEEDED_BYTES = 30e9
_PAGE = "docs/dagger.md, Disk space"


async def told(settings: Settings) -> str:
    """A line for each thing that was looked at, those that want attention marked."""
    async with session.ending_well():
        tool = await session.tool_of(settings)
        async with DaggerEngine(caller=Function(package=tool.package), tool=tool) as engine:
            facts = await _facts(engine)
            gpus = await _gpus(engine)
    lines = [f"ok       engine        {await dag.version()}, {facts['cpu_count']} cores", gpus, *_volume(settings.cache, facts)]
    return "\n".join([*lines, await _collection(facts["free_bytes"])])


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
        return "ok       GPUs          none: --gpus none (docs/dagger.md says how an engine hands them out)"
    return "ok       GPUs          handed out: --gpus all"


def _volume(name: str, facts: Mapping[str, Any]) -> list[str]:
    images, size, free = facts["images"], facts["bytes"], facts["free_bytes"]
    held = f"{name}: {images} images, {size / 1e9:.1f} GB" if images else f"{name}: empty, the next build makes every layer"
    return [
        f"{'ok' if images else 'note':<8} cache volume  {held}",
        f"{'ok' if free + size > _NEEDED_BYTES else 'warning':<8} disk          {free / 1e9:.1f} GB free",
    ]


async def _collection(free_bytes: int) -> str:
    cache = dag.engine().local_cache()
    try:
        kept, most, left = await cache.reserved_space(), await cache.max_used_space(), await cache.min_free_space()
    except dagger.DaggerError as error:
        return f"note     collection    not known: {str(error).splitlines()[0]}"
    return collection(kept, most, left, free_bytes=free_bytes)


def collection(kept: int, most: int, left: int, *, free_bytes: int) -> str:
    """A line that says whether the engine's garbage collection leaves the cache volume in place.

    Args:
        kept: Bytes that it never removes (``reservedSpace``).
        most: Bytes that the engine may use (``maxUsedSpace``); 0 is no limit.
        left: Bytes that it tries to leave free on the disk (``minFreeSpace``).
        free_bytes: Bytes that are free.
    """
    told = f"keeps {kept / 1e9:.0f} GB in any case, of at most {most / 1e9:.0f} GB; leaves {left / 1e9:.0f} GB of the disk free"
    if kept >= _NEEDED_BYTES:
        return f"ok       collection    {told}"
    remedy = f"set gc.reservedSpace to {_NEEDED_BYTES / 1e9:.0f}GB in engine.json ({_PAGE})"
    if free_bytes < left or 0 < most < _NEEDED_BYTES:
        return f"warning  collection    {told}: it removes the cache volume after each call; {remedy}"
    return f"note     collection    {told}: it may remove the cache volume when the disk fills; {remedy}"
