"""Bearer tokens from the server that a challenge names (token and OAuth2 protocols of the distribution project)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from vllm_ci.domain.errors import RegistryError
from vllm_ci.registry import locations
from vllm_ci.registry.access import is_loopback
from vllm_ci.registry.answer import RegistryAnswer
from vllm_ci.registry.challenges import Challenge
from vllm_ci.registry.credentials import Credentials
from vllm_ci.registry.errors import RefusedError, UnauthorizedError, UnreachableError
from vllm_ci.registry.refusals import given_up
from vllm_ci.registry.retry import STATUSES, Failures
from vllm_ci.registry.wire import Outgoing, Wire

# A token that does not say how long it lives does so for this long, the protocol's default.
_DEFAULT_LIFE_S = 60.0
# RFC 6750, section 2.1; anything else could not be sent in a header.
_TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, kw_only=True)
class Token:
    """What may be sent, and for how many seconds."""

    value: str
    life_s: float


@dataclass(frozen=True, kw_only=True)
class TokenSource:
    """Where tokens for one registry are asked for.

    Attributes:
        wire: Connections.
        home: ``https://host`` of the registry, or ``http://host``.
        credentials: Of the registry's host; its token server gets them too, wherever it is, as with docker and containerd.
    """

    wire: Wire
    home: str
    credentials: Credentials | None

    @property
    def _host(self) -> str:
        return urlsplit(self.home).netloc

    def fetch(self, challenge: Challenge, scope: str) -> Token:
        """A token for ``scope`` and for what the challenge asks for.

        Raises:
            UnauthorizedError: The token server refuses the credentials, or they must not be sent to it.
            UnreachableError: It does not answer, or keeps failing.
            RegistryError: It returned no token.
        """
        realm = self._realm(challenge.parameters.get("realm", ""))
        scopes = sorted({*scope.split(), *challenge.parameters.get("scope", "").split()})
        answer = self._answer(self._asked(realm, challenge.parameters.get("service", ""), scopes))
        if answer.status != 200:
            raise self._refusal(answer)
        return self._token(answer)

    def _realm(self, realm: str) -> str:
        """The token server's address, when a login may be sent there."""
        try:
            realm = locations.absolute(realm)
        except RegistryError as error:
            raise RegistryError(
                f"{self._host} requires a token but names no usable token server", why=error.why, remedy=error.remedy
            ) from error
        if realm.startswith("http:") and not self._may_be_plain(urlsplit(realm).hostname or ""):
            raise UnauthorizedError(
                f"{self._host} requires the login to be sent to {locations.shown(realm)} without TLS",
                why="a token server without TLS is only used for a registry without TLS",
                remedy="configure an https address as the registry's token realm",
            )
        return realm

    def _may_be_plain(self, name: str) -> bool:
        if self.home.startswith("https:"):
            return False
        own = urlsplit(self.home).hostname or ""
        return not self.credentials or name == own or (is_loopback(own) and is_loopback(name))

    def _asked(self, realm: str, service: str, scopes: list[str]) -> Outgoing:
        credentials = self.credentials
        if credentials and credentials.identity_token:
            form = {
                "grant_type": "refresh_token",
                "service": service,
                "client_id": "vllm-ci",
                "scope": " ".join(scopes),
                "refresh_token": credentials.identity_token,
            }
            body, headers = urlencode(form).encode(), {"Content-Type": "application/x-www-form-urlencoded"}
            return Outgoing(method="POST", url=realm, headers=headers, body=lambda: body, secret=True)
        query = urlencode([*([("service", service)] if service else []), *(("scope", each) for each in scopes)])
        return Outgoing(
            method="GET", url=locations.with_query(realm, query), authorization=credentials.basic if credentials else ""
        )

    def _answer(self, asked: Outgoing) -> RegistryAnswer:
        failures = Failures(self.wire.access.retry)
        while True:
            try:
                answer = self.wire.ask(asked)
            except UnreachableError as error:
                if not error.passing or not failures.again():
                    raise given_up(error, failures.count) from error
                continue
            if answer.status not in STATUSES or not failures.again(answer.headers.get("Retry-After", "")):
                return answer

    def _refusal(self, answer: RegistryAnswer) -> RefusedError:
        server = urlsplit(answer.url).netloc
        told = f"{server} answered {answer.told}"
        login = self.credentials
        if answer.status in (400, 401, 403):
            return UnauthorizedError(
                f"the token server of {self._host} refuses the login ({answer.status})",
                why=f"{told}; no credentials were found"
                if login is None
                else f"{told}; those from {login.source or 'the options'} are wrong, have expired or lack the permission",
                remedy=f"docker login {self._host}",
                status=answer.status,
                code=answer.code,
            )
        kind = UnreachableError if answer.status in STATUSES else RefusedError
        return kind(
            f"the token server of {self._host} returned no token",
            why=told,
            remedy="try again later" if kind is UnreachableError else "check the registry's token realm",
            status=answer.status,
            code=answer.code,
        )

    def _token(self, answer: RegistryAnswer) -> Token:
        value: Any = answer.json()
        found = (value.get("token") or value.get("access_token")) if isinstance(value, dict) else None
        if not isinstance(found, str) or not _TOKEN.fullmatch(found):
            kind = answer.headers.get("Content-Type", "") or "unknown type"
            raise RegistryError(
                f"the token server of {self._host} returned no token",
                why=f"{urlsplit(answer.url).netloc} answered 200 with {kind} without a usable token",
                remedy="check the registry's token realm, and that no sign-in page or proxy answers instead",
            )
        return Token(value=found, life_s=_life_s(value.get("expires_in")))


def _life_s(said: object) -> float:
    """Seconds that a token lives; the default for what is no usable number."""
    try:
        seconds = float(said) if isinstance(said, int | float | str) else 0.0
    except (ValueError, OverflowError):
        return _DEFAULT_LIFE_S
    return seconds if math.isfinite(seconds) and seconds > 0 else _DEFAULT_LIFE_S
