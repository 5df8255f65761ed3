"""Convert Dagger errors to vllm-ci errors: by type, never by message text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagger

from vllm_ci.domain.errors import EngineError

REMEDY = "check the engine with `dagger core version`, and see its log (docs/dagger.md)"


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Convert Dagger errors to :class:`EngineError`; ``doing`` completes the message "Dagger could not ..."."""
    try:
        yield
    except dagger.ExecError as error:
        why = "\n".join(part for part in (error.message, error.stdout, error.stderr) if part)
        raise EngineError(f"Dagger could not {doing}", why=why, remedy=REMEDY) from error
    except dagger.DaggerError as error:
        raise EngineError(f"Dagger could not {doing}", why=str(error), remedy=REMEDY) from error
