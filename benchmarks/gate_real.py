"""The whole stage ``performance`` on real processes: comparisons of equal servers, and of servers with a known slowdown.

    python benchmarks/gate_real.py [--runs 6] [--slowdown 0 0.1] [--sd 0.07]

Servers are doubles of vLLM that take a second to start and whose speed differs by chance from start to start; a token of the
slower ones takes 10 % longer. Everything else is real: pipeline, host engine, the program that measures, HTTP. Printed are, for
each comparison, verdict, number of pairs, estimates, and what one run against one run would have said. Exit code 1 if a
comparison of equal servers failed, or one with the slowdown passed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from standin.comparing import PacedEngine
from standin.repository import repository
from vllm_ci import run_pipeline

CONFIG = """
version: 1
name: gate
stages:
  unit: {enabled: false}
  integration: {enabled: false}
  streaming: {enabled: false}
  security: {enabled: false}
  performance: {enabled: true, workload: code, requests: 16, warm_up: 1, rounds: 1, concurrency: 8}
"""


async def compared(folder: Path, slowdown: float, sd: float, seed: str) -> dict[str, Any]:
    """One comparison, as a row."""
    begun = time.monotonic()
    async with PacedEngine(slowdown=slowdown, sd=sd, seed=seed, start_s=1.0) as engine:
        report = await run_pipeline(folder, engine=engine)
    (stage,) = report.stages
    found: Any = stage.metrics["comparison"]
    return {
        "slowdown": slowdown,
        "seed": seed,
        "verdict": str(stage.verdict),
        "pairs": len(found["pairs"]),
        "estimates": {name: round(each["slowdown"], 3) for name, each in found["estimates"].items()},
        "spread": {name: round(each["spread"], 3) for name, each in found["estimates"].items()},
        "naive": found["naive"].get("verdict"),
        "seconds": round(time.monotonic() - begun, 1),
        **({"message": stage.message} if str(stage.verdict) in ("errored", "inconclusive") else {}),
    }


async def main(runs: int, slowdowns: list[float], sd: float) -> int:
    """Run all comparisons."""
    missed = 0
    with tempfile.TemporaryDirectory() as home:
        folder = repository(Path(home) / "project", config=CONFIG)
        for number in range(runs):
            for share in slowdowns:
                row = await compared(folder, share, sd, f"{number}:{share}")
                missed += row["verdict"] == ("passed" if share else "failed") or row["verdict"] == "errored"
                sys.stdout.write(json.dumps(row) + "\n")
                sys.stdout.flush()
    return int(missed > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--slowdown", type=float, nargs="+", default=[0.0, 0.1])
    parser.add_argument("--sd", type=float, default=0.07)
    given = parser.parse_args()
    sys.exit(asyncio.run(main(given.runs, given.slowdown, given.sd)))
