"""All errors that are shown to users: one root class, one exit code per class.

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
    """A check failed, or a policy refused a release."""

    exit_code = 1


class UsageError(VllmCiError):
    """The command line or the configuration is not valid."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file, image spec or lock cannot be parsed or is not valid."""


class ErroredError(VllmCiError):
    """No verdict: the pipeline itself failed, so nothing is known about what was to be checked.

    Args:
        message: As in the root.
        why: As in the root.
        remedy: As in the root.
        log: Full log of the program or service that failed, for the report's folder; not part of the message.
    """

    exit_code = 3

    def __init__(self, message: str, *, why: str = "", remedy: str = "", log: str = "") -> None:
        super().__init__(message, why=why, remedy=remedy)
        self.log = log


class EngineError(ErroredError):
    """An engine could not do what was requested; engines raise it in place of exceptions of other libraries."""


class ServiceError(EngineError):
    """A service did not become ready, or ended while it was needed.

    Args:
        message: As in the root.
        why: As in the root.
        remedy: As in the root.
        log: Full log of the service.
        ended: Exit code of its process, 128 + N for signal N; ``None`` when it was still running or was never started.
    """

    def __init__(self, message: str, *, why: str = "", remedy: str = "", log: str = "", ended: int | None = None) -> None:
        super().__init__(message, why=why, remedy=remedy, log=log)
        self.ended = ended


class BuildError(ErroredError):
    """An image could not be assembled."""


class RegistryError(ErroredError):
    """A registry refused a request, or did not complete it."""


class InconclusiveError(VllmCiError):
    """The measurement is not decisive."""

    exit_code = 4


class Interrupted(VllmCiError):
    """The command was stopped by a signal (Ctrl-C, SIGTERM)."""

    exit_code = 130
