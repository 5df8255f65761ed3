"""The same load on vLLM, ``transformers serve`` and llama.cpp's server with the same weights, on this machine, in turns.

    python benchmarks/backends.py [--rounds 3] [--duration 20] [--concurrency 1 2 4 8] [--write docs]

The model is the tiny random Llama, made on the spot, in float32. The engines come from the package index, as for
``ci/test -m servers``, and each runs its model with the arguments that are used there. All three stay up; only one at a time is
measured, in random order in every round, with the same prompts. Printed is a Markdown table: medians over rounds, and lowest to
highest. ``--write docs`` writes the table into ``docs/comparison.md`` and its picture beside it.

The tiny model says what an engine costs for each request and token, not how fast it runs a model of real size.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pipeline"))

from servers import engines
from servers.programs import Running
from vllm_ci.performance.curve import Line, chart
from vllm_ci.performance.figures import Figures
from vllm_ci.performance.measuring import Measurement, Setting, measure
from vllm_ci.performance.server import Served, served
from vllm_ci.performance.workload import Lengths, Workload

ENGINES: dict[str, Callable[[Path], AbstractContextManager[Running]]] = {
    "vLLM 0.32.0": engines.backend,
    "transformers serve 5.24.0": engines.transformers_serve,
    "llama-cpp-python 0.3.36": engines.llama_cpp,
}
METRICS: dict[str, Callable[[Figures], float | None]] = {
    "ttft p50 (ms)": lambda found: found.ttft_ms.percentiles.get(50.0) if found.ttft_ms else None,
    "tpot p50 (ms)": lambda found: found.tpot_ms.percentiles.get(50.0) if found.tpot_ms else None,
    "e2e p50 (ms)": lambda found: found.e2e_ms.percentiles.get(50.0) if found.e2e_ms else None,
    "output tokens/s": lambda found: found.output_tokens_per_s or None,
}
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
PICTURE = "comparison.svg"
Rounds = dict[tuple[str, int], list[Measurement]]


def workload(prompt: int, output: int) -> Workload:
    """Constant lengths."""
    prompts, outputs = (Lengths(median=tokens, mean=tokens, largest=tokens) for tokens in (prompt, output))
    return Workload(name="fixed", version=1, source="constant lengths", prompt=prompts, output=outputs)


def measured(found: dict[str, Served], given: argparse.Namespace) -> Rounds:
    """All engines at all loads, in random order within each round."""
    order = random.Random(given.seed)
    cells = [(name, concurrency) for name in found for concurrency in given.concurrency]
    rounds: Rounds = {cell: [] for cell in cells}
    for number in range(given.rounds):
        for name, concurrency in order.sample(cells, len(cells)):
            setting = Setting(
                workload=workload(given.prompt, given.output),
                concurrency=concurrency,
                duration_s=given.duration,
                warm_up_s=given.duration / 10,
                seed=given.seed + number,
            )
            one = measure(found[name], setting)
            rounds[name, concurrency].append(one)
            rate = f"{one.figures.output_tokens_per_s:.0f} tokens/s"
            why = "".join(f"; {reason}" for reason in one.reasons)
            print(
                f"round {number + 1}: {name}, {concurrency} at a time: {one.verdict}, {rate}{why}", file=sys.stderr, flush=True
            )
    return rounds


def _cell(one: Sequence[Measurement], metric: str) -> str:
    values = [value for each in one if (value := METRICS[metric](each.figures)) is not None]
    if not values:
        return "-"
    return f"{statistics.median(values):.4g} ({min(values):.4g} to {max(values):.4g})"


def table(rounds: Rounds) -> str:
    """One row for each engine and load."""
    rows = [f"| server | requests at a time | {' | '.join(METRICS)} | failed |", "|---|---|" + "---|" * (len(METRICS) + 1)]
    for (name, concurrency), one in rounds.items():
        cells = [_cell(one, metric) for metric in METRICS]
        failed = sum(sum(each.figures.failed.values()) for each in one)
        rows.append(f"| {name} | {concurrency} | {' | '.join(cells)} | {failed} of {sum(e.figures.requests for e in one)} |")
    return "\n".join(rows)


def picture(rounds: Rounds) -> str:
    """Throughput over load, a line for each engine, as SVG."""
    lines = []
    for name in ENGINES:
        points = [
            (float(concurrency), statistics.median(each.figures.output_tokens_per_s for each in one))
            for (engine, concurrency), one in rounds.items()
            if engine == name
        ]
        lines.append(Line(name=name, points=points))
    return chart("Output tokens per second over load", lines, x_label="requests at a time", y_label="output tokens/s")


def write(folder: Path, text: str, drawn: str) -> None:
    """Replace the table of ``comparison.md`` and its picture."""
    page = folder / "comparison.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    (folder / PICTURE).write_text(drawn + "\n", encoding="utf-8")


def main() -> int:
    """The command; 1 if a request failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--duration", type=float, default=20.0, help="seconds of one measurement")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--prompt", type=int, default=128, help="tokens of a prompt")
    parser.add_argument("--output", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    with ExitStack() as stack:
        found = {}
        for name, start in ENGINES.items():
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="backend-")))
            running = stack.enter_context(start(work))
            found[name] = served(running.url, model=running.model, key=running.key)
        rounds = measured(found, given)
    load = f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {platform.machine()}"
    when = datetime.now(UTC).date().isoformat()
    size = f"prompts of {given.prompt} tokens, answers of {given.output}"
    head = f"Measured on {when}: {size}, {given.rounds} rounds of {given.duration:g} s; {load}.\n"
    text = f"{head}\n{table(rounds)}"
    print(text)
    if given.write:
        write(given.write, text, picture(rounds))
    return int(any(each.figures.failed for one in rounds.values() for each in one))


if __name__ == "__main__":
    sys.exit(main())
