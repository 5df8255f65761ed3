"""Refusals: the client is told what is wrong with its request."""

from __future__ import annotations


class RefusedError(Exception):
    """The request is the client's mistake."""

    def __init__(self, message: str, *, status: int = 400, kind: str = "BadRequestError", param: str | None = None) -> None:
        super().__init__(message)
        self.message, self.status, self.kind, self.param = message, status, kind, param
