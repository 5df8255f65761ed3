"""Memory of NVIDIA GPUs by NVML, where there is one and the extra ``gpu`` is installed."""

from __future__ import annotations

import functools
from collections.abc import Callable


@functools.cache
def _reader() -> Callable[[], int] | None:
    """Reads the used memory of all devices; ``None`` without NVML."""
    try:
        import pynvml  # the extra `gpu`
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        devices = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return None
    if not devices:
        return None
    return lambda: sum(int(pynvml.nvmlDeviceGetMemoryInfo(device).used) for device in devices)


def used_bytes() -> int | None:
    """Used memory of all GPUs of this machine, by all processes; ``None`` if it cannot be read."""
    read = _reader()
    if read is None:
        return None
    try:
        return read()
    except Exception:  # noqa: BLE001 - NVML's errors, and a driver that goes away in the middle
        return None
