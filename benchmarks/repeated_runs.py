"""The same verdict each time: all suites against one server, again and again, on a busy machine.

    python benchmarks/repeated_runs.py                          # 20 runs against the double, 3 busy loops per processor
    python benchmarks/repeated_runs.py --url http://host:8000   # a server of yours
    python benchmarks/repeated_runs.py --hogs 0 --runs 5        # on a quiet machine

Runs `vllm-ci test --url` as a user does and prints the verdict and the seconds of each run, then every finding and every case
that was not the same in all runs. `inconclusive` is no contradiction: the machine had no processor time to tell. Exit status 1
if two runs contradict each other: a case failed in one and passed in another.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from verdicts_under_load import KEY_ENV, ROOT, hogs, served  # type: ignore[import-not-found]

LONGEST_S = 3600.0
_KEY = "key-of-the-double-0123456789"


def run(url: str, more: list[str], folder: Path) -> tuple[str, dict[str, str]]:
    """The verdict of one run, and the status of each case."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "pipeline"), KEY_ENV: _KEY}
    stages = [word for name in ("integration", "streaming", "security") for word in ("--stage", name)]
    command = [sys.executable, "-m", "vllm_ci", "test", "--url", url, *stages, *more, "--report-dir", str(folder), "--json"]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=LONGEST_S, check=False)
    if not done.stdout.strip():
        raise SystemExit(f"exit code {done.returncode} and no result:\n{done.stderr[-3000:]}")
    summary = json.loads(done.stdout)
    report = json.loads((Path(summary["report_dir"]) / "report.json").read_text(encoding="utf-8"))
    return summary["verdict"], {case["name"]: case["status"] for stage in report["stages"] for case in stage["cases"]}


def contradictions(statuses: Mapping[str, Counter[str]]) -> list[str]:
    """Cases that failed in one run and passed in another."""
    return [name for name, counts in statuses.items() if counts["passed"] and counts["failed"] + counts["errored"]]


@contextmanager
def server(url: str) -> Iterator[str]:
    """The URL that was given, otherwise that of a double with an API key."""
    if url:
        yield url
        return
    with served("correct", _KEY) as own:
        yield own


def main() -> int:
    """All runs, then what differed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="", help="server to test; by default a double that is correct")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--hogs", type=int, default=3 * (os.cpu_count() or 1), help="busy loops beside the runs")
    known, more = parser.parse_known_args()
    if not known.url:
        more += ["--api-key-env", KEY_ENV]
    verdicts: Counter[str] = Counter()
    statuses: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as folder, server(known.url) as url, hogs(known.hogs):
        for number in range(1, known.runs + 1):
            begun = time.monotonic()
            verdict, cases = run(url, more, Path(folder))
            verdicts[verdict] += 1
            for name, status in cases.items():
                statuses.setdefault(name, Counter())[status] += 1
            print(f"run {number}: {verdict}, {time.monotonic() - begun:.0f} s, {dict(Counter(cases.values()))}", flush=True)
    print(f"\nverdicts: {dict(verdicts)}")
    for name, counts in statuses.items():
        if len(counts) > 1:
            print(f"  {name}: {dict(counts)}")
    wrong = contradictions(statuses)
    print(f"{len(wrong)} contradictions" + "".join(f"\n  {name}" for name in wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
