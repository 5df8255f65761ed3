"""Student's t distribution, because the standard library has only the normal one.

The distribution function is the regularised incomplete beta function (NIST Digital Library of Mathematical Functions, 8.17.22,
by Lentz's continued fraction); quantiles are found by bisection.
"""

from __future__ import annotations

import math

_TINY = 1e-300
_STEPS = 300
_PRECISION = 1e-14
_HALVINGS = 200


def cdf(t: float, freedom: float) -> float:
    """Probability of a value of at most ``t``.

    Args:
        t: A value.
        freedom: Degrees of freedom, more than 0.

    Raises:
        ValueError: ``freedom`` is not positive.
    """
    if freedom <= 0:
        raise ValueError(f"degrees of freedom must be positive, not {freedom}")
    if math.isinf(t):
        return 1.0 if t > 0 else 0.0
    tail = _beta(freedom / (freedom + t * t), freedom / 2, 0.5) / 2
    return 1 - tail if t > 0 else tail


def quantile(probability: float, freedom: float) -> float:
    """The value that is exceeded with a probability of ``1 - probability``.

    Raises:
        ValueError: The probability is not between 0 and 1.
    """
    if not 0 < probability < 1:
        raise ValueError(f"no quantile of probability {probability}")
    if probability < 0.5:
        return -quantile(1 - probability, freedom)
    high = 1.0
    while cdf(high, freedom) < probability:
        high *= 2
    low = 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if cdf(middle, freedom) < probability else (low, middle)
        if high - low <= _PRECISION * max(high, 1.0):
            break
    return (low + high) / 2


def _beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function."""
    if x <= 0 or x >= 1:
        return min(max(x, 0.0), 1.0)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(x, a, b) / a
    return 1 - front * _fraction(1 - x, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    """The continued fraction of the incomplete beta function."""
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > _TINY else _TINY)
    value = d
    for m in range(1, _STEPS):
        for top in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 + top * d
            c = 1 + top / c
            d = 1 / (d if abs(d) > _TINY else _TINY)
            c = c if abs(c) > _TINY else _TINY
            value *= c * d
        if abs(c * d - 1) < _PRECISION:
            break
    return value
