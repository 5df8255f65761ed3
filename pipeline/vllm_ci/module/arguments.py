"""Arguments of the constructor, and how an object passes its settings to the objects that its functions return.

Each argument is defined once, as a field of a class. The SDK reads the documentation of a field only if its annotation is an
object, not a string: no module of this package uses ``from __future__ import annotations``.
"""

import dataclasses
import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import dagger
from dagger import DefaultPath, Doc, Ignore

from vllm_ci.module.enums import Variant

# Large, and never committed. Excluding tracked files would make every tree look dirty.
_IGNORED = ["**/.venv", "**/__pycache__", "**/.mypy_cache", "**/.ruff_cache", "**/.pytest_cache", "**/.tools", "**/.vllm-ci"]

Source = Annotated[
    dagger.Directory, DefaultPath("/"), Ignore(_IGNORED), Doc("Checkout of the repository to build and test, with its .git")
]
Username = Annotated[dagger.Secret | None, Doc("User name for the registry")]
Password = Annotated[dagger.Secret | None, Doc("Password or token for the registry")]
RegistryService = Annotated[dagger.Service | None, Doc("The registry as a service (tcp://host:port), if DNS cannot resolve it")]

_Opened = TypeVar("_Opened")


@dataclasses.dataclass(kw_only=True)
class Settings:
    """Settings that every object of the module has."""

    source: Source
    config: Annotated[str, Doc("Path of the configuration file in the source")] = "vllm-ci.yaml"
    variant: Annotated[Variant, Doc("Image variant to build")] = Variant.CONFIGURED
    spec: Annotated[str, Doc("Path of an image spec in the source, instead of the configured one")] = ""
    base: Annotated[
        str, Doc("Branch, or commit (40 digits), that changes are compared with; by default the repository's main branch")
    ] = ""
    gpus: Annotated[str, Doc("none, all or device numbers (0,1); by default as configured")] = ""
    checkpoint: Annotated[dagger.Directory | None, Doc("Model to serve, instead of the configured one")] = None
    secrets: Annotated[list[dagger.Secret] | None, Doc("Secrets named in the configuration, e.g. env://HF_TOKEN")] = None
    api_key: Annotated[dagger.Secret | None, Doc("API key of the server; by default as configured")] = None
    python_image: Annotated[str, Doc("Image that vllm-ci runs in: Debian with Python; faster if git is installed")] = (
        "python:3.12-slim"
    )
    index: Annotated[dagger.Secret | None, Doc("URL of the package index, instead of the public one")] = None
    extra_index: Annotated[dagger.Secret | None, Doc("URL of an additional package index")] = None
    debian_mirror: Annotated[dagger.Secret | None, Doc("URLs of Debian mirrors, instead of those of the image")] = None
    proxy: Annotated[dagger.Secret | None, Doc("URL of the proxy for HTTP and HTTPS")] = None
    certificates: Annotated[dagger.File | None, Doc("Certificate authorities to trust, instead of those of the image")] = None
    cache: Annotated[str, Doc("Cache volume for packages, layers and images")] = "vllm-ci"


_SETTINGS = tuple(each.name for each in dataclasses.fields(Settings))


def settings(holder: Settings) -> dict[str, Any]:
    """The settings of an object, to create another object with."""
    return {name: getattr(holder, name) for name in _SETTINGS}


def opening(opened: Callable[..., _Opened], name: str, doc: str) -> Callable[..., Any]:
    """Create a function ``name`` that returns an ``opened`` object: its arguments are the fields that the class adds."""
    hints = {**typing.get_type_hints(opened, include_extras=True), "return": opened}
    added = [each for each in dataclasses.fields(typing.cast("Any", opened)) if each.name not in _SETTINGS]
    keyword, either = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD

    async def function(self: Settings, **given: Any) -> _Opened:
        return opened(**settings(self), **given)

    function.__name__, function.__doc__ = name, doc
    function.__annotations__ = {each: hints[each] for each in (*(field.name for field in added), "return")}
    parameters = [inspect.Parameter(each.name, keyword, default=each.default, annotation=hints[each.name]) for each in added]
    signature = inspect.Signature([inspect.Parameter("self", either), *parameters], return_annotation=opened)
    vars(function)["__signature__"] = signature
    return function
