"""Files of records in the ledger: JSON that says its format, and is read strictly."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from vllm_ci.domain.errors import ErroredError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from pydantic import TypeAdapter

_Record = TypeVar("_Record")


def plain(record: DataclassInstance, form: str) -> dict[str, Any]:
    """A record as plain data, with its format spelt out."""
    value: dict[str, Any] = json.loads(json.dumps({"format": form, **asdict(record)}))
    return value


def text(record: DataclassInstance, form: str) -> str:
    """The text of a record's file."""
    return json.dumps(plain(record, form), indent=2, ensure_ascii=False) + "\n"


def parse(content: bytes, name: str, form: str, adapter: TypeAdapter[_Record]) -> _Record:
    """A record from its file.

    Args:
        content: Of the file.
        name: Of the file, for messages.
        form: The format that it must have.
        adapter: Validates its fields.

    Raises:
        ErroredError: It is not a record; without a readable ledger nothing can be decided.
    """
    try:
        fields = dict(json.loads(content))
        if fields.pop("format", None) != form:
            raise ErroredError(
                f"{name} in the ledger is not of the format {form}", remedy="use the vllm-ci that wrote it, or newer"
            )
        return adapter.validate_python(fields)
    except (ValueError, TypeError, RecursionError) as error:
        raise ErroredError(
            f"{name} in the ledger cannot be read: {error}", remedy="look at the branch's log: records are never edited"
        ) from error
