"""Paths of an image spec, made into their one form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from vllm_ci.domain import paths
from vllm_ci.domain.errors import ConfigError
from vllm_ci.domain.image_spec import Base, Compile, ImageSpec, Overlay, VllmSource
from vllm_ci.domain.paths import InvalidPath
from vllm_ci.system.yaml_file import Document, Place


def normalised(spec: ImageSpec, where: Document | None) -> ImageSpec:
    """``spec`` with all its paths in one form; ``where`` is the file that it was read from, if any.

    Raises:
        ConfigError: One is not what it has to be; the message has file, line and key.
    """
    fix = _Fixer(spec.name, where)
    return replace(
        spec,
        base=_base(spec.base, fix),
        prefix=fix(("prefix",), spec.prefix, paths.in_image),
        writable=fix.each(("writable",), spec.writable, paths.in_image),
        links=fix.links(("links",), spec.links),
        workdir=fix(("workdir",), spec.workdir, paths.root_or_in_image),
        entrypoint=_argv(("entrypoint",), spec.entrypoint, fix),
        health=replace(spec.health, argv=_argv(("health", "argv"), spec.health.argv, fix)) if spec.health else None,
        user=replace(
            spec.user, home=fix(("user", "home"), spec.user.home, _home), name=fix(("user", "name"), spec.user.name, _user)
        ),
        overlays=tuple(_overlay(("overlays", index), item, fix) for index, item in enumerate(spec.overlays)),
        vllm=_vllm(spec.vllm, fix) if spec.vllm else None,
    )


class _Fixer:
    """Converts values; errors name the line of an invalid one."""

    def __init__(self, name: str, where: Document | None) -> None:
        self.name, self.where = name, where

    def __call__(self, key: Place, value: str, convert: Callable[[str], str]) -> str:
        try:
            return convert(value)
        except InvalidPath as error:
            shown = ".".join(map(str, key))
            where = f"{self.where.path}:{self.where.line(key)}" if self.where else f"spec {self.name}"
            raise ConfigError(f"{where}: {shown} is not valid", why=error.why, remedy=error.remedy) from error

    def each(self, key: Place, values: Iterable[str], convert: Callable[[str], str]) -> tuple[str, ...]:
        return tuple(self((*key, index), value, convert) for index, value in enumerate(values))

    def links(self, key: Place, links: Mapping[str, str]) -> dict[str, str]:
        return {
            self((*key, link), link, paths.in_image): self((*key, link), aim, paths.link_target) for link, aim in links.items()
        }


def _base(base: Base, fix: _Fixer) -> Base:
    interpreter = fix(("base", "interpreter"), base.interpreter, paths.in_image) if base.interpreter else ""
    return replace(base, links=fix.links(("base", "links"), base.links), interpreter=interpreter)


def _argv(key: Place, argv: tuple[str, ...], fix: _Fixer) -> tuple[str, ...]:
    return (fix((*key, 0), argv[0], paths.program), *argv[1:]) if argv else ()


def _overlay(key: Place, overlay: Overlay, fix: _Fixer) -> Overlay:
    return replace(
        overlay,
        source=fix((*key, "source"), overlay.source, lambda text: paths.in_repository(text, whole=True)),
        target=fix((*key, "target"), overlay.target, lambda text: paths.in_image(text, directory=True)),
        exclude=fix.each((*key, "exclude"), overlay.exclude, paths.pattern),
    )


def _vllm(vllm: VllmSource, fix: _Fixer) -> VllmSource:
    return replace(
        vllm,
        package=fix(("vllm", "package"), vllm.package, paths.in_repository),
        inputs=fix.each(("vllm", "inputs"), vllm.inputs, paths.in_repository),
        requirements=fix.each(("vllm", "requirements"), vllm.requirements, paths.in_repository),
        compile=_compile(vllm.compile, fix) if vllm.compile else None,
    )


def _compile(step: Compile, fix: _Fixer) -> Compile:
    key = ("vllm", "compile")
    return replace(
        step,
        dockerfile=fix((*key, "dockerfile"), step.dockerfile, paths.in_repository),
        wheels=fix((*key, "wheels"), step.wheels, paths.in_image),
    )


def _home(text: str) -> str:
    """A home directory, which is a field of ``/etc/passwd`` as well (passwd(5))."""
    if ":" in text:
        raise InvalidPath(text, "contains a colon, which separates the fields of /etc/passwd", "a path without it")
    return paths.root_or_in_image(text)


def _user(text: str) -> str:
    if not text or not all(sign.isascii() and (sign.isalnum() or sign in "._-") for sign in text) or text.startswith("-"):
        raise InvalidPath(text, "is not a user name", "letters, digits, dots, underscores and dashes")
    return text
