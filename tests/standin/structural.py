"""Objects against the schema of their definition, as strictly as an API server: unknown fields fail, keys of lists occur once.

What is left to an API server: rules in CEL (``x-kubernetes-validations``) and defaults. See "structural schema":
https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import yaml

_KEPT = (
    *("type", "enum", "pattern", "required", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"),
    *("minProperties", "maxProperties", "anyOf", "oneOf", "allOf", "not"),
)
Schema = dict[str, Any]


@functools.cache
def documents(file: Path) -> tuple[dict[str, Any], ...]:
    """All documents of a YAML file; definitions are large, so it is read once and by the fast reader."""
    with file.open(encoding="utf-8") as stream:
        return tuple(each for each in yaml.load_all(stream, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if each)


def schema_of(definition: Mapping[str, Any], api_version: str) -> Schema:
    """The schema of a version of a CustomResourceDefinition.

    Raises:
        LookupError: There is no such version, or it is not served.
    """
    group, _, version = api_version.partition("/")
    for each in definition["spec"]["versions"]:
        if (definition["spec"]["group"], each["name"], each["served"]) == (group, version, True):
            found: Schema = each["schema"]["openAPIV3Schema"]
            return found
    raise LookupError(f"{definition['metadata']['name']} serves no {api_version}")


def problems(schema: Schema, value: Any) -> list[str]:
    """Everything that an API server would refuse."""
    whole = _strict(schema)
    whole["properties"]["metadata"] = {"type": "object"}  # checked by the server's own type
    errors = jsonschema.Draft202012Validator(whole).iter_errors(value)
    wrong = [f"{'.'.join(map(str, each.absolute_path))}: {each.message}" for each in errors]
    return wrong + list(_repeated(schema, value, ""))


def _strict(schema: Schema) -> Schema:
    made = {key: schema[key] for key in _KEPT if key in schema}
    if schema.get("x-kubernetes-int-or-string"):
        made["type"] = ["integer", "string"]
    if schema.get("nullable"):
        made["type"] = [made["type"], "null"]
    if "items" in schema:
        made["items"] = _strict(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = _strict(schema["additionalProperties"])
    elif schema.get("type") == "object" and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made["additionalProperties"] = False
    made["properties"] = {name: _strict(each) for name, each in schema.get("properties", {}).items()}
    return made


def _repeated(schema: Schema, value: Any, place: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name, each in value.items():
            under = schema.get("properties", {}).get(name)
            if under:
                yield from _repeated(under, each, f"{place}.{name}")
    if isinstance(value, list) and "items" in schema:
        for index, each in enumerate(value):
            yield from _repeated(schema["items"], each, f"{place}.{index}")
        if names := schema.get("x-kubernetes-list-map-keys"):
            keys = [tuple(each.get(name) for name in names) for each in value]
            yield from (
                f"{place}: {key} occurs twice" for key in sorted({each for each in keys if keys.count(each) > 1}, key=str)
            )
