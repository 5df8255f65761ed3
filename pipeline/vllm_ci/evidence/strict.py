"""JSON read strictly: duplicate keys and numbers that JSON does not have are refused."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from vllm_ci.evidence.refusals import DuplicateKeysError, MalformedError


def loads(content: bytes, what: str) -> dict[str, Any]:
    """The JSON object that ``content`` is.

    Args:
        content: UTF-8.
        what: Name of it, for messages.

    Raises:
        DuplicateKeysError: An object in it has a key twice.
        MalformedError: It is not a JSON object.
    """

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(found)
        if len(value) != len(found):
            names = sorted({name for name, _ in found if [key for key, _ in found].count(name) > 1})
            raise DuplicateKeysError(
                f"{what} has the key {names[0]!r} twice",
                why="two programs could read different values from it",
                remedy="do not use it; create and sign it again",
            )
        return value

    def constant(name: str) -> NoReturn:
        raise MalformedError(f"{what} holds {name}, which JSON does not have")

    try:
        value = json.loads(content, object_pairs_hook=pairs, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"{what} is not JSON", why=str(error)) from error
    if not isinstance(value, dict):
        raise MalformedError(f"{what} is not a JSON object")
    return value


def canonical(value: object) -> bytes:
    """JSON bytes that are the same for the same value: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
