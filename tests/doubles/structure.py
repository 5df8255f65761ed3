"""Text that a structure dictates: one instance of a JSON schema, a choice, a pattern, or the call of a function."""

from __future__ import annotations

import json
import re
from typing import Any

from doubles.refusal import RefusedError

_DEPTH = 32
_MOST_ITEMS = 256
# Classes with a count and plain characters: no pattern of this form takes long to match.
_SIMPLE = re.compile(r"(\[[^\]]*\](\{\d{1,2}\})?|[A-Za-z0-9-])+")


def forced(body: dict[str, Any]) -> tuple[str, str]:
    """The text that a request forces, and the function it calls with it; both empty where nothing is forced.

    Raises:
        RefusedError: The structure cannot be.
    """
    tools, choice = body.get("tools") or [], body.get("tool_choice")
    if choice not in (None, "none", "auto") and not tools:
        raise refused("When using `tool_choice`, `tools` must be set. (parameter=tool_choice)", "tool_choice")
    if len(tools) > _MOST_ITEMS:
        raise refused("This model's maximum context length is too short for so many tools.", "tools")
    if tools and choice not in (None, "none", "auto"):
        function = _function(tools, choice)
        return json.dumps(instance(function.get("parameters") or {}, {}, 0)), function["name"]
    return _outputs(body), ""


def refused(message: str, param: str) -> RefusedError:
    """A refusal of a structure."""
    return RefusedError(message, param=param)


def _function(tools: list[dict[str, Any]], choice: Any) -> dict[str, Any]:
    functions: dict[str, dict[str, Any]] = {tool["function"]["name"]: tool["function"] for tool in tools}
    name = next(iter(functions)) if choice == "required" else choice["function"]["name"]
    if name not in functions:
        raise refused("The tool specified in `tool_choice` does not match any of the specified `tools`", "tool_choice")
    return functions[name]


def _outputs(body: dict[str, Any]) -> str:
    wanted = body.get("response_format") or {}
    kind = wanted.get("type", "text")
    if kind not in ("text", "json_object", "json_schema"):
        raise refused("Input should be 'text', 'json_object' or 'json_schema'", "response_format")
    if kind == "json_object":
        return '{"a": 1}'
    if kind == "json_schema":
        if not isinstance(wanted.get("json_schema"), dict) or "schema" not in wanted["json_schema"]:
            raise refused(
                "When response_format type is 'json_schema', the 'json_schema' field must be provided.", "response_format"
            )
        schema = wanted["json_schema"]["schema"]
        return json.dumps(instance(schema, schema, 0))
    outputs = body.get("structured_outputs") or {}
    if outputs.get("choice"):
        return str(outputs["choice"][0])
    if "regex" in outputs:
        return matching(str(outputs["regex"]))
    if outputs:
        raise refused("this kind of structured output is not supported", "structured_outputs")
    return ""


def instance(schema: Any, root: Any, depth: int) -> Any:
    """The plainest instance of a schema."""
    if depth > _DEPTH:
        raise refused(f"The JSON schema is nested too deeply: at most {_DEPTH} levels", "schema")
    if not isinstance(schema, dict):
        return True
    if "$ref" in schema:
        if schema["$ref"] != "#":
            raise refused("only references within the schema are followed", "schema")
        return instance(root, root, depth + 1)
    if "enum" in schema:
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    if "anyOf" in schema:
        return instance(schema["anyOf"][0], root, depth + 1)
    return _of_type(schema, root, depth)


def _of_type(schema: dict[str, Any], root: Any, depth: int) -> Any:
    kind = schema.get("type", "object")
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: instance(properties.get(name, {}), root, depth + 1) for name in schema.get("required", properties)}
    if kind == "array":
        count = int(schema.get("minItems", 0))
        if count > _MOST_ITEMS:
            raise refused(f"a list of {count} items is too long", "schema")
        return [instance(schema.get("items", {}), root, depth + 1) for _ in range(count)]
    plain = {"string": "text", "integer": schema.get("minimum", 1), "number": 1.5, "boolean": True, "null": None}
    if kind not in plain:
        raise refused(f"Grammar error: Invalid type: {kind}", "schema")
    return plain[kind]


def matching(pattern: str) -> str:
    """A text that a simple pattern (classes with counts, plain characters) matches.

    Raises:
        RefusedError: It is not valid, or not that simple.
    """
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise refused(f"Grammar error: invalid regex: {error}", "structured_outputs") from error
    if not _SIMPLE.fullmatch(pattern):
        raise refused("this pattern is not supported", "structured_outputs")
    parts = re.findall(r"\[(.)[^\]]*\](?:\{(\d+)\})?|([A-Za-z0-9-])", pattern)
    return "".join(plain or first * min(int(count or 1), _MOST_ITEMS) for first, count, plain in parts)
