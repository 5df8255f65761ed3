"""Every error a user can meet: one root, one exit code per class.

A message says what happened, why that is likely, and what to do next.
"""

from __future__ import annotations


class VllmCiError(Exception):
    """Root of all errors of this package.

    Args:
        message: What happened, in one sentence.
        why: Why that is likely.
        remedy: What to do next.
    """

    exit_code = 3

    def __init__(self, message: str, *, why: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.why = why
        self.remedy = remedy

    def __str__(self) -> str:
        return "\n".join(
            line
            for line in (
                self.message,
                f"  why: {self.why}" if self.why else "",
                f"  do:  {self.remedy}" if self.remedy else "",
            )
            if line
        )


class FailedError(VllmCiError):
    """A verdict of ``failed`` or a refused policy: the thing that was checked is not good."""

    exit_code = 1


class UsageError(VllmCiError):
    """A command line or a configuration that cannot be acted on."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file, image spec or lock that does not parse or does not validate."""


class ErroredError(VllmCiError):
    """We could not tell: the pipeline itself broke, so nothing is known about the thing checked.

    Args:
        message: As in the root.
        why: As in the root.
        remedy: As in the root.
        log: All that the program or service wrote that broke, for the report's folder; no part of the message.
    """

    exit_code = 3

    def __init__(self, message: str, *, why: str = "", remedy: str = "", log: str = "") -> None:
        super().__init__(message, why=why, remedy=remedy)
        self.log = log


class EngineError(ErroredError):
    """An engine could not do what was asked of it; raised at the seam in place of foreign exceptions."""


class ServiceError(EngineError):
    """A service did not become ready, or died while it was needed.

    Args:
        message: As in the root.
        why: As in the root.
        remedy: As in the root.
        log: All that the service wrote.
        ended: Exit code of its process, 128 + N for signal N; ``None`` when it still ran or was never started.
    """

    def __init__(self, message: str, *, why: str = "", remedy: str = "", log: str = "", ended: int | None = None) -> None:
        super().__init__(message, why=why, remedy=remedy, log=log)
        self.ended = ended


class BuildError(ErroredError):
    """An image could not be assembled."""


class RegistryError(ErroredError):
    """A registry refused or broke a request."""


class InconclusiveError(VllmCiError):
    """Measured, but the measurement decides nothing."""

    exit_code = 4


class Interrupted(VllmCiError):
    """Stopped from outside (Ctrl-C, SIGTERM)."""

    exit_code = 130
