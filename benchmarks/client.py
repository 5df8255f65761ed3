"""What measuring costs: CPU per event and lag of five streaming clients against one server, in one go.

    python benchmarks/client.py                     # a table; exit code 1 when a bound is missed
    python benchmarks/client.py --json --rounds 9

Each client reads the same streams in a process of its own, one after the other, in an order that moves on by one every round,
so that what disturbs the machine disturbs all of them; figures are medians of the rounds. All run on uvloop. Lag is the clock
when the client had the event minus the clock that the server wrote into it before sending.

Bounds: at most 10 us CPU per event, and a p99 lag of at most half of aiohttp's (median over rounds of their ratio in a round).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CLIENTS = ("vllm-ci", "aiohttp", "vllm bench serve", "httpx", "openai")  # as sse_clients.py calls them
HERE = Path(__file__).resolve().parent
CPU_BOUND_US = 10.0
LAG_BOUND = 0.5
FIGURES = ("cpu_us_per_event", "lag_p50_us", "lag_p99_us", "events_per_s")


@contextmanager
def serving(streams: int, rate: float, events: int) -> Iterator[str]:
    """URL of the server in its own process."""
    argv = [sys.executable, str(HERE / "sse_server.py")]
    argv += ["--streams", str(streams), "--rate", str(rate), "--events", str(events)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def run_one(name: str, url: str, streams: int) -> dict[str, Any]:
    """One client, one round."""
    argv = [sys.executable, str(HERE / "sse_clients.py"), name, url, str(streams)]
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def run_all(names: list[str], *, rounds: int, streams: int, rate: float, events: int) -> list[list[dict[str, Any]]]:
    """Every client once a round, the order moved on by one each time."""
    found = []
    with serving(streams, rate, events) as url:
        for number in range(rounds):
            start = number % len(names)
            order = names[start:] + names[:start]
            results = []
            for name in order:
                results.append(run_one(name, url, streams))
                if results[-1]["events"] != streams * events:
                    raise SystemExit(f"{name} saw {results[-1]['events']} of {streams * events} events")
                print(f"round {number + 1} {name}: {results[-1]['cpu_us_per_event']:.1f} us", file=sys.stderr)
            found.append(results)
    return found


def summary(rounds: list[list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Median of each figure by client."""
    names = sorted({result["client"] for results in rounds for result in results}, key=CLIENTS.index)
    return {
        name: {
            figure: statistics.median(result[figure] for results in rounds for result in results if result["client"] == name)
            for figure in FIGURES
        }
        for name in names
    }


def lag_ratio(rounds: list[list[dict[str, Any]]]) -> float | None:
    """Median over rounds of our p99 lag by aiohttp's in the same round."""
    by_round = [{result["client"]: result["lag_p99_us"] for result in results} for results in rounds]
    ratios = [lags["vllm-ci"] / lags["aiohttp"] for lags in by_round if {"vllm-ci", "aiohttp"} <= lags.keys()]
    return statistics.median(ratios) if ratios else None


def table(medians: dict[str, dict[str, float]]) -> str:
    """For people."""
    lines = [f"{'client':<18}{'CPU us/event':>13}{'lag p50 us':>12}{'lag p99 us':>12}{'events/s':>10}"]
    lines += [
        f"{name:<18}{row['cpu_us_per_event']:>13.1f}{row['lag_p50_us']:>12.0f}{row['lag_p99_us']:>12.0f}{row['events_per_s']:>10.0f}"
        for name, row in medians.items()
    ]
    return "\n".join(lines)


def main() -> int:
    """Run, print, and say whether the bounds hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--rate", type=float, default=25_600, help="events per second of all streams together")
    parser.add_argument("--events", type=int, default=1600, help="events of each stream")
    parser.add_argument("--client", action="append", choices=CLIENTS, help="only these (repeat)")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    names = given.client or list(CLIENTS)
    rounds = run_all(names, rounds=given.rounds, streams=given.streams, rate=given.rate, events=given.events)
    medians, ratio = summary(rounds), lag_ratio(rounds)
    cpu = medians.get("vllm-ci", {}).get("cpu_us_per_event")
    held = (cpu is None or cpu <= CPU_BOUND_US) and (ratio is None or ratio <= LAG_BOUND)
    if given.json:
        print(json.dumps({"medians": medians, "lag_p99_ratio_to_aiohttp": ratio, "bounds_held": held, "rounds": rounds}))
        return 0 if held else 1
    print(table(medians))
    if cpu is not None:
        print(f"CPU per event {cpu:.1f} us, bound {CPU_BOUND_US:.0f}: {'held' if cpu <= CPU_BOUND_US else 'MISSED'}")
    if ratio is not None:
        print(f"p99 lag {ratio:.2f} of aiohttp's, bound {LAG_BOUND}: {'held' if ratio <= LAG_BOUND else 'MISSED'}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
