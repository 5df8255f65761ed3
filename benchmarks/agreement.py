"""The same server measured by ``vllm bench serve`` and by ``vllm-ci bench``, in turns, and the difference of each metric.

    python benchmarks/agreement.py --url http://127.0.0.1:8000 --python path/to/python --tokenizer path/to/model
    python benchmarks/agreement.py --double --python path/to/python --tokenizer path/to/model   # a double of known speed

``--python`` is an interpreter with vLLM. The command ``vllm`` itself is not used: that of the builds for CPUs looks for a
distribution of another name than its own and ends.

Both send prompts of the same length, ask for the same number of tokens, and keep the same number of requests running. The
rounds alternate; medians over rounds are compared. A difference of 2 % or less agrees; so does one within what either client
differs from itself between rounds. A larger one is accepted only where a definition differs and explains all of it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))

from vllm_ci.performance.measuring import Setting, measure
from vllm_ci.performance.server import Served, served
from vllm_ci.performance.workload import Lengths, Workload

SAME = 0.02
CLIENT_MS = 2.5  # what the client of `vllm bench serve` (aiohttp) takes of its own between sending and the first chunk
METRICS: Mapping[str, str] = {
    "ttft_ms mean": "mean_ttft_ms",
    "ttft_ms p50": "median_ttft_ms",
    "tpot_ms mean": "mean_tpot_ms",
    "tpot_ms p50": "median_tpot_ms",
    "inter_chunk_ms mean": "mean_itl_ms",
    "inter_chunk_ms p50": "median_itl_ms",
    "e2e_ms mean": "mean_e2el_ms",
    "e2e_ms p50": "median_e2el_ms",
    "requests/s": "request_throughput",
    "output tokens/s": "output_throughput",
}

BENCH_SERVE = """
import argparse
from vllm.benchmarks import serve
parser = argparse.ArgumentParser()
serve.add_cli_args(parser)
serve.main(parser.parse_args())
"""


def theirs(given: argparse.Namespace, server: Served, seed: int) -> dict[str, float]:
    """One round of ``vllm bench serve``."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            given.python, "-c", BENCH_SERVE, "--backend", "openai-chat", "--base-url", server.url,
            "--endpoint", "/v1/chat/completions", "--model", server.facts.model,
            "--tokenizer", given.tokenizer, "--dataset-name", "random",
            "--random-input-len", given.prompt, "--random-output-len", given.output, "--random-range-ratio", "0",
            "--num-prompts", given.requests, "--max-concurrency", given.concurrency, "--request-rate", "inf", "--ignore-eos",
            "--temperature", "0", "--seed", seed, "--percentile-metrics", "ttft,tpot,itl,e2el", "--save-result",
            "--result-dir", folder, "--result-filename", "found.json", "--disable-tqdm",
        ]  # fmt: skip
        environment = {**os.environ, "OPENAI_API_KEY": "none"}
        ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, check=False)
        file = Path(folder) / "found.json"
        if ended.returncode or not file.exists():
            raise SystemExit(f"vllm bench serve failed:\n{(ended.stdout + ended.stderr)[-3000:]}")
        found = json.loads(file.read_text(encoding="utf-8"))
    return {ours: float(found[name]) for ours, name in METRICS.items()}


def ours(given: argparse.Namespace, server: Served, seed: int, seconds: float) -> dict[str, float]:
    """One round of ours, for as many seconds as theirs took."""
    workload = Workload(
        name="fixed",
        version=1,
        source="constant lengths",
        prompt=Lengths(median=given.prompt, mean=given.prompt, largest=given.prompt),
        output=Lengths(median=given.output, mean=given.output, largest=given.output),
    )
    setting = Setting(workload=workload, concurrency=given.concurrency, duration_s=seconds, warm_up_s=0.0, seed=seed)
    measured = measure(server, setting)
    found = measured.figures
    if found.failed or found.ttft_ms is None or found.tpot_ms is None or found.e2e_ms is None:
        raise SystemExit(f"our measurement failed: {found.failed or measured.reasons}")
    spreads = {"ttft_ms": found.ttft_ms, "tpot_ms": found.tpot_ms, "e2e_ms": found.e2e_ms}
    result = {f"{name} mean": spread.mean for name, spread in spreads.items()}
    result |= {f"{name} p50": spread.percentiles[50.0] for name, spread in spreads.items()}
    result |= {f"inter_chunk_ms {name}": found.inter_chunk_latency_ms[name] for name in ("mean", "p50")}
    return result | {"requests/s": found.requests_per_s, "output tokens/s": found.output_tokens_per_s}


