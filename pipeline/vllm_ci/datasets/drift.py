"""Whether recent requests are still like the data that a model was trained on: pure functions with four outcomes.

All tests together raise a false alarm in at most ``false_alarms`` of the looks (Bonferroni), if requests and training data are
alike and conversations independent; a test simulates that. What is significant is drift only if it is also large enough to
matter: with thousands of rows, differences without a meaning are significant.

- Lengths of questions and answers, and how unusual a question is: two-sample Kolmogorov-Smirnov test, with the approximation of
  its distribution by Stephens (1970; Press et al., Numerical Recipes, section 14.3).
- How unusual: mean surprise of a question's trigrams of characters (Cavnar and Trenkle 1994) under those of one half of the
  training data; the other half is what requests are compared with. No embedding model is needed, and none is used: a question
  with known words in a new sense is not noticed.
- Scripts, refusals and repetition: Fisher's exact test on shares.
- Answers that were cut at max_tokens, and empty ones: there are none in collected data, so their shares have limits (exact
  binomial test).
"""

from __future__ import annotations

import bisect
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from vllm_ci.datasets.card import script

# A loop compresses well: the limit by which Whisper finds one (openai/whisper, compression_ratio_threshold).
_REPEATED = 2.4
_SHORT = 200
_LOOKED_AT = 4096
_REFUSAL = re.compile(
    r"(?i)\b(?:I(?:['\u2019]m| am) (?:sorry|unable|not able|afraid)"
    r"|I (?:can(?:no|['\u2019])t|won['\u2019]t|will not|must decline) "
    r"|as an AI\b|I do(?:n['\u2019]t| not) feel comfortable)"
)
_BEGINNING = 200


class Outcome(Enum):
    """What is known after a look; a look that could not be made raises an error."""

    FINE = "no drift"
    DRIFT = "drift"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A question and its answer.

    Attributes:
        question: Last message of the user.
        answer: Text of the answer.
        finish: Why it ended; empty if that is not known.
        tools: It calls tools.
    """

    question: str
    answer: str
    finish: str = ""
    tools: bool = False


@dataclass(frozen=True, kw_only=True)
class Settings:
    """When a difference is drift.

    Attributes:
        false_alarms: Probability that a look finds drift although there is none.
        rows: Fewest conversations on either side; the training data needs twice as many, for it is halved.
        distance: Least distance of two distributions that matters (Kolmogorov-Smirnov: 0 to 1).
        share: Least difference of two shares that matters.
        cut: Tolerated share of answers that are cut at max_tokens.
        empty: Tolerated share of answers that are empty.
    """

    false_alarms: float = 0.01
    rows: int = 100
    distance: float = 0.15
    share: float = 0.05
    cut: float = 0.1
    empty: float = 0.02


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was compared.

    Attributes:
        name: What.
        drift: It differs, and by enough to matter.
        distance: How far apart both sides are, from 0 to 1.
        p: Probability of such a difference, or a larger one, between rows of one kind.
        then: What the training data shows.
        now: What the requests show.
    """

    name: str
    drift: bool
    distance: float
    p: float
    then: str
    now: str


