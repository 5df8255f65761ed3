"""Where the time to the first completion goes, and how much memory it takes: `python benchmarks/startup.py [--runs 3]`.

Builds and serves the project of `--config` (by default the quickstart) as `vllm-ci serve` does, and reads the phases off
the server's own log: until its first line (interpreter, first imports), until the engine is configured (imports of vLLM and
torch), until the weights are loaded, until it listens, until one real completion has come back. Memory is the largest sum
of resident memory of all processes, the pipeline's own included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))

from vllm_ci.performance.processes import used

ROOT = Path(__file__).parents[1]
# In this order in the log of vLLM 0.32; what is absent is left out.
MARKS = (
    ("first line of the log", ""),
    ("engine configured", "Initializing a V1 LLM engine"),
    ("weights loaded", "Loading weights took"),
    ("engine ready", "init engine (profile, create kv cache, warmup model) took"),
    ("listening", "Application startup complete"),
)


def once(config: str, home: Path) -> dict[str, float]:
    """Seconds from the server's start to each mark, and peak memory in bytes."""
    seen: dict[str, float] = {}
    peak = 0
    name = f"startup-{os.getpid()}"
    with tempfile.TemporaryFile("w+", encoding="utf-8") as progress:
        command = [sys.executable, "-m", "vllm_ci", "serve", "--config", config, "--name", name]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=progress, text=True)
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        log: Path | None = None
        begun = 0.0
        while process.poll() is None:
            if log is None:
                log = max(home.glob("work/*/*-vllm/log"), key=lambda path: path.stat().st_mtime_ns, default=None)
                if log is not None and time.time() - log.stat().st_ctime > 5:
                    log = None  # another server's
                begun = time.monotonic()
            else:
                text = log.read_text(errors="replace", encoding="utf-8")
                for mark, pattern in MARKS:
                    if mark not in seen and text and pattern in text:
                        seen[mark] = time.monotonic() - begun
            taken = used(process.pid, pss=False)
            peak = max(peak, taken.rss_bytes if taken else 0)
            if process.stdout.readline():
                seen["first completion"] = time.monotonic() - begun
                break
            time.sleep(0.02)
        process.terminate()
        process.wait(120)
        process.stdout.close()
        if "first completion" not in seen:
            progress.seek(0)
            raise SystemExit(f"it did not start:\n{progress.read()[-3000:]}")
    return {**seen, "peak_memory_bytes": float(peak)}


def main() -> None:
    """Several runs; medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(ROOT / "examples/quickstart/vllm-ci.yaml"))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "pipeline"))
    from vllm_ci.system.home import home

    runs = [once(options.config, home()) for _ in range(options.runs)]
    medians = {name: statistics.median(run[name] for run in runs if name in run) for name in runs[0]}
    if options.json:
        print(json.dumps({"runs": runs, "medians": medians}, indent=2))
        return
    before = 0.0
    for name, value in medians.items():
        if name == "peak_memory_bytes":
            print(f"{'peak memory':<24} {value / 1e9:6.2f} GB")
        else:
            print(f"{name:<24} {value:6.2f} s  (+{value - before:.2f})")
            before = value


if __name__ == "__main__":
    main()
