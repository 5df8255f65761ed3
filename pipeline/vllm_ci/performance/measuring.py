"""One measurement: a workload on a server, with its figures, the server's own counters, and whether it can be trusted."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vllm_ci.domain.report import Verdict
from vllm_ci.performance import arrivals
from vllm_ci.performance.arrivals import Pattern
from vllm_ci.performance.figures import Figures, Objective, figures
from vllm_ci.performance.load import Load, Target
from vllm_ci.performance.resources import Resources, Watch
from vllm_ci.performance.sample import Samples
from vllm_ci.performance.server import Served
from vllm_ci.performance.stopping import ran
from vllm_ci.performance.trend import Trend, trend
from vllm_ci.performance.workload import Ask, Requests, Workload

_FAILURES_SHOWN = 3
_TOLERANCE = 0.01
_REPEATED = 0.2
"""Prompts share less than this by a chat template, also where they are short."""
_TURN_S = 5.0
"""Mean time between two turns of a conversation in an open loop."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a server is measured.

    Attributes:
        workload: What is asked.
        rate: Requests per second of an open loop; 0 for a closed loop.
        concurrency: Requests of a closed loop that run at the same time.
        duration_s: Requests are sent for this many seconds.
        warm_up_s: Requests due in the first seconds are not counted.
        pattern: Distribution of arrivals of an open loop.
        burstiness: See :func:`~vllm_ci.performance.arrivals.times`.
        seed: The same seed gives the same requests at the same times.
        objective: What a good request is.
        timeout_s: Timeout of one request.
        real_history: Later turns of a conversation repeat the model's answers, not the synthetic ones.
    """

    workload: Requests
    rate: float = 0.0
    concurrency: int = 8
    duration_s: float = 60.0
    warm_up_s: float = 5.0
    pattern: Pattern = Pattern.POISSON
    burstiness: float = 1.0
    seed: int = 1
    objective: Objective = field(default_factory=Objective)
    timeout_s: float = 300.0
    real_history: bool = False

    @property
    def facts(self) -> dict[str, object]:
        """For the report."""
        loop: dict[str, object]
        if self.workload.timed:
            loop = {"loop": "open", "pattern": "trace"}
        elif self.rate:
            loop = {"loop": "open", "rate_per_s": self.rate, "pattern": str(self.pattern), "burstiness": self.burstiness}
        else:
            loop = {"loop": "closed", "concurrency": self.concurrency}
        return {
            "workload": self.workload.id,
            "source": self.workload.source,
            **loop,
            "duration_s": self.duration_s,
            "warm_up_s": self.warm_up_s,
            "seed": self.seed,
            "real_history": self.real_history,
            "objective": {key: value for key, value in vars(self.objective).items() if value is not None},
        }

    @property
    def limits(self) -> dict[str, object]:
        """The same without the load: a search for a capacity tries many."""
        facts = self.facts
        return {name: facts[name] for name in ("workload", "source", "duration_s", "warm_up_s", "real_history", "objective")}


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The result.

    Attributes:
        setting: How it was measured.
        figures: What was measured.
        verdict: ``passed``: the figures can be trusted; ``failed``: requests failed; ``errored``: the server is gone, or
            nothing was measured; ``inconclusive``: the client was the bottleneck, or others used the server.
        reasons: Why it is not ``passed``.
        counters: How much the server's own counters grew.
        scale: Factor by which lengths were scaled to the server's context.
        exact_prompts: Prompt lengths are exact.
        resources: What the server used.
        growth: Trends of latencies over the run, where it was long enough.
        delayed_turns: Turns of an open loop that were due later, because the answer before them had not ended.
        interrupted: It was stopped before its end; what was measured until then is kept.
    """

    setting: Setting
    figures: Figures
    verdict: Verdict
    reasons: tuple[str, ...]
    counters: Mapping[str, float]
    scale: float
    exact_prompts: bool
    resources: Resources
    growth: Mapping[str, Trend] = field(default_factory=dict)
    delayed_turns: int = 0
    interrupted: bool = False

    @property
    def cpu_s_per_1000_tokens(self) -> float | None:
        """Processor seconds of the server for 1,000 tokens of prompts and answers; ``None`` if one is unknown."""
        tokens = self.counters.get("prompt_tokens", 0.0) + self.counters.get("output_tokens", 0.0)
        return None if self.resources.cpu_s is None or not tokens else self.resources.cpu_s / tokens * 1000

    @property
    def repeated(self) -> str:
        """That the server had seen prompts before, where the workload repeats none; empty otherwise.

        Its prefix cache then saves the work that was to be measured. It is so after an earlier run with the same seed.
        """
        asked, workload = self.counters.get("prefix_cache_queries", 0.0), self.setting.workload
        if not asked or not isinstance(workload, Workload) or workload.shared or workload.turns > 1:
            return ""
        share = self.counters.get("prefix_cache_hits", 0.0) / asked
        return f"{share:.0%} of the prompt tokens were cached from earlier requests" if share > _REPEATED else ""

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "setting": {**self.setting.facts, "length_scale": round(self.scale, 4), "exact_prompt_lengths": self.exact_prompts},
            "verdict": str(self.verdict),
            "reasons": list(self.reasons),
            "delayed_turns": self.delayed_turns,
            "interrupted": self.interrupted,
            "figures": dataclasses.asdict(self.figures),
            "server_counters": dict(self.counters),
            "resources": {**dataclasses.asdict(self.resources), "cpu_s_per_1000_tokens": self.cpu_s_per_1000_tokens},
            "latency_growth": {name: dataclasses.asdict(slope) for name, slope in self.growth.items()},
        }


