"""Measure one start of a server: a warm-up, then rounds of a fixed workload. Runs beside the server, on any engine.

    python -m vllm_ci.performance.program --url URL --workload chat --requests 32 --rounds 3 --out FOLDER

The folder gets ``measurement.json``, which is written again after every round, and ``asked.json``, with what a second server
has to be asked (``--asked FOLDER``) so that both do the same work; with ``--greedy`` also ``greedy.json``, answers to fixed
prompts. Exit code 0 if all rounds were run, whatever they show; 3 if the server cannot be measured.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vllm_ci.domain.report import Verdict
from vllm_ci.performance import greedy
from vllm_ci.performance.load import Load, Target
from vllm_ci.performance.measuring import Measurement, Setting, measure
from vllm_ci.performance.rounds import FixedWorkload, Round, fixed
from vllm_ci.performance.server import Served, served
from vllm_ci.performance.workload import WORKLOADS
from vllm_ci.suites.reach import UnreachableError
from vllm_ci.suites.verdicts import Fault

MEASUREMENT, ASKED, GREEDY = "measurement.json", "asked.json", "greedy.json"
_WARM_UP_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What has to be the same for two servers, besides the workload.

    Attributes:
        words: Words that prompts are made of.
        tokens_per_word: Tokens of a word on average.
        exact: Prompt lengths are exact.
        max_model_len: Context that lengths are scaled to.
        chat: Chat completions are used; otherwise completions.
        ignore_eos: Answers have the requested length.
    """

    words: tuple[str, ...]
    tokens_per_word: float
    exact: bool
    max_model_len: int
    chat: bool
    ignore_eos: bool

    @classmethod
    def of(cls, server: Served) -> Asked:
        """As it suits a server."""
        return cls(
            words=tuple(server.words),
            tokens_per_word=server.tokens_per_word,
            exact=server.exact,
            max_model_len=server.facts.max_model_len,
            chat=server.facts.can("chat"),
            ignore_eos=server.facts.can("ignore_eos"),
        )

    def imposed(self, server: Served) -> Served:
        """The server, to be asked just this."""
        absent = {name: why for name, why in server.facts.absent.items() if name not in ("chat", "ignore_eos")}
        missing = [name for name, there in (("chat", self.chat), ("ignore_eos", self.ignore_eos)) if not there]
        absent |= dict.fromkeys(missing, "the other server does not have it")
        facts = replace(server.facts, absent=absent, max_model_len=self.max_model_len)
        return replace(server, facts=facts, words=self.words, tokens_per_word=self.tokens_per_word, exact=self.exact)


@dataclass(kw_only=True)
class Start:
    """The measurement of one start.

    Attributes:
        server: The server.
        workload: Requests of a round.
        setting: Of each round; its seed is that of the first one.
        rounds: Number of rounds.
        warm_up: Requests before the first round.
        out: Folder for the results.
        done: What was measured.
    """

    server: Served
    workload: FixedWorkload
    setting: Setting
    rounds: int
    warm_up: int
    out: Path
    done: list[tuple[Round, Measurement]] = field(default_factory=list)

    def run(self) -> bool:
        """Measure; false if it was stopped, or the server does not answer any more."""
        if self.warm_up:
            workload = replace(self.workload, count=self.warm_up)
            if measure(self.server, replace(self.setting, workload=workload, seed=_WARM_UP_SEED, rate=0.0)).interrupted:
                return False
        for number in range(self.rounds):
            loads: list[Load] = []
            found = measure(self.server, replace(self.setting, seed=self.setting.seed + number), watch=loads.append)
            load = loads[0] if loads else Load(target=Target(url=self.server.url, model=""), asks=iter(()))
            self.done.append((Round.of(found, load), found))
            self.write()
            if found.interrupted or found.verdict is Verdict.ERRORED:
                return False
        return True

    def write(self) -> None:
        """Write what was measured until now."""
        document: dict[str, Any] = {
            "format": 1,
            "server": {**self.server.facts.facts},
            "rounds": [each.document() for each, _ in self.done],
            "measurements": [found.document() for _, found in self.done],
        }
        part = self.out / f"{MEASUREMENT}.part"
        part.write_text(json.dumps(document) + "\n", encoding="utf-8")
        part.replace(self.out / MEASUREMENT)


def main(arguments: Sequence[str]) -> int:
    """Run the program."""
    given = _parser().parse_args(arguments)
    key = os.environ.get(given.api_key_env, "") if given.api_key_env else ""
    try:
        server = served(given.url, model=given.model, key=key)
    except UnreachableError as error:
        sys.stdout.write(f"the server cannot be measured: {error}\n")
        return 3
    if given.asked:
        data = json.loads((given.asked / ASKED).read_text(encoding="utf-8"))
        asked = Asked(**{**data, "words": tuple(data["words"])})
    else:
        asked = Asked.of(server)
    (given.out / ASKED).write_text(json.dumps(vars(asked)) + "\n", encoding="utf-8")
    workload = fixed(WORKLOADS[given.workload], given.requests)
    start = Start(
        server=asked.imposed(server),
        workload=workload,
        setting=Setting(
            workload=workload,
            rate=given.rate,
            concurrency=given.concurrency,
            duration_s=given.limit,
            warm_up_s=0.0,
            seed=given.seed,
            timeout_s=given.limit,
        ),
        rounds=given.rounds,
        warm_up=given.warm_up,
        out=given.out,
    )
    if given.greedy:
        (given.out / GREEDY).write_text(json.dumps(_greedy(server)) + "\n", encoding="utf-8")
    complete = start.run()
    for number, (each, _) in enumerate(start.done, 1):
        values = "  ".join(f"{name} {value:.2f}" for name, value in each.values.items())
        sys.stdout.write(f"round {number}: {each.verdict}  {values}  {'; '.join(each.reasons)}".rstrip() + "\n")
    return 0 if complete else 3


def _greedy(server: Served) -> dict[str, Any]:
    try:
        return {"answers": greedy.answers(server)}
    except Fault as error:
        return {"answers": [], "why": str(error)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vllm_ci.performance.program", description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", default="")
    parser.add_argument("--api-key-env", default="")
    parser.add_argument("--workload", choices=tuple(WORKLOADS), default="chat")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=8)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=float, default=1500.0, help="longest time of a round, in seconds")
    parser.add_argument("--asked", type=Path)
    parser.add_argument("--greedy", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