@dataclass(frozen=True, kw_only=True)
class Look:
    """What came of a comparison.

    Attributes:
        outcome: All of it together.
        reasons: Why.
        findings: Each thing that was compared.
        trained: Conversations of the training data.
        requests: Conversations of the requests.
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    findings: tuple[Finding, ...]
    trained: int
    requests: int

    @property
    def exit_code(self) -> int:
        """0 no drift, 1 drift, 4 inconclusive."""
        return {Outcome.FINE: 0, Outcome.DRIFT: 1, Outcome.INCONCLUSIVE: 4}[self.outcome]

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "outcome": self.outcome.value,
            "reasons": list(self.reasons),
            "trained": self.trained,
            "requests": self.requests,
            "findings": [asdict(each) for each in self.findings],
        }


def look(trained: Sequence[Exchange], requests: Sequence[Exchange], settings: Settings | None = None) -> Look:
    """Compare requests with training data, each with one exchange of a conversation, in an order that says nothing."""
    settings = settings or Settings()
    counts = {"trained": len(trained), "requests": len(requests)}
    if len(requests) < settings.rows or len(trained) < 2 * settings.rows:
        few = f"{len(requests)} conversations in the requests and {len(trained)} in the training data"
        needed = f"{settings.rows} and {2 * settings.rows} are needed to tell"
        return Look(outcome=Outcome.INCONCLUSIVE, reasons=(f"{few}; {needed}",), findings=(), **counts)
    level = settings.false_alarms / len(_TESTS)
    findings = tuple(each(trained, requests, settings, level) for each in _TESTS)
    drifted = tuple(f"{each.name}: {each.then} in the training data, {each.now} now" for each in findings if each.drift)
    outcome = Outcome.DRIFT if drifted else Outcome.FINE
    return Look(outcome=outcome, reasons=drifted or ("nothing differs by more than is tolerated",), findings=findings, **counts)


_Test = Callable[[Sequence[Exchange], Sequence[Exchange], Settings, float], Finding]


def _question_length(trained: Sequence[Exchange], requests: Sequence[Exchange], settings: Settings, level: float) -> Finding:
    old, new = ([float(len(each.question)) for each in side] for side in (trained, requests))
    return _distributions("question length", "characters", old, new, settings, level)


def _answer_length(trained: Sequence[Exchange], requests: Sequence[Exchange], settings: Settings, level: float) -> Finding:
    old, new = ([float(len(each.answer)) for each in side] for side in (trained, requests))
    return _distributions("answer length", "characters", old, new, settings, level)


def _vocabulary(trained: Sequence[Exchange], requests: Sequence[Exchange], settings: Settings, level: float) -> Finding:
    half = len(trained) // 2
    known: Counter[str] = Counter()
    for each in trained[:half]:
        known.update(_trigrams(each.question))
    total = known.total() + len(known) + 1
    old, new = ([_surprise(each.question, known, total) for each in side] for side in (trained[half:], requests))
    return _distributions("vocabulary", "bits a trigram", old, new, settings, level)


def _scripts(trained: Sequence[Exchange], requests: Sequence[Exchange], settings: Settings, level: float) -> Finding:
    old, new = (Counter(_script(each.question) for each in side) for side in (trained, requests))
    found = [
        _shares(
            f"script {name or 'none'}", (old[name], len(trained)), (new[name], len(requests)), settings, level / len(old | new)
        )
        for name in sorted(old | new, key=lambda name: (old[name] / len(trained) - new[name] / len(requests), name))
    ]
    return next((each for each in found if each.drift), min(found, key=lambda each: each.p))  # that of which there is more now


def _refusals(trained: Sequence[Exchange], requests: Sequence[Exchange], settings: Settings, level: float) -> Finding:
    old, new = (sum(bool(_REFUSAL.search(each.answer[:_BEGINNING])) for each in side) for side in (trained, requests))
    return _shares("refusals", (old, len(trained)), (new, len(requests)), settings, level)


def _repetition(trained: Sequence[Exchange], requests: Sequence[Exchange], settings: Settings, level: float) -> Finding:
    old, new = (sum(_repeats(each.answer) for each in side) for side in (trained, requests))
    return _shares("repetition", (old, len(trained)), (new, len(requests)), settings, level)


def _cut(trained: Sequence[Exchange], requests: Sequence[Exchange], settings: Settings, level: float) -> Finding:  # noqa: ARG001
    return _limit("cut at max_tokens", sum(each.finish == "length" for each in requests), len(requests), settings.cut, level)


def _empty(trained: Sequence[Exchange], requests: Sequence[Exchange], settings: Settings, level: float) -> Finding:  # noqa: ARG001
    count = sum(not each.answer.strip() and not each.tools for each in requests)
    return _limit("empty answers", count, len(requests), settings.empty, level)


_TESTS: tuple[_Test, ...] = (
    _question_length,
    _answer_length,
    _vocabulary,
    _scripts,
    _refusals,
    _repetition,
    _cut,
    _empty,
)


def _distributions(
    name: str, unit: str, old: Sequence[float], new: Sequence[float], settings: Settings, level: float
) -> Finding:
    distance = ks_distance(old, new)
    p = ks_probability(distance, len(old), len(new))
    then, now = (f"median {_median(side):.3g} {unit}" for side in (old, new))
    return Finding(name=name, drift=p < level and distance >= settings.distance, distance=distance, p=p, then=then, now=now)


def _shares(name: str, old: tuple[int, int], new: tuple[int, int], settings: Settings, level: float) -> Finding:
    p = fisher(old[0], old[1], new[0], new[1])
    distance = abs(old[0] / old[1] - new[0] / new[1])
    then, now = (f"{count / rows:.1%}" for count, rows in (old, new))
    return Finding(name=name, drift=p < level and distance >= settings.share, distance=distance, p=p, then=then, now=now)


def _limit(name: str, count: int, rows: int, limit: float, level: float) -> Finding:
    """Whether a share is above a limit: the probability of so many, if the share was the limit (binomial)."""
    p = min(
        math.fsum(
            math.exp(_log_choose(rows, k) + k * math.log(limit) + (rows - k) * math.log1p(-limit))
            for k in range(count, rows + 1)
        ),
        1.0,
    )
    distance = max(count / rows - limit, 0.0)
    return Finding(
        name=name, drift=p < level, distance=distance, p=p, then=f"up to {limit:.0%} tolerated", now=f"{count / rows:.1%}"
    )


def ks_distance(one: Sequence[float], other: Sequence[float]) -> float:
    """Largest distance of two empirical distribution functions."""
    first, second = sorted(one), sorted(other)
    places = sorted({*first, *second})
    shares = ((bisect.bisect_right(side, place) / len(side) for side in (first, second)) for place in places)
    return max(abs(a - b) for a, b in shares)


def ks_probability(distance: float, count: int, other: int) -> float:
    """Probability of this distance or a larger one between samples of one distribution; an upper bound where values tie."""
    root = math.sqrt(count * other / (count + other))
    scaled = (root + 0.12 + 0.11 / root) * distance
    if scaled < 0.2:  # the series converges slowly there, and its value is 1 within 1e-9
        return 1.0
    series = math.fsum((-1) ** (k - 1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 101))
    return min(max(2 * series, 0.0), 1.0)


def fisher(count: int, rows: int, other: int, other_rows: int) -> float:
    """Two-sided p-value of Fisher's exact test: tables that are no more likely than this one."""
    together = count + other
    lowest, highest = max(0, together - other_rows), min(together, rows)
    whole = _log_choose(rows + other_rows, together)
    logs = [_log_choose(rows, k) + _log_choose(other_rows, together - k) - whole for k in range(lowest, highest + 1)]
    mine = logs[count - lowest] + 1e-9
    return min(math.fsum(math.exp(each) for each in logs if each <= mine), 1.0)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _trigrams(text: str) -> Iterable[str]:
    plain = f" {' '.join(text[:_LOOKED_AT].casefold().split())} "
    return (plain[at : at + 3] for at in range(len(plain) - 2))


def _surprise(text: str, known: Counter[str], total: int) -> float:
    """Mean of -log2 of the probability of each trigram, every one counted once more (Laplace); 0 for a text without any."""
    found = [math.log2(total / (known[each] + 1)) for each in _trigrams(text)]
    return math.fsum(found) / len(found) if found else 0.0


def _script(text: str) -> str:
    """Script of most letters; empty without letters."""
    counts = Counter(found for letter in text[:_LOOKED_AT] if (found := script(letter)))
    return min(counts, key=lambda name: (-counts[name], name)) if counts else ""


def _repeats(text: str) -> bool:
    content = text[:_LOOKED_AT].encode("utf-8", "replace")
    return len(content) >= _SHORT and len(content) / len(zlib.compress(content)) > _REPEATED
