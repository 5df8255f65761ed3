"""vLLM's sleep mode: a server that is not used gives the memory of its GPUs back and keeps its weights in main memory.

Source: https://docs.vllm.ai/en/latest/features/sleep_mode.html (level 1).
"""

from __future__ import annotations

import httpx

# Weights are copied between GPU and main memory; with the lock held, others wait for 120 s.
_SLEEP_S, _WAKE_S = 90.0, 60.0


async def sleep(port: int) -> bool:
    """Put a server of this machine to sleep; whether it does."""
    return await _told(port, "/sleep?level=1", _SLEEP_S)


async def wake(port: int) -> bool:
    """Wake a server of this machine, also one that does not sleep; whether it is awake."""
    return await _told(port, "/wake_up", _WAKE_S)


async def _told(port: int, path: str, timeout_s: float) -> bool:
    async with httpx.AsyncClient(timeout=timeout_s, trust_env=False) as client:
        try:
            return (await client.post(f"http://127.0.0.1:{port}{path}")).status_code == 200
        except httpx.HTTPError:
            return False
