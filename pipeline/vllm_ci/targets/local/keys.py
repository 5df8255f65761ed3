"""The API keys of a deployment: named, revocable, and kept as hashes only."""

from __future__ import annotations

import re
import secrets
import string
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from vllm_ci.domain.errors import ErroredError, UsageError
from vllm_ci.targets.envoy.authentication import hashed
from vllm_ci.targets.local.state import write

KEY_FILE = "keys.json"

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_ALPHABET = string.ascii_letters + string.digits
_LENGTH = 43  # 256 bits


@dataclass(frozen=True, kw_only=True)
class Key:
    """A key that is accepted.

    Attributes:
        name: Whose it is; stands in the access log.
        hash: Of its secret.
        created_at: RFC 3339, UTC.
        consents_since: From when on its requests and their answers may be recorded (RFC 3339, UTC); empty: they may not.
    """

    name: str
    hash: str
    created_at: str
    consents_since: str = ""


_ADAPTER = TypeAdapter(list[Key])


@dataclass(frozen=True, kw_only=True)
class KeyFile:
    """The file with the keys' hashes."""

    path: Path

    def keys(self) -> list[Key]:
        """All keys, sorted by name.

        Raises:
            ErroredError: The file cannot be read.
        """
        try:
            return _ADAPTER.validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return []
        except (OSError, ValidationError) as error:
            raise ErroredError(
                f"{self.path} cannot be read", why=str(error), remedy="restore it, or delete it and add the keys again"
            ) from error

    def hashes(self) -> dict[str, str]:
        """Hash of each key by its name."""
        return {key.name: key.hash for key in self.keys()}

    def consents(self) -> dict[str, datetime]:
        """Keys whose requests and answers may be recorded, and since when."""
        return {each.name: datetime.fromisoformat(each.consents_since) for each in self.keys() if each.consents_since}

    def add(self, name: str, *, consent: bool = False) -> str:
        """Add a key; returns it, which cannot be had again.

        Raises:
            UsageError: The name is taken or not valid.
        """
        if not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} is not a name of a key", remedy="use 1 to 40 lower-case letters, digits and hyphens")
        keys = self.keys()
        if any(key.name == name for key in keys):
            raise UsageError(f"there is a key {name} already", remedy="choose another name, or revoke that key first")
        secret = "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))
        now = datetime.now(UTC)
        key = Key(
            name=name,
            hash=hashed(secret),
            created_at=now.isoformat(timespec="seconds"),
            consents_since=now.isoformat() if consent else "",
        )
        self.save([*keys, key])
        return f"vci_{name}_{secret}"

    def revoke(self, name: str) -> None:
        """Remove a key.

        Raises:
            UsageError: There is none of this name.
        """
        self.save([key for key in self._with(name) if key.name != name])

    def consent(self, name: str, *, given: bool) -> None:
        """Note that a key consents to the request log, or that it does not; a consent that is given again stays as it is.

        Raises:
            UsageError: There is none of this name.
        """
        now = datetime.now(UTC).isoformat()
        self.save(
            [
                replace(key, consents_since=(key.consents_since or now) if given else "") if key.name == name else key
                for key in self._with(name)
            ]
        )

    def _with(self, name: str) -> list[Key]:
        keys = self.keys()
        if all(key.name != name for key in keys):
            known = ", ".join(key.name for key in keys) or "none"
            raise UsageError(f"there is no key {name}", remedy=f"the keys are: {known}")
        return keys

    def save(self, keys: list[Key]) -> None:
        """Replace all keys."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write(self.path, _ADAPTER.dump_json(sorted(keys, key=lambda key: key.name), indent=1))
