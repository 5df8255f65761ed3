"""Which login a registry gets: the strongest of its challenges that can be answered, then the next one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

from vllm_ci.domain.errors import RegistryError
from vllm_ci.registry.challenges import Challenge
from vllm_ci.registry.credentials import Credentials
from vllm_ci.registry.tokens import TokenSource

# A token is fetched anew this long before it would end.
_MARGIN_S = 10.0


class Authentication:
    """``Authorization`` headers for one registry, by scope; safe for threads.

    Args:
        source: Where tokens come from.
    """

    def __init__(self, source: TokenSource) -> None:
        self._source = source
        self._lock = threading.Lock()
        # Only one thread asks for a token; those that wait for it use what it got.
        self._fetching = threading.Lock()
        self._basic = ""
        self._bearer: dict[str, tuple[str, float]] = {}

    @property
    def credentials(self) -> Credentials | None:
        """The login."""
        return self._source.credentials

    def header(self, scope: str) -> str:
        """What to send for ``scope``; empty until a challenge was answered."""
        with self._lock:
            header, ends = self._bearer.get(scope, ("", 0.0))
            return header if header and time.monotonic() < ends else self._basic

    def answers(self, challenges: Sequence[Challenge], scope: str, sent: str) -> Iterator[str]:
        """Headers to try, one after the other, until one is accepted; the one tried last is kept for later requests.

        Tokens come first, for one repository and for minutes; then the password, which is for everything.

        Args:
            challenges: What the registry offers.
            scope: What is wanted.
            sent: The header that was refused, empty when none was sent.

        Raises:
            RegistryError: No token was returned, and nothing else can be tried.
        """
        tried: set[str] = set()
        failed: RegistryError | None = None
        for challenge in challenges:
            if challenge.scheme == "bearer":
                try:
                    yield from self._tokens(challenge, scope, sent, tried)
                except RegistryError as error:
                    failed = failed or error
        if any(challenge.scheme == "basic" for challenge in challenges) and (header := self._password()) not in ("", sent):
            tried.add(header)
            yield header
        if failed and not tried:
            raise failed

    def _password(self) -> str:
        login = self.credentials
        if login is None or not login.username:
            return ""
        with self._lock:
            self._basic = login.basic
            self._bearer.clear()
        return login.basic

    def _tokens(self, challenge: Challenge, scope: str, sent: str, tried: set[str]) -> Iterator[str]:
        """The token that another thread got in the meantime, or a new one where there is none or it has expired too."""
        with self._fetching:
            newer = self.header(scope)
            usable = newer.startswith("Bearer ") and newer not in {sent, *tried}
            header = newer if usable else self._fetched(challenge, scope)
        if header not in tried:
            tried.add(header)
            yield header
        if usable:
            with self._fetching:
                header = self._fetched(challenge, scope)
            if header not in tried:
                tried.add(header)
                yield header

    def _fetched(self, challenge: Challenge, scope: str) -> str:
        token = self._source.fetch(challenge, scope)
        header = f"Bearer {token.value}"
        with self._lock:
            self._bearer[scope] = header, time.monotonic() + max(token.life_s - _MARGIN_S, 1.0)
        return header
