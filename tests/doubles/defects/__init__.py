"""Servers that are wrong in one way each."""

from __future__ import annotations

from doubles.defects import answers, crowds, delivery, doors, hostile, limits, requests, sampling, streams
from doubles.defects.catalogue import DEFECTS, Defect

__all__ = [
    "DEFECTS",
    "Defect",
    "answers",
    "crowds",
    "delivery",
    "doors",
    "hostile",
    "limits",
    "requests",
    "sampling",
    "streams",
]
