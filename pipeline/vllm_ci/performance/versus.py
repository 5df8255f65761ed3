"""Two running servers compared: rounds of the same load in random order, and the ratio of each metric over the rounds.

It compares two processes. Two starts of the same server differ by 5 to 9 %, and rounds within one start say nothing about that,
so the comparison informs and never fails a version; :mod:`vllm_ci.performance.gate` judges versions by many starts.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vllm_ci.domain.report import Verdict
from vllm_ci.performance import student
from vllm_ci.performance.figures import Figures, Spread
from vllm_ci.performance.gate import Better
from vllm_ci.performance.measuring import Measurement, Setting, measure
from vllm_ci.performance.seeds import seeded
from vllm_ci.performance.server import Served
from vllm_ci.performance.workload import WORDS

CAVEAT = "one start each: this compares these two processes, not two versions"
LEAST_ROUNDS = 3
_LEAST_WORDS = 20
_WARM_SHARE = 0.2
_SIGNS = 2000
_ALL_SIGNS = 11
"""Up to this many rounds, all signs are tried (2 to the power of the rounds), otherwise :data:`_SIGNS` random ones."""


def _median(spread: Spread | None) -> float | None:
    return spread.percentiles.get(50.0) if spread else None


METRICS: Mapping[str, tuple[Better, Callable[[Figures], float | None]]] = {
    "ttft_ms_p50": (Better.LOWER, lambda found: _median(found.ttft_ms)),
    "tpot_ms_p50": (Better.LOWER, lambda found: _median(found.tpot_ms)),
    "e2e_ms_p50": (Better.LOWER, lambda found: _median(found.e2e_ms)),
    "output_tokens_per_s": (Better.HIGHER, lambda found: found.output_tokens_per_s or None),
}


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """B over A in one metric.

    Attributes:
        metric: Its name.
        better: Whether lower or higher is better.
        rounds: Log ratios, one for each round in which both have a value.
        ratio: Exponential of their mean; 1.1 means that B's value is 10 % higher. ``None`` with fewer than two rounds.
        low: Lower bound of the two-sided 95 % t interval over rounds.
        high: Upper bound.
        false_alarms: Share of random exchanges of A and B within rounds in which the interval excludes 1. About 0.05 if the
            interval is right for these rounds.
    """

    metric: str
    better: Better
    rounds: tuple[float, ...]
    ratio: float | None
    low: float | None
    high: float | None
    false_alarms: float | None

    @property
    def differs(self) -> bool:
        """The interval excludes 1."""
        return self.low is not None and self.high is not None and not self.low <= 1 <= self.high


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The result.

    Attributes:
        ratios: One for each metric.
        measurements: Of each round: A's and B's.
        first: Which server was measured first in each round: ``a`` or ``b``.
        same: Both are the same server (``--aa``).
        verdict: Worst of the measurements; never that one is slower.
        reasons: Why it is not ``passed``.
    """

    ratios: tuple[Ratio, ...]
    measurements: tuple[tuple[Measurement, Measurement], ...]
    first: tuple[str, ...]
    same: bool
    verdict: Verdict
    reasons: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "verdict": str(self.verdict),
            "reasons": list(self.reasons),
            "caveat": CAVEAT,
            "same_server": self.same,
            "prompts": "different in each arm, because the server caches prefixes" if self.same else "the same in both arms",
            "ratios": {
                ratio.metric: {
                    "better": str(ratio.better),
                    "b_over_a": ratio.ratio,
                    "interval_95": [ratio.low, ratio.high] if ratio.low is not None else None,
                    "rounds": [math.exp(value) for value in ratio.rounds],
                    "differs": ratio.differs,
                    "false_alarms": ratio.false_alarms,
                }
                for ratio in self.ratios
            },
            "rounds": [
                {"first": first, "a": a.document(), "b": b.document()}
                for first, (a, b) in zip(self.first, self.measurements, strict=True)
            ],
        }


