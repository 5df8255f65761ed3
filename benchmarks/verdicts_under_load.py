"""Verdicts about timing on a machine that has no processor time: none may be a false `failed`.

    python benchmarks/verdicts_under_load.py [RUNS]              # cases of a correct server, with 3 busy loops per processor
    python benchmarks/verdicts_under_load.py 5 --defects         # seeded defects of delivery: none may pass
    python benchmarks/verdicts_under_load.py --streams 400       # the shares that the rules are based on
    python benchmarks/verdicts_under_load.py 20 --hogs 0         # the same on a quiet machine

Starts the busy loops, runs the timing cases of the suites against the double (in a process of its own) and prints how often
each verdict came. Exit status 1 if a correct server failed, or a defect passed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "pipeline"), str(ROOT / "tests")]

from doubles.defects import DEFECTS  # noqa: E402 - found by the path above
from doubles.running import running  # noqa: E402
from doubles.server import Double  # noqa: E402
from vllm_ci.loadgen.recorder import Recorder  # noqa: E402
from vllm_ci.suites import streaming  # noqa: E402
from vllm_ci.suites.streaming.timing import Arrival  # noqa: E402

SUITES = Path(streaming.__file__).parents[1]
TIMING = (
    "streaming/test_delivery.py::test_chunks_arrive_over_time",
    "streaming/test_delivery.py::test_the_first_chunk_comes_before_a_whole_answer_would",
    "streaming/test_delivery.py::test_concurrent_chunks_arrive_over_time",
    "streaming/test_disconnect.py",
    "integration/test_concurrency.py",
)
HELD_BACK = ("burst-at-the-end", "first-chunk-late", "groups-of-chunks", "late-beyond-eight-streams")
HOG = "while True: pass"
TOKENS = 1000
KEY_ENV = "DOUBLE_KEY"


class Unhurried(Double):
    """A correct server whose answers take long enough to tell streams from bursts."""

    token_s = 0.0012


@contextlib.contextmanager
def hogs(count: int) -> Iterator[None]:
    """Busy loops while the context lasts."""
    started = [subprocess.Popen([sys.executable, "-c", HOG]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


@contextlib.contextmanager
def served(name: str, key: str = "") -> Iterator[str]:
    """URL of a double in a process of its own: the correct one, or a defect; with an API key if one is given."""
    argv = [sys.executable, __file__, "--serve", name]
    env = {**os.environ, KEY_ENV: key}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, env=env) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def serve(name: str) -> None:
    """Serve until standard input ends."""
    make = DEFECTS[name].make if name in DEFECTS else Unhurried
    with running(lambda: make(key=os.environ.get(KEY_ENV, ""))) as (url, _):
        print(url, flush=True)
        sys.stdin.read()


def verdicts(url: str, cases: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """Status and message of each case, by name; run in this process, because starting one takes longer than the cases."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["-p", "vllm_ci.suites.plugin", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:timeout"]
        arguments += ["-c", "/dev/null", "--rootdir", folder, "--base-url", url, "--vllm-report", folder, "-q"]
        arguments += ["-p", "no:unraisableexception", "-W", "ignore", *(str(SUITES / case) for case in cases)]
        with contextlib.redirect_stdout(io.StringIO()):
            pytest.main(arguments)
        document = json.loads((Path(folder) / "cases.json").read_text(encoding="utf-8"))
    return {case["name"]: (case["status"], case["message"]) for case in document["cases"]}


def worker(runs: int) -> None:
    """Run the cases of a correct server, and print the verdicts of each run as a line."""
    with served("correct") as url:
        for _ in range(runs):
            print(json.dumps(verdicts(url, TIMING)), flush=True)


def of_the_correct_server(runs: int, workers: int) -> bool:
    """Count verdicts; whether none is a false one."""
    counts: dict[str, Counter[str]] = {}
    wrong, done = [], 0
    for line in _lines(runs, workers):
        done += 1
        for name, (status, message) in json.loads(line).items():
            counts.setdefault(name, Counter())[status] += 1
            if status in ("failed", "errored"):
                wrong.append(f"run {done}: {name}: {message}")
        print(f"{done} of {runs} runs: {dict(sum(counts.values(), Counter()))}", file=sys.stderr, flush=True)
    for name, found in sorted(counts.items()):
        print(f"{name:100} {dict(found)}")
    print("\n".join([f"all of {done} runs: {dict(sum(counts.values(), Counter()))}", *wrong]))
    return not wrong and done == runs


def _lines(runs: int, workers: int) -> Iterator[str]:
    """Lines of all workers, as they come."""
    share = [runs // workers + (number < runs % workers) for number in range(workers)]
    lines: queue.Queue[str] = queue.Queue()

    def read(count: int) -> None:
        argv = [sys.executable, __file__, "--worker", str(count)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout or ():
                lines.put(line)

    threads = [threading.Thread(target=read, args=(count,)) for count in share if count]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) or not lines.empty():
        with contextlib.suppress(queue.Empty):
            yield lines.get(timeout=1)


def of_defects(runs: int) -> bool:
    """Count verdicts of the cases that are there for each defect; whether none passed."""
    passed = False
    for name in HELD_BACK:
        with served(name) as url:
            found = [status for _ in range(runs) for status, _ in verdicts(url, DEFECTS[name].named).values()]
        passed = passed or "passed" in found
        print(f"{name:40} {dict(Counter(found))}", flush=True)
    return not passed


def of_streams(count: int) -> bool:
    """Print how much streams of a second look like bursts."""
    with served("correct") as url, Recorder(url) as recorder:
        found: list[Arrival] = []
        while len(found) < count:
            body = {"model": "double", "prompt": "Count.", "max_tokens": TOKENS, "ignore_eos": True}
            stream = recorder.stream("/v1/completions", body)
            at_ms = [(at_ns - stream.exchange.sent_ns) / 1e6 for at_ns in stream.tally.arrivals_ns]
            found.append(Arrival(at_ms=at_ms, latency_ms=0.0))
    for name in ("share", "moments"):
        values = sorted(float(getattr(each, name)) for each in found)
        print(f"{count} streams: {name}: lowest {[round(value, 3) for value in values[:5]]}, median {values[count // 2]:.3f}")
    return True


def main() -> int:
    """Run, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="?", type=int, default=100)
    parser.add_argument("--hogs", type=int, default=3 * (os.cpu_count() or 1), help="busy loops")
    parser.add_argument("--defects", action="store_true", help="seeded defects instead of the correct server")
    parser.add_argument("--streams", type=int, default=0, help="only measure this many streams")
    parser.add_argument("--workers", type=int, default=4, help="runs at the same time; they add to the load")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve or given.worker:
        serve(given.serve) if given.serve else worker(given.worker)
        return 0
    begun = time.monotonic()
    with hogs(given.hogs):
        if given.streams:
            right = of_streams(given.streams)
        else:
            right = of_defects(given.runs) if given.defects else of_the_correct_server(given.runs, given.workers)
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    print(f"{time.monotonic() - begun:.0f} s with {given.hogs} busy loops; load {load:.1f} for each processor at the end")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
