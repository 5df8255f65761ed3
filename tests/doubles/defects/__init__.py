"""Servers that are wrong in one way each."""

from __future__ import annotations

from doubles.defects import (
    answers,
    bypasses,
    company,
    crowds,
    delivery,
    doors,
    engines,
    hostile,
    limits,
    mixing,
    outside,
    parameters,
    particulars,
    prompts,
    reflections,
    requests,
    sampling,
    strangers,
    streams,
)
from doubles.defects.catalogue import DEFECTS, Defect

__all__ = [
    "DEFECTS",
    "Defect",
    "answers",
    "bypasses",
    "company",
    "crowds",
    "delivery",
    "doors",
    "engines",
    "hostile",
    "limits",
    "mixing",
    "outside",
    "parameters",
    "particulars",
    "prompts",
    "reflections",
    "requests",
    "sampling",
    "strangers",
    "streams",
]