def measure(served: Served, setting: Setting, *, watch: Callable[[Load], None] | None = None) -> Measurement:
    """Run the load. Ctrl-C, SIGTERM or a server that is gone end it early, and what was measured is kept.

    Args:
        served: The server.
        setting: How it is measured.
        watch: Called with the load at every start and end of a request.
    """
    load, scale = load_for(served, setting)
    if watch is not None:
        load.watch = lambda _running: watch(load)
    before = served.counters()
    with Watch(served) as resources:
        interrupted = not ran(_run(load, setting))
    after = {} if load.gone else served.counters()
    grown = {name: after[name] - before[name] for name in before if name in after}
    found = figures(load.samples, warm_up_s=setting.warm_up_s, objective=setting.objective)
    verdict, reasons = _trusted(load, found, grown, interrupted=interrupted)
    return Measurement(
        setting=setting,
        figures=found,
        verdict=verdict,
        reasons=reasons,
        counters=grown,
        scale=scale,
        exact_prompts=served.exact,
        resources=resources.found(warm_up_s=setting.warm_up_s),
        growth=_growth(load, setting),
        delayed_turns=load.delayed,
        interrupted=interrupted,
    )


def load_for(served: Served, setting: Setting) -> tuple[Load, float]:
    """The load, and the factor by which its lengths are scaled."""
    workload, scale = setting.workload.fitting(served.facts.max_model_len)
    fields = {"ignore_eos": True} if served.facts.can("ignore_eos") and workload.fixed_length else {}
    target = Target(
        url=served.url,
        model=served.facts.model,
        headers=served.headers,
        chat=served.facts.can("chat"),
        fields=fields,
        spoken=served.dialect.spoken,
    )
    load = Load(
        target=target,
        asks=workload.asks(seed=setting.seed, words=served.words, tokens_per_word=served.tokens_per_word),
        timeout_s=setting.timeout_s,
        samples=Samples(warm_up_s=setting.warm_up_s),
        width=max(1, math.ceil(setting.rate * _TURN_S)),
        real_history=setting.real_history,
    )
    return load, scale


def _growth(load: Load, setting: Setting) -> dict[str, Trend]:
    good = [sample for sample in load.samples if not sample.problem and sample.due_s >= setting.warm_up_s]
    found = {
        name: trend([(each.due_s, value) for each in good if (value := getattr(each, name)) is not None])
        for name in ("ttft_ms", "tpot_ms", "e2e_ms")
    }
    return {name: slope for name, slope in found.items() if slope is not None}


async def _run(load: Load, setting: Setting) -> None:
    if setting.workload.timed:
        stamped, load.asks = itertools.tee(load.asks)
        await load.open_loop(itertools.takewhile(lambda at_s: at_s < setting.duration_s, map(_due, stamped)))
    elif setting.rate:
        times = arrivals.times(
            setting.pattern, setting.rate, seed=setting.seed, duration_s=setting.duration_s, burstiness=setting.burstiness
        )
        await load.open_loop(times)
    else:
        await load.closed_loop(setting.concurrency, setting.duration_s)


def _due(ask: Ask) -> float:
    return ask.at_s or 0.0


def _trusted(load: Load, found: Figures, grown: Mapping[str, float], *, interrupted: bool) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict on the measurement, and why it is not ``passed``."""
    reasons = []
    verdicts = [Verdict.PASSED]
    failed = sum(found.failed.values())
    if failed:
        worst = sorted(found.failed.items(), key=lambda entry: -entry[1])[:_FAILURES_SHOWN]
        reasons += [f"{count} of {len(load.samples)} requests failed: {problem}" for problem, count in worst]
        last = list(itertools.islice(reversed(list(load.samples)), 3))
        verdicts.append(Verdict.ERRORED if all(sample.problem for sample in last) else Verdict.FAILED)
    if load.gone:
        reasons.append("the server takes no connection any more; the figures are those until then")
        verdicts.append(Verdict.ERRORED)
    if not found.requests:
        reasons.append("no request succeeded after the warm-up")
        verdicts.append(Verdict.ERRORED)
    if found.client_too_slow:
        reasons.append(found.client_too_slow)
        verdicts.append(Verdict.INCONCLUSIVE)
    if (other := _disagreement(load, grown)) and not interrupted:
        reasons.append(other)
        verdicts.append(Verdict.INCONCLUSIVE)
    if interrupted:
        reasons.append(f"interrupted; {len(load.samples)} of {load.sent} requests had ended")
        verdicts.append(Verdict.ERRORED)
    return Verdict.worst(verdicts), tuple(reasons)


def _disagreement(load: Load, grown: Mapping[str, float]) -> str:
    """Why the server's counters and ours differ; empty if they agree, or if it has none."""
    if load.samples.problems or "output_tokens" not in grown:
        return ""
    ours = sum(sample.output_tokens for sample in load.samples)
    theirs = grown["output_tokens"]
    if abs(ours - theirs) <= max(_TOLERANCE * ours, 1):
        return ""
    return f"the server counted {theirs:.0f} generated tokens, this client {ours}: another client uses the server"
