"""What goes wrong in Dagger, as errors of ours: told apart by type, never by the words of a message."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagger

from vllm_ci.domain.errors import EngineError

REMEDY = "dagger core version shows whether the engine answers; its own log says more (docs/dagger.md)"


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Raise what Dagger raises as :class:`EngineError`; ``doing`` ends the sentence "Dagger could not ..."."""
    try:
        yield
    except dagger.ExecError as error:
        why = "\n".join(part for part in (error.message, error.stdout, error.stderr) if part)
        raise EngineError(f"Dagger could not {doing}", why=why, remedy=REMEDY) from error
    except dagger.DaggerError as error:
        raise EngineError(f"Dagger could not {doing}", why=str(error), remedy=REMEDY) from error
