"""The whole stage ``performance`` on real processes: comparisons of equal servers, and of servers with a known slowdown.

    python benchmarks/gate_real.py [--runs 6] [--slowdown 0 0.1] [--sd 0.07]
    python benchmarks/gate_real.py --vllm [--runs 6] [--first 0] [--slowdown 0 0.1] [--pairs 6 12]

Servers are doubles of vLLM that take a second to start and whose speed differs by chance from start to start; a token of the
slower ones takes 10 % longer. Everything else is real: pipeline, host engine, the program that measures, HTTP. With ``--vllm``
the servers are real, too: vLLM on the processor with the tiny model. Baseline and candidate are then commits of one repository
whose images have a logits processor; that of a slower commit waits after each step of the engine for 10 % of the step's time.
Printed are, for each comparison, verdict, number of pairs, estimates, and what one run against one run would have said. Exit
code 1 if a comparison of equal servers failed, or one with the slowdown passed, or one was errored.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import yaml

from standin.comparing import PacedEngine
from standin.repository import commit, repository
from vllm_ci import Report, run_pipeline

STAGES = """
stages:
  unit: {enabled: false}
  integration: {enabled: false}
  streaming: {enabled: false}
  security: {enabled: false}
  performance: {enabled: true, concurrency: 8, %s}
"""
DOUBLES = "version: 1\nname: gate\n" + STAGES % "workload: code, requests: 16, warm_up: 1, rounds: 1, pairs: {}"
QUICKSTART = Path(__file__).parents[1] / "examples/quickstart/vllm-ci.yaml"
PACE = '''"""A step of the engine takes longer by a share of its time."""

import time

from vllm.v1.sample.logits_processor import LogitsProcessor

SHARE = {share}
LONGEST_S = 0.2  # what takes longer is no step, but a time in which nothing was asked
# Makes the images of all commits different: {name}


class Pace(LogitsProcessor):
    def __init__(self, vllm_config, device, is_pin_memory):
        self.since = time.perf_counter()

    def is_argmax_invariant(self):
        return False

    def apply(self, logits):
        took = time.perf_counter() - self.since
        if SHARE and took < LONGEST_S:
            time.sleep(took * SHARE)
        self.since = time.perf_counter()
        return logits

    def update_state(self, batch_update):
        pass
'''


def of_vllm(baseline: str, pairs: tuple[int, int]) -> str:
    """The configuration for real servers: the quickstart's, with a logits processor."""
    least, most = pairs
    settings = f"requests: 64, rounds: 3, pairs: {{min: {least}, max: {most}}}, baseline: {baseline}"
    quickstart = yaml.safe_load(QUICKSTART.read_text(encoding="utf-8"))
    server = quickstart["server"]
    args = [each for each in server["args"] if "template" not in each]
    return yaml.safe_dump(
        {
            **{key: quickstart[key] for key in ("version", "name", "image", "model")},
            **yaml.safe_load(STAGES % settings),
            "server": {**server, "args": [*args, "--logits-processors=pace:Pace"]},
        }
    )


def project(folder: Path, pairs: tuple[int, int], *, is_real: bool) -> str:
    """Make the repository; its first commit."""
    if is_real:
        repository(folder, config=of_vllm("none", pairs), serving__pace=PACE.format(share=0, name="the baseline"))
    else:
        repository(folder, config=DOUBLES)
    return subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=folder, text=True).strip()


def candidate(folder: Path, first: str, pairs: tuple[int, int], slowdown: float, seed: str) -> None:
    """Commit the image that is compared with the one of the first commit."""
    (folder / "vllm-ci.yaml").write_text(of_vllm(first, pairs), encoding="utf-8")
    (folder / "serving/pace.py").write_text(PACE.format(share=slowdown, name=seed), encoding="utf-8")
    commit(folder, seed)


async def of_doubles(folder: Path, slowdown: float, sd: float, seed: str) -> Report:
    """One comparison of doubles."""
    async with PacedEngine(slowdown=slowdown, sd=sd, seed=seed, start_s=1.0) as engine:
        return await run_pipeline(folder, engine=engine)


def row_of(report: Report, *, slowdown: float, seed: str, seconds: float) -> dict[str, Any]:
    """What is printed of one comparison."""
    (stage,) = report.stages
    found: Any = stage.metrics.get("comparison") or {"pairs": [], "estimates": {}, "naive": {}}
    return {
        "slowdown": slowdown,
        "seed": seed,
        "verdict": str(stage.verdict),
        "pairs": len(found["pairs"]),
        "estimates": {name: round(each["slowdown"], 3) for name, each in found["estimates"].items()},
        "spread": {name: round(each["spread"], 3) for name, each in found["estimates"].items()},
        "naive": found["naive"].get("verdict"),
        "seconds": round(seconds, 1),
        **({"message": stage.message} if str(stage.verdict) in ("errored", "inconclusive") else {}),
    }


def main(numbers: range, slowdowns: list[float], sd: float, pairs: tuple[int, int], *, is_real: bool) -> int:
    """Run all comparisons; each has the number of its run in its seed."""
    missed = 0
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "project"
        first = project(folder, pairs, is_real=is_real)
        for number in numbers:
            for share in slowdowns:
                seed, begun = f"{number}:{share}", time.monotonic()
                if is_real:
                    candidate(folder, first, pairs, share, seed)
                report = asyncio.run(run_pipeline(folder) if is_real else of_doubles(folder, share, sd, seed))
                row = row_of(report, slowdown=share, seed=seed, seconds=time.monotonic() - begun)
                missed += row["verdict"] == ("passed" if share else "failed") or row["verdict"] == "errored"
                sys.stdout.write(json.dumps(row) + "\n")
                sys.stdout.flush()
    return int(missed > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--first", type=int, default=0, help="number of the first run, to go on with a series")
    parser.add_argument("--slowdown", type=float, nargs="+", default=[0.0, 0.1])
    parser.add_argument("--sd", type=float, default=0.07)
    parser.add_argument("--vllm", action="store_true", help="real vLLM instead of doubles")
    parser.add_argument("--pairs", type=int, nargs=2, default=[6, 12], help="least and most pairs with --vllm")
    given = parser.parse_args()
    runs = range(given.first, given.first + given.runs)
    sys.exit(main(runs, given.slowdown, given.sd, tuple(given.pairs), is_real=given.vllm))
