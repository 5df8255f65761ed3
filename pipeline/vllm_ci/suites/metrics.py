"""Parser for the Prometheus text format, as far as tests need it (Prometheus documentation, "Exposition formats")."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_LINE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, kw_only=True)
class Samples:
    """All samples of one scrape, by name and labels."""

    values: Mapping[tuple[str, frozenset[tuple[str, str]]], float]

    def __contains__(self, name: object) -> bool:
        return any(found == name for found, _ in self.values)

    def total(self, name: str, **labels: str) -> float:
        """Sum of all samples with this name whose labels include the given ones; 0 if there are none."""
        wanted = set(labels.items())
        return sum(value for (found, carried), value in self.values.items() if found == name and wanted <= carried)


def parse(text: str) -> Samples:
    """Parse a scrape.

    Raises:
        ValueError: A line is neither a comment nor a sample.
    """
    values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for line in text.split("\n"):  # the only end of a line in this format
        if not line.strip() or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise ValueError(f"not a sample: {line!r}")
        values[found[1], frozenset(_LABEL.findall(found[2] or ""))] = float(found[3])
    return Samples(values=values)