@contextlib.contextmanager
def double() -> Iterator[str]:
    """A server in a process of its own that takes 10 ms for a token."""
    program = (
        "import time\nfrom doubles.running import running\nfrom doubles.server import Double\n"
        "class Known(Double):\n    token_s = 0.01\n"
        "with running(Known) as (url, _):\n    print(url, flush=True)\n    time.sleep(3600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[:2])}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment) as process:
        if process.stdout is None:
            raise SystemExit("the double has no output")
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def reason(name: str, theirs: float, ours: float, rest: Mapping[str, float], output: int) -> str:
    """Why ours differs from theirs, if a difference of the definitions explains all of it; else nothing.

    Args:
        name: The metric.
        theirs: Its value.
        ours: Its value.
        rest: Our other metrics.
        output: Tokens of an answer.
    """
    if name.startswith("ttft") and 0 < theirs - ours <= CLIENT_MS:
        return "their client's own time"
    if name.startswith("e2e") and 0 < ours - theirs <= rest["inter_chunk_ms mean"] + CLIENT_MS:
        return "ours ends with the usage, theirs with the last choice"
    if name == "inter_chunk_ms mean" and abs(theirs * output / (output - 1) / ours - 1) <= SAME:
        return "theirs counts the chunk with the reason of the end as one more gap"
    return ""


def compared(given: argparse.Namespace, url: str) -> int:
    """Measure in turns and print the table; the number of metrics that do not agree."""
    server = served(url, model=given.model or "")
    rounds: dict[str, list[dict[str, float]]] = {"theirs": [], "ours": []}
    for number in range(given.rounds):
        rounds["theirs"].append(theirs(given, server, 2 * number))
        seconds = given.requests / rounds["theirs"][-1]["requests/s"]
        rounds["ours"].append(ours(given, server, 2 * number + 1, seconds))
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; {given.rounds} rounds of {given.requests} requests")
    print(f"{'metric':<22}{'vllm bench':>12}{'vllm-ci':>12}{'difference':>12}{'own spread':>12}")
    apart = 0
    for name in METRICS:
        a, b = ([each[name] for each in rounds[side]] for side in ("theirs", "ours"))
        one, other = statistics.median(a), statistics.median(b)
        spread = max((max(values) - min(values)) / statistics.median(values) for values in (a, b))
        difference = other / one - 1
        agrees = abs(difference) <= max(SAME, spread)
        rest = {each: statistics.median(found[each] for found in rounds["ours"]) for each in METRICS}
        why = "" if agrees else reason(name, one, other, rest, given.output)
        apart += not agrees and not why
        note = "" if agrees else f"  {why or 'differs'}"
        print(f"{name:<22}{one:>12.3f}{other:>12.3f}{difference:>+12.1%}{spread:>12.1%}{note}")
    return apart


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a server")
    parser.add_argument("--double", action="store_true", help="measure a server of known speed instead")
    parser.add_argument("--model", help="its model; the first one by default")
    parser.add_argument("--python", required=True, help="an interpreter with vLLM")
    parser.add_argument("--tokenizer", required=True, help="folder or name of the tokenizer, for vllm bench serve")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of a prompt")
    parser.add_argument("--output", type=int, default=32, help="tokens of an answer")
    parser.add_argument("--concurrency", type=int, default=2)
    parser.add_argument("--requests", type=int, default=60, help="in each round")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if bool(given.url) == given.double:
        parser.error("give either --url or --double")
    with double() if given.double else contextlib.nullcontext(given.url) as url:
        return int(compared(given, url) > 0)


if __name__ == "__main__":
    sys.exit(main())
