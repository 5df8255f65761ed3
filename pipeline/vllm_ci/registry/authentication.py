"""Which login a registry gets: the strongest of its challenges that can be answered, then the next one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

from vllm_ci.domain.errors import RegistryError
from vllm_ci.registry.challenges import Challenge
from vllm_ci.registry.credentials import Credentials
from vllm_ci.registry.tokens import TokenSource

# The strongest first: a token is for one repository and for minutes, a password is for everything.
_SCHEMES = ("bearer", "basic")
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

        Args:
            challenges: What the registry offers.
            scope: What is wanted.
            sent: The header that was refused, empty when none was sent.

        Raises:
            RegistryError: No token can be had, and nothing else can be tried.
        """
        known = [challenge for scheme in _SCHEMES for challenge in challenges if challenge.scheme == scheme]
        failed: RegistryError | None = None
        tried = set()
        for challenge in known:
            try:
                header = self._basic_header(sent) if challenge.scheme == "basic" else self._token(challenge, scope, sent)
            except RegistryError as error:
                failed = failed or error
                continue
            if header and header not in tried:
                tried.add(header)
                yield header
        if failed and not tried:
            raise failed

    def _basic_header(self, sent: str) -> str:
        login = self.credentials
        if login is None or not login.username or login.basic == sent:
            return ""
        with self._lock:
            self._basic = login.basic
            self._bearer.clear()
        return login.basic

    def _token(self, challenge: Challenge, scope: str, sent: str) -> str:
        with self._fetching:
            newer = self.header(scope)
            if newer.startswith("Bearer ") and newer != sent:
                return newer
            token = self._source.fetch(challenge, scope)
            header = f"Bearer {token.value}"
            with self._lock:
                self._bearer[scope] = header, time.monotonic() + max(token.life_s - _MARGIN_S, 1.0)
            return header
