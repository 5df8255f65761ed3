"""Documents as JSON that every reader takes: without NaN and infinities, and without halves of surrogate pairs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from typing import TypeGuard


def dumps(value: object, *, indent: int | None = 2, default: type[str] | None = None) -> str:
    """``value`` as JSON text in UTF-8 characters.

    Numbers that JSON does not have (RFC 8259, section 6) become ``null``; halves of surrogate pairs stay escapes.

    Args:
        value: Plain data.
        indent: As of :func:`json.dumps`.
        default: As of :func:`json.dumps`.
    """
    try:
        text = json.dumps(value, indent=indent, ensure_ascii=False, default=default, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), indent=indent, ensure_ascii=False, default=default)
    return text.encode("utf-8", "backslashreplace").decode()


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a number that can be calculated with: no boolean, no NaN, no integer beyond any float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value
