"""gRPC servers that are wrong in one way each, and the cases that have to name it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from doubles.grpc_double import GrpcDouble


@dataclass(frozen=True, kw_only=True)
class GrpcDefect:
    """A server that is wrong in one way.

    Attributes:
        name: Short and stable.
        what: What is wrong, in one sentence.
        make: The double that has it.
        named: Cases that have to fail, as ``file::case``; one without parameters in brackets stands for any.
    """

    name: str
    what: str
    make: type[GrpcDouble]
    named: tuple[str, ...]


DEFECTS: dict[str, GrpcDefect] = {}


def defect(name: str, *named: str) -> Callable[[type[GrpcDouble]], type[GrpcDouble]]:
    """Put a double into the catalogue; its docstring says what is wrong."""

    def keep(make: type[GrpcDouble]) -> type[GrpcDouble]:
        assert name not in DEFECTS, f"two defects are called {name}"
        DEFECTS[name] = GrpcDefect(name=name, what=(make.__doc__ or "").strip(), make=make, named=named)
        return make

    return keep
