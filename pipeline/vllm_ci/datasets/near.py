"""Near-duplicates between splits: pairs of questions whose words are almost the same, all of them and no others.

The similarity is the Jaccard index of their three-word sequences. Two sets that are at least ``t`` alike share one of the
``n - ceil(t n) + 1`` rarest members of each (prefix filtering: Bayardo, Ma, Srikant, "Scaling up all pairs similarity search",
WWW 2007), so only few pairs are compared, and none is missed.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Mapping

from vllm_ci.datasets.splitting import words

_SEQUENCE = 3


def sequences(text: str) -> frozenset[int]:
    """Hashes of the three-word sequences of a text; of a shorter one, the whole."""
    found = words(text) or (text,)
    return frozenset(_hash(found[at : at + _SEQUENCE]) for at in range(max(1, len(found) - _SEQUENCE + 1)))


def _hash(part: tuple[str, ...]) -> int:
    """The same number in every process, unlike :func:`hash`."""
    return int.from_bytes(hashlib.blake2b("\n".join(part).encode(), digest_size=8).digest())


def alike(one: frozenset[int], other: frozenset[int]) -> float:
    """Jaccard index, from 0 to 1."""
    return len(one & other) / len(one | other)


class Index:
    """Questions that are held out, to be compared with others.

    Args:
        held: Their sequences, by the names of their rows.
        least: Similarity from which two are near-duplicates, above 0.
    """

    def __init__(self, held: Mapping[str, frozenset[int]], least: float) -> None:
        self._held = held
        self._least = least
        self._counts = Counter(each for found in held.values() for each in found)
        self._by_part: defaultdict[int, list[str]] = defaultdict(list)
        for name, found in held.items():
            for part in self._rarest(found):
                self._by_part[part].append(name)

    def nearest(self, found: frozenset[int]) -> tuple[str, float] | None:
        """The held-out row that is most alike, if any is alike enough; of equals the first by name."""
        candidates = {name for part in self._rarest(found) for name in self._by_part.get(part, ())}
        near = ((alike(found, self._held[name]), name) for name in candidates)
        best = min(((-value, name) for value, name in near if value >= self._least), default=None)
        return None if best is None else (best[1], -best[0])

    def _rarest(self, found: frozenset[int]) -> list[int]:
        ordered = sorted(found, key=lambda each: (self._counts[each], each))
        return ordered[: len(found) - math.ceil(self._least * len(found) - 1e-9) + 1]
