"""Answers to a registry's authentication challenges (RFC 7235; token protocol of the distribution project)."""

from __future__ import annotations

import re
import threading
import time

import httpx

from vllm_ci.domain.errors import RegistryError
from vllm_ci.registry.access import is_loopback
from vllm_ci.registry.credentials import Credentials
from vllm_ci.registry.errors import UnauthorizedError

_PARAMETER = re.compile(r'(\w+)=(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))')
# A token is fetched anew this long before it would end, and one that says nothing lives this long (the protocol's default).
_MARGIN_S = 10.0
_DEFAULT_LIFE_S = 60.0


class Tokens:
    """Authorization headers for one registry, by scope; safe for threads."""

    def __init__(self, client: httpx.Client, host: str, credentials: Credentials | None) -> None:
        self._client = client
        self._host = host
        self._credentials = credentials
        self._lock = threading.Lock()
        self._basic = ""
        self._bearer: dict[str, tuple[str, float]] = {}

    def header(self, scope: str) -> str:
        """What to send for ``scope``; empty until a challenge was answered."""
        with self._lock:
            token, ends = self._bearer.get(scope, ("", 0.0))
            return f"Bearer {token}" if token and time.monotonic() < ends else self._basic

    def answer(self, challenge: str, scope: str, *, plain: bool) -> bool:
        """Take up a challenge; whether a second try has something to show.

        Args:
            challenge: The ``WWW-Authenticate`` header.
            scope: What is wanted.
            plain: The registry is one without TLS, which only an address of this machine or the user's choice can be: it may
                be sent a password as it is, and so may the token server beside it.

        Raises:
            UnauthorizedError: The token server refuses the credentials.
        """
        kind, _, rest = challenge.partition(" ")
        credentials = self._credentials
        if kind.lower() == "basic" and credentials and credentials.username:
            with self._lock:
                self._basic = credentials.basic
            return True
        if kind.lower() != "bearer":
            return False
        told = {name.lower(): quoted or bare for name, quoted, bare in _PARAMETER.findall(rest)}
        token, life_s = self._fetch(told, scope, credentials, plain=plain)
        with self._lock:
            self._bearer[scope] = token, time.monotonic() + max(life_s - _MARGIN_S, 1.0)
        return True

    def _fetch(self, told: dict[str, str], scope: str, credentials: Credentials | None, *, plain: bool) -> tuple[str, float]:
        realm = told.get("realm", "")
        if not realm.startswith(("https://", "http://")):
            raise RegistryError(
                f"{self._host} asks for a token but names no place to get one", remedy="check the registry's configuration"
            )
        beside = plain and httpx.URL(realm).host == httpx.URL(f"http://{self._host}").host
        if credentials and realm.startswith("http:") and not beside and not is_loopback(httpx.URL(realm).host):
            raise UnauthorizedError(
                f"{self._host} wants the password sent to {realm} without TLS", remedy="use a registry with TLS"
            )
        # What was asked for in the challenge, and what this request is known to need.
        scopes = sorted({*scope.split(), *told.get("scope", "").split()})
        response = self._ask(realm, told.get("service", ""), scopes, credentials)
        if response.status_code in (401, 403):
            raise UnauthorizedError(
                f"the token server of {self._host} refuses the login ({response.status_code})",
                why="no credentials were found"
                if credentials is None
                else f"those from {credentials.source or 'the options'} are wrong",
                remedy=f"docker login {self._host}",
            )
        try:
            value = response.raise_for_status().json()
            return str(value.get("token") or value["access_token"]), float(value.get("expires_in") or _DEFAULT_LIFE_S)
        except (httpx.HTTPStatusError, ValueError, LookupError, AttributeError) as error:
            raise RegistryError(
                f"the token server of {self._host} gave no token", why=f"status {response.status_code}"
            ) from error

    def _ask(self, realm: str, service: str, scopes: list[str], credentials: Credentials | None) -> httpx.Response:
        if credentials and credentials.identity_token:
            form = {
                "grant_type": "refresh_token",
                "service": service,
                "client_id": "vllm-ci",
                "scope": " ".join(scopes),
                "refresh_token": credentials.identity_token,
            }
            return self._client.post(realm, data=form)
        parameters = httpx.QueryParams({"scope": scopes} | ({"service": service} if service else {}))
        headers = {"Authorization": credentials.basic} if credentials else {}
        return self._client.get(httpx.URL(realm).copy_merge_params(parameters), headers=headers)
