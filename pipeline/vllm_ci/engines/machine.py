"""Facts about the machine that this runs on. The host engine imports it; other engines run it as a program.

``python -m vllm_ci.engines.machine FILE`` writes them to FILE as JSON.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from pathlib import Path

from vllm_ci.domain.errors import VllmCiError
from vllm_ci.system import external


def facts() -> dict[str, object]:
    """Operating system, processor, cores, memory in bytes, GPUs by name."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": gpus(),
        "python": platform.python_version(),
    }


def gpus() -> list[str]:
    """Names of the NVIDIA GPUs that ``nvidia-smi`` lists; empty if there are none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
        done = external.run(query, what="nvidia-smi", deadline_s=20)
    except VllmCiError:
        return []
    lines = done.output.decode("utf-8", "replace").splitlines()
    return [line.strip() for line in lines if line.strip()] if done.exit_code == 0 else []


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(facts()), encoding="utf-8")
