"""What a defect is, and the list of them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from doubles.server import Double


@dataclass(frozen=True, kw_only=True)
class Defect:
    """A server that is wrong in one way.

    Attributes:
        name: Short and stable.
        what: What is wrong, in one sentence.
        make: The double that has it.
        named: Cases that have to fail: they name the defect. One without parameters in brackets stands for any parameter.
        key: It asks for an API key.
        alone: Only the named cases are run, because the others of their file take long.
    """

    name: str
    what: str
    make: type[Double]
    named: tuple[str, ...]
    key: bool = False
    alone: bool = False

    @property
    def suite(self) -> str:
        """The suite that names it."""
        return self.named[0].partition("/")[0]

    @property
    def runs(self) -> tuple[str, ...]:
        """What is run against it: the files of the cases that name it, or these cases alone."""
        return self.named if self.alone else tuple(dict.fromkeys(case.partition("::")[0] for case in self.named))


DEFECTS: dict[str, Defect] = {}


def defect(name: str, what: str, *named: str, key: bool = False, alone: bool = False) -> Callable[[type[Double]], type[Double]]:
    """Put a double into the catalogue."""

    def keep(make: type[Double]) -> type[Double]:
        assert name not in DEFECTS, f"two defects are called {name}"
        DEFECTS[name] = Defect(name=name, what=what, make=make, named=named, key=key, alone=alone)
        return make

    return keep
