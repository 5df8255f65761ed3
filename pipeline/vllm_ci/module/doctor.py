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
    return "\n".join([*lines, await _collection()])


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


async def _collection() -> str:
    """Whether the engine's garbage collection leaves the volume in place."""
    cache = dag.engine().local_cache()
    try:
        kept = max(await cache.reserved_space(), 0)
        most = await cache.max_used_space()
    except dagger.QueryError as error:
        return f"note     collection    not known: {str(error).splitlines()[0]}"
    told = f"keeps {kept / 1e9:.0f} GB for certain, at most {most / 1e9:.0f} GB"
    if kept >= _NEEDED_BYTES:
        return f"ok       collection    {told}"
    return f"warning  collection    {told}: it may empty the cache volume; reserve {_NEEDED_BYTES / 1e9:.0f} GB ({_PAGE})"
