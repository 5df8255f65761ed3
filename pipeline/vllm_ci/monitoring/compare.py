"""What a release changed: the time after it against the time before, block by block. Pure; no data is never fine.

A *block* is a stretch of time (a few minutes) with one value of a signal. Neighbouring samples of a server depend on each
other, so blocks are the units whose spread tells how uncertain a mean is. Intervals are at 99 %:

- shares: ratio of sums with the wider of Wilson's interval (requests) and the ratio estimator's over blocks (bursts);
  the difference of two by Newcombe's method 10 (Statistics in Medicine 17, 1998);
- levels: difference of 10 % trimmed means with Yuen's interval (Biometrika 61, 1974): an outlier does not decide, a third
  of bad blocks does;
- growth: Theil and Sen's slope with Sen's interval (JASA 63, 1968);
- events: conditional test of two Poisson rates.

A change is *worse* when the whole interval is beyond the margin, *fine* when none of it is, and *undecided* otherwise.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vllm_ci.monitoring.signals import Signal
from vllm_ci.performance import student

State = Literal["fine", "worse", "undecided", "missing", "not measured", "shown"]
LEAST_BLOCKS = 6
COVERED = 0.8
"""Share of the blocks after a release that must have data."""
_Z = 2.5758293035489004  # normal quantile of 0.995
_TRIM = 0.1


@dataclass(frozen=True, kw_only=True)
class Window:
    """A signal over a stretch of time.

    Attributes:
        expected: Number of blocks; events have one.
        seconds: Its length.
        values: By time of the block's end (seconds since 1970); of a share, increases of the counter of all.
        part: Of a share: increases of the counter of those that count.
    """

    expected: int
    seconds: float
    values: Mapping[float, float]
    part: Mapping[float, float]

    @property
    def complete(self) -> bool:
        """Enough of it has data."""
        return len(self.values) >= self.least

    @property
    def least(self) -> int:
        """Number of blocks that must have data."""
        return 1 if self.expected == 1 else math.ceil(max(LEAST_BLOCKS, COVERED * self.expected))


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its uncertainty."""

    value: float
    low: float
    high: float

    def __neg__(self) -> Interval:
        return Interval(value=-self.value, low=-self.high, high=-self.low)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is known of one signal.

    Attributes:
        signal: Its name.
        state: ``missing``: there is too little data where there should be some; ``not measured``: there never was any.
        before: Its value before the release, where it is known.
        after: Its value after it.
        change: Of the value, in the signal's unit, with its interval.
        margin: What is tolerated.
        message: The same in words.
    """

    signal: str
    state: State
    before: float | None = None
    after: float | None = None
    change: Interval | None = None
    margin: float = 0.0
    message: str


def compare(signal: Signal, before: Window, after: Window, *, margin: float | None = None) -> Finding:
    """Judge one signal.

    Args:
        signal: What is compared.
        before: The time before the release.
        after: The time after it.
        margin: Tolerated change instead of the signal's own: a share of the value before for levels, else in the signal's unit.
    """
    if not before.values and not after.values:
        state: State = "missing" if signal.needed else "not measured"
        return Finding(signal=signal.name, state=state, message="no data, neither before the release nor after it")
    if not after.complete:
        message = f"data in {len(after.values)} of {after.expected} blocks after the release"
        return Finding(signal=signal.name, state="missing", message=f"{message}; at least {after.least} are needed")
    if not before.complete and signal.kind != "growth":
        message = f"data in {len(before.values)} of {before.expected} blocks before the release: nothing to compare with"
        return Finding(signal=signal.name, state="missing", after=_typical(signal, after), message=message)
    return _COMPARED[signal.kind](signal, before, after, margin)


def _typical(signal: Signal, window: Window) -> float:
    return share(window).value if signal.kind == "share" else statistics.median(window.values.values())


def _shares(signal: Signal, before: Window, after: Window, margin: float | None) -> Finding:
    old, new = share(before), share(after)
    low = new.value - old.value - math.hypot(new.value - new.low, old.high - old.value)
    high = new.value - old.value + math.hypot(new.high - new.value, old.value - old.low)
    change = Interval(value=new.value - old.value, low=low, high=high)
    return _judged(signal, old.value, new.value, change, signal.margin if margin is None else margin)


def share(window: Window) -> Interval:
    """Share of all, with the wider of two intervals: as if requests were independent, and as if blocks were."""
    blocks = [(window.part.get(time, 0.0), whole) for time, whole in window.values.items()]
    total = sum(whole for _, whole in blocks)
    if total < 1:  # not even one request
        return Interval(value=0.0, low=0.0, high=1.0)
    value = min(1.0, sum(part for part, _ in blocks) / total)
    centre = (value + _Z**2 / (2 * total)) / (1 + _Z**2 / total)
    half = _Z * math.sqrt(value * (1 - value) / total + _Z**2 / (4 * total**2)) / (1 + _Z**2 / total)
    residuals = sum((part - value * whole) ** 2 for part, whole in blocks)
    spread = math.sqrt(len(blocks) / (len(blocks) - 1) * residuals) / total if len(blocks) > 1 else 1.0
    spread *= student.quantile(0.995, max(1, len(blocks) - 1))
    return Interval(
        value=value, low=max(0.0, min(centre - half, value - spread)), high=min(1.0, max(centre + half, value + spread))
    )


def _levels(signal: Signal, before: Window, after: Window, margin: float | None) -> Finding:
    old, new = list(before.values.values()), list(after.values.values())
    (old_mean, old_variance, old_size), (new_mean, new_variance, new_size) = _trimmed(old), _trimmed(new)
    spread = old_variance + new_variance
    freedom = (
        spread**2 / (old_variance**2 / (old_size - 1) + new_variance**2 / (new_size - 1))
        if spread > 0
        else old_size + new_size - 2
    )
    half = student.quantile(0.995, freedom) * math.sqrt(spread)
    moved = new_mean - old_mean
    tolerated = max(signal.margin, (signal.ratio if margin is None else margin) * abs(old_mean))
    return _judged(signal, old_mean, new_mean, Interval(value=moved, low=moved - half, high=moved + half), tolerated)


def _trimmed(values: Sequence[float]) -> tuple[float, float, int]:
    """Trimmed mean, the square of its standard error (from the winsorized variance), and the number of values that are left."""
    ordered = sorted(values)
    cut = int(_TRIM * len(ordered))
    left = len(ordered) - 2 * cut
    kept = ordered[cut : len(ordered) - cut]
    winsorized = [kept[0]] * cut + kept + [kept[-1]] * cut
    return statistics.fmean(kept), (len(ordered) - 1) * statistics.variance(winsorized) / (left * (left - 1)), left


def _growths(signal: Signal, before: Window, after: Window, margin: float | None) -> Finding:
    new = slope(after)
    old = slope(before) if before.complete else None
    tolerated = signal.margin if margin is None else margin
    if old and new.low > tolerated and new.low <= old.high:
        # The release did not begin it.
        return Finding(
            signal=signal.name,
            state="undecided",
            before=old.value,
            after=new.value,
            change=new,
            margin=tolerated,
            message=f"grows by {new.value:.1%} an hour, as it did before ({old.value:.1%})",
        )
    return _judged(signal, old.value if old else None, new.value, new, tolerated)


def slope(window: Window) -> Interval:
    """Growth in an hour as a share of the level."""
    points = sorted(window.values.items())
    level = abs(statistics.median(window.values.values())) or 1.0
    slopes = sorted(
        (later - earlier) / (end - start) * 3600 / level
        for index, (start, earlier) in enumerate(points)
        for end, later in points[index + 1 :]
    )
    count = len(points)
    half = _Z * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    low = max(0, math.floor((len(slopes) - half) / 2))
    high = min(len(slopes) - 1, math.ceil((len(slopes) + half) / 2))
    return Interval(value=statistics.median(slopes), low=slopes[low], high=slopes[high])


def _events(signal: Signal, before: Window, after: Window, margin: float | None) -> Finding:
    old, new = (round(sum(each.values.values())) for each in (before, after))
    portion = after.seconds / (after.seconds + before.seconds)
    chance = sum(
        math.comb(old + new, count) * portion**count * (1 - portion) ** (old + new - count)
        for count in range(new, old + new + 1)
    )
    allowed = 1 if margin is None else margin
    if new <= allowed:
        state: State = "fine"
    else:
        # One more than before is a coincidence; several, where there were none, are not.
        state = "worse" if chance < 0.01 or (old == 0 and new >= 3) else "undecided"
    message = f"{new} in {after.seconds / 60:.0f} min after the release, {old} in {before.seconds / 60:.0f} min before"
    return Finding(signal=signal.name, state=state, before=float(old), after=float(new), margin=float(allowed), message=message)


def _judged(signal: Signal, old: float | None, new: float, change: Interval, margin: float) -> Finding:
    worse = {"low": (change,), "high": (-change,), "steady": (change, -change), "neither": ()}[signal.good]
    if not worse:
        state: State = "shown"
    elif any(each.low > margin for each in worse):
        state = "worse"
    else:
        state = "fine" if all(each.high <= margin for each in worse) else "undecided"
    before = "" if old is None else f"{old:.4g} -> "
    message = f"{before}{new:.4g} (change {change.low:+.3g} to {change.high:+.3g}, tolerated {margin:.3g})"
    return Finding(signal=signal.name, state=state, before=old, after=new, change=change, margin=margin, message=message)


_COMPARED = {"share": _shares, "level": _levels, "growth": _growths, "events": _events}
