"""What the pipeline costs beside pytest and the server: `python benchmarks/overhead.py [--runs 3]`.

Runs the main job of `--config` (by default the quickstart) once to build what it needs, and then measures it `--runs` times.
All processes below the pipeline are watched through /proc. Time in which the server starts (up to its first completion) or
pytest runs would pass without the pipeline as well. The rest of the run is its overhead, and so is the processor time that the
pipeline's own process used while those ran, because it may have taken it from them. The bound is 5 % of the time without the
pipeline.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))

from vllm_ci.performance.processes import family, processor_s

ROOT = Path(__file__).parents[1]
BOUND = 0.05
_EVERY_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run, all in seconds.

    Attributes:
        wall_s: The whole run.
        alone_s: Time in which neither the server started nor pytest ran.
        beside_s: Processor time of the pipeline's process while one of them did.
    """

    wall_s: float
    alone_s: float
    beside_s: float

    @property
    def overhead(self) -> float:
        """Overhead / time without the pipeline."""
        spent = self.alone_s + self.beside_s
        return spent / (self.wall_s - spent)


def command(pid: int) -> str:
    """The command line of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def once(arguments: list[str]) -> Run:
    """Run the main job and watch it."""
    begun = time.monotonic()
    served = threading.Event()
    with subprocess.Popen(
        [sys.executable, "-m", "vllm_ci", "run", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "pipeline")},
    ) as process:
        lines: list[str] = []

        def read() -> None:
            assert process.stderr is not None
            for line in process.stderr:
                lines.append(line.rstrip())
                if "first completion" in line:
                    served.set()

        reader = threading.Thread(target=read)
        reader.start()
        known: dict[int, str] = {}
        alone = beside = 0.0
        last, used = begun, 0.0
        while process.poll() is None:
            kinds = set()
            for pid in family(process.pid):
                # A new process has its parent's command line until it is executed.
                known[pid] = known.get(pid) or kind(command(pid))
                kinds.add(known[pid])
            now, processor = time.monotonic(), max(used, processor_s(process.pid))
            if "pytest" in kinds or ("server" in kinds and not served.is_set()):
                beside += processor - used
            else:
                alone += now - last
            last, used = now, processor
            time.sleep(_EVERY_S)
        wall = time.monotonic() - begun
        reader.join()
    if process.returncode:
        raise SystemExit("\n".join([*lines[-30:], f"exit code {process.returncode}"]))
    return Run(wall_s=wall, alone_s=alone + begun + wall - last, beside_s=beside)


def kind(line: str) -> str:
    """What a process of this command line is; empty if it is neither the server nor pytest."""
    if "pytest" in line:
        return "pytest"
    return "server" if "vllm.entrypoints" in line or " serve " in line else ""


def main() -> None:
    """Warm, measure, compare with the bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(ROOT / "examples/quickstart/vllm-ci.yaml"))
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--config", options.config, "--report-dir", folder]
        once(arguments)
        found = []
        for _ in range(options.runs):
            run = once(arguments)
            found.append(run)
            print(
                f"{run.wall_s:.1f} s: alone {run.alone_s:.2f} s, processor time beside others {run.beside_s:.2f} s, "
                f"overhead {run.overhead:.1%}",
                flush=True,
            )
    median = statistics.median(run.overhead for run in found)
    print(f"overhead {median:.1%}, bound {BOUND:.0%}: {'within' if median <= BOUND else 'above'}")


if __name__ == "__main__":
    main()
