"""Starts engines: vLLM in several versions, ``transformers serve``, llama-cpp-python's server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from servers import material
from servers.environments import HERE, environment
from servers.programs import KEY, Running, answers, free_port, program

BACKEND = "0.32.0"
"""Version of vLLM behind proxies."""
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "OMP_NUM_THREADS": "1",
}
_CPU = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1"}
FLAGS = ("--dtype=float32", "--enforce-eager", "--max-model-len=2048", "--max-num-seqs=16", "--max-num-batched-tokens=2048")
_ONE_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
_IN_PROCESS = "--distributed-executor-backend=uni"
_GPU_FLAGS = ("--dtype=bfloat16", "--max-model-len=2048", "--gpu-memory-utilization=0.3")
_GPU_PYTHON = "VLLM_CI_SERVERS_GPU_PYTHON"
_TOOLS = ("--enable-auto-tool-choice", "--tool-call-parser=hermes")


def cpu() -> dict[str, str]:
    """Environment of vLLM for CPUs."""
    return {**_OFFLINE, **_CPU}


def vllm(version: str, *, several: bool) -> Callable[[Path], AbstractContextManager[Running]]:
    """A start of vLLM for CPUs with the tiny model, in several processes (its default) or in one."""

    @contextmanager
    def start(work: Path) -> Iterator[Running]:
        programs = environment(f"vllm-{version}")
        model = material.tiny(programs / "python")
        env, flags = (_CPU, FLAGS) if several else (_CPU | _ONE_PROCESS, (*FLAGS, _IN_PROCESS))
        with serving(programs, model, work, env=env, flags=flags) as running:
            yield running

    return start


@contextmanager
def serving(
    programs: Path, model: Path, work: Path, *, env: Mapping[str, str], key: str = KEY, flags: Sequence[str] = FLAGS
) -> Iterator[Running]:
    """vLLM from an environment, with a model."""
    port, log = free_port(), work / "vllm.log"
    argv: list[str | Path] = [
        *(programs / "python", "-m", entry_point(programs), "--model", model, "--served-model-name", "tiny"),
        *("--host", "127.0.0.1", "--port", str(port), *flags, *_TOOLS),
    ]
    # vLLM for CPUs looks for its own programs (ninja, a compiler) on PATH.
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    variables = {**_OFFLINE, **env, "PATH": path, **({"VLLM_API_KEY": key} if key else {})}
    url = f"http://127.0.0.1:{port}"
    with program(argv, log, answers(f"{url}/v1/models", key=key), env=variables, again=True):
        yield Running(url=url, log=log, key=key, again=True)


def entry_point(programs: Path) -> str:
    """Module of vLLM's server; it moved between 0.28 and 0.30."""
    moved = "vllm.entrypoints.launchers.api_server.entry"
    asked = "import importlib.util; print(importlib.util.find_spec('vllm').origin)"
    found = subprocess.run([programs / "python", "-c", asked], capture_output=True, text=True, check=True).stdout.strip()
    there = Path(found).parent.parent / Path(*moved.split(".")).with_suffix(".py")
    return moved if there.exists() else "vllm.entrypoints.openai.api_server"


@contextmanager
def backend(work: Path) -> Iterator[Running]:
    """The vLLM behind a proxy: one process, because it starts sooner."""
    programs = environment(f"vllm-{BACKEND}")
    with serving(
        programs, material.tiny(programs / "python"), work, env=_CPU | _ONE_PROCESS, flags=(*FLAGS, _IN_PROCESS)
    ) as running:
        yield running


@contextmanager
def smollm2(work: Path) -> Iterator[Running]:
    """vLLM for CPUs with a real small model."""
    programs = environment(f"vllm-{BACKEND}")
    with serving(programs, material.smollm2(), work, env=_CPU | _ONE_PROCESS, flags=(*FLAGS, _IN_PROCESS)) as running:
        yield running


@contextmanager
def vllm_gpu(work: Path) -> Iterator[Running]:
    """vLLM on the first GPU of this machine, from the lock of the CUDA image."""
    _needs_gpu()
    programs = environment("vllm-gpu", HERE.parents[1] / "images" / "cuda.lock")
    with serving(programs, material.tiny(programs / "python"), work, env={}, flags=_GPU_FLAGS) as running:
        yield running


def installed_gpu(version: str) -> Callable[[Path], AbstractContextManager[Running]]:
    """A start of the vLLM that is installed on this machine, on its first GPU."""

    @contextmanager
    def start(work: Path) -> Iterator[Running]:
        _needs_gpu()
        python = Path(os.environ.get(_GPU_PYTHON) or sys.executable)
        asked = "import importlib.metadata; print(importlib.metadata.version('vllm'))"
        found = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=False).stdout.strip()
        if found.partition("+")[0] != version:
            pytest.skip(
                f"{python} has {f'vLLM {found}' if found else 'no vLLM'}, not {version}; {_GPU_PYTHON} names another Python"
            )
        with serving(python.parent, material.tiny(python), work, env={}, flags=_GPU_FLAGS) as running:
            yield running

    return start


def _needs_gpu() -> None:
    listing = shutil.which("nvidia-smi")
    found = subprocess.run([listing, "-L"], capture_output=True, text=True, check=False).stdout if listing else ""
    if "GPU 0" not in found:
        pytest.skip("no GPU: nvidia-smi lists none")


@contextmanager
def transformers_serve(work: Path) -> Iterator[Running]:
    """``transformers serve`` with the tiny model; it knows no API key."""
    programs = environment("transformers")
    model = material.tiny(programs / "python")
    port, log = free_port(), work / "server.log"
    argv: list[str | Path] = [
        *(programs / "transformers", "serve", model, "--host", "127.0.0.1", "--port", str(port)),
        *("--device", "cpu", "--dtype", "float32"),
    ]
    url = f"http://127.0.0.1:{port}"
    with program(argv, log, answers(f"{url}/v1/models", key=""), env=_OFFLINE, again=True):
        yield Running(url=url, log=log, key="", again=True)


@contextmanager
def llama_cpp(work: Path) -> Iterator[Running]:
    """llama-cpp-python's server with the tiny model as GGUF."""
    programs = environment("llama-cpp-python")
    model = material.tiny_gguf(material.tiny(environment("transformers") / "python"))
    port, log = free_port(), work / "server.log"
    argv: list[str | Path] = [
        *(programs / "python", "-m", "llama_cpp.server", "--model", model, "--model_alias", "tiny", "--n_ctx", "2048"),
        *("--host", "127.0.0.1", "--port", str(port), "--n_threads", "1", "--n_threads_batch", "1"),
        # By default a request ends the streams of others.
        *("--logits_all", "true", "--interrupt_requests", "false"),
    ]
    url = f"http://127.0.0.1:{port}"
    with program(argv, log, answers(f"{url}/v1/models"), env={"API_KEY": KEY}, again=True):
        yield Running(url=url, log=log, again=True)
