"""gRPC servers that are wrong in one way each, and the cases that have to name it."""

from __future__ import annotations

from doubles.grpc_defects import deadlines, errors, facts, generation, health, streams
from doubles.grpc_defects.catalogue import DEFECTS

__all__ = ["DEFECTS", "deadlines", "errors", "facts", "generation", "health", "streams"]