def interval(values: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided t interval of the mean.

    Raises:
        ValueError: There are fewer than two values.
    """
    if len(values) < 2:
        raise ValueError("an interval needs at least two values")
    half = student.quantile((1 + confidence) / 2, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - half, mean + half


def false_alarms(values: Sequence[float], *, seed: int = 1) -> float:
    """Share of sign changes of the values whose interval excludes 0: what exchanging A and B within rounds would give.

    Args:
        values: Log ratios, at least two.
        seed: Of the random sign changes, if there are too many to try all.
    """
    count = len(values)
    rng = seeded("signs", seed)
    signs: Iterator[tuple[int, ...]] = (
        itertools.product((1, -1), repeat=count)
        if count <= _ALL_SIGNS
        else (tuple(rng.choice((1, -1)) for _ in values) for _ in range(_SIGNS))
    )
    critical = student.quantile(0.975, count - 1)
    alarms = tried = 0
    for each in signs:
        changed = [sign * value for sign, value in zip(each, values, strict=True)]
        spread = statistics.stdev(changed) / math.sqrt(count)
        alarms += abs(statistics.fmean(changed)) > critical * spread
        tried += 1
    return alarms / tried


def ratio_of(metric: str, better: Better, pairs: Sequence[tuple[float | None, float | None]]) -> Ratio:
    """The ratio of one metric from the values of A and B in each round; rounds without both values are left out."""
    rounds = tuple(math.log(b / a) for a, b in pairs if a and b and a > 0 and b > 0)
    if len(rounds) < 2:
        return Ratio(metric=metric, better=better, rounds=rounds, ratio=None, low=None, high=None, false_alarms=None)
    low, high = interval(rounds)
    return Ratio(
        metric=metric,
        better=better,
        rounds=rounds,
        ratio=math.exp(statistics.fmean(rounds)),
        low=math.exp(low),
        high=math.exp(high),
        false_alarms=false_alarms(rounds),
    )


def compare(
    a: Served,
    b: Served,
    setting: Setting,
    *,
    rounds: int = 6,
    same: bool = False,
    tell: Callable[[str], None] = lambda _line: None,
) -> Comparison:
    """Measure two servers in turns.

    Args:
        a: One server.
        b: The other one.
        setting: ``duration_s`` is the time for each server, which the rounds share; ``warm_up_s`` is sent to each before them.
        rounds: Number of rounds, at least :data:`LEAST_ROUNDS`.
        same: Both are the same server: each arm gets prompts of its own, because the second one would find them cached.
        tell: Called with one line for each round.

    Raises:
        ValueError: There are too few rounds.
    """
    if rounds < LEAST_ROUNDS:
        raise ValueError(f"at least {LEAST_ROUNDS} rounds, not {rounds}")
    a, b, setting = _alike(a, b, setting)
    rng = seeded("order", setting.seed)
    found: list[tuple[Measurement, Measurement]] = []
    first: list[str] = []
    try:
        for served in (a,) if same else (a, b):
            _warm(served, setting)
        for number in range(rounds):
            order = (1, 0) if rng.random() < 0.5 else (0, 1)
            pair = {arm: _round((a, b)[arm], setting, number, rounds, own_prompts=arm if same else 0) for arm in order}
            found.append((pair[0], pair[1]))
            first.append("ab"[order[0]])
            tell(f"round {number + 1} of {rounds}: {_line(pair[0])} against {_line(pair[1])}")
            if Verdict.ERRORED in (pair[0].verdict, pair[1].verdict):
                break
    except KeyboardInterrupt:
        return _judged(found, first, same=same, interrupted=True)
    return _judged(found, first, same=same)


def _line(found: Measurement) -> str:
    return f"{found.figures.output_tokens_per_s:.1f} tokens/s"


def _warm(served: Served, setting: Setting) -> None:
    if setting.warm_up_s:
        _measured(served, dataclasses.replace(setting, duration_s=setting.warm_up_s, warm_up_s=0.0, seed=setting.seed - 1))


def _round(served: Served, setting: Setting, number: int, rounds: int, *, own_prompts: int) -> Measurement:
    duration_s = setting.duration_s / rounds
    warm_up_s = min(setting.warm_up_s, _WARM_SHARE * duration_s)
    seed = setting.seed + 1000 * (number + 1) + 500 * own_prompts
    return _measured(served, dataclasses.replace(setting, duration_s=duration_s, warm_up_s=warm_up_s, seed=seed))


def _measured(served: Served, setting: Setting) -> Measurement:
    found = measure(served, setting)
    if found.interrupted:
        raise KeyboardInterrupt
    return found


def _alike(a: Served, b: Served, setting: Setting) -> tuple[Served, Served, Setting]:
    """Both get the same text and lengths: those of the shorter context, from words that both tokenizers have."""
    known = [served.facts.max_model_len for served in (a, b) if served.facts.max_model_len]
    workload, _ = setting.workload.fitting(min(known, default=0))
    shared = [word for word in a.words if word in set(b.words)] if a.exact and b.exact else []
    exact = len(shared) >= _LEAST_WORDS
    words = shared if exact else WORDS
    per_word = 1.0 if exact else max(a.tokens_per_word, b.tokens_per_word)
    a, b = (dataclasses.replace(served, words=words, exact=exact, tokens_per_word=per_word) for served in (a, b))
    return a, b, dataclasses.replace(setting, workload=workload)


def _judged(
    found: Sequence[tuple[Measurement, Measurement]], first: Sequence[str], *, same: bool, interrupted: bool = False
) -> Comparison:
    ratios = tuple(
        ratio_of(metric, better, [(value(a.figures), value(b.figures)) for a, b in found])
        for metric, (better, value) in METRICS.items()
    )
    verdicts = [each.verdict for pair in found for each in pair]
    named = [
        (f"{name}, round {number}", each) for number, pair in enumerate(found, 1) for name, each in zip("AB", pair, strict=True)
    ]
    reasons = [f"{name}: {reason}" for name, each in named for reason in each.reasons]
    if interrupted:
        verdicts.append(Verdict.ERRORED)
        reasons.append(f"interrupted after {len(found)} rounds")
    missing = [ratio.metric for ratio in ratios if ratio.ratio is None]
    if missing and Verdict.ERRORED not in verdicts:  # otherwise that is why
        verdicts.append(Verdict.INCONCLUSIVE)
        reasons.append(f"too few requests in a round for {', '.join(missing)} (a median needs 11): raise --duration")
    return Comparison(
        ratios=ratios,
        measurements=tuple(found),
        first=tuple(first),
        same=same,
        verdict=Verdict.worst(verdicts),
        reasons=tuple(reasons),
    )
