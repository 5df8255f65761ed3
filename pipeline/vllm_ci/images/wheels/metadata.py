"""``WHEEL`` and ``METADATA`` of a wheel: what pip and uv check of them before they install it."""

from __future__ import annotations

import re
from email.parser import HeaderParser

from vllm_ci.domain.errors import BuildError
from vllm_ci.images.wheels.record import REBUILD

_VERSION = re.compile(r"(\d+)\.(\d+)")
_SEPARATORS = re.compile(r"[-_.]+")


def check_format(text: str, where: str) -> None:
    """Refuse a wheel of another major version of the format (Binary distribution format, "Installing a wheel").

    Raises:
        BuildError: It is one, or does not say.
    """
    version = (HeaderParser().parsestr(text).get("Wheel-Version") or "").strip()
    match = _VERSION.fullmatch(version)
    if match is None:
        raise BuildError(f"{where}: Wheel-Version is {version or 'missing'}", why="it has to be like 1.0", remedy=REBUILD)
    if match[1] != "1":
        raise BuildError(f"{where}: Wheel-Version is {version}", why="only version 1 of the format is known", remedy=REBUILD)


def check_names(text: str, *, file: str, dist_info: str) -> None:
    """Refuse a wheel whose file name, ``.dist-info`` directory and metadata are about different things.

    Raises:
        BuildError: They are.
    """
    headers = HeaderParser().parsestr(text)
    name, version = (str(headers.get(key) or "").strip() for key in ("Name", "Version"))
    wanted = file.removesuffix(".whl").split("-")
    if len(wanted) < 5:
        raise BuildError(
            f"{file} is no name of a wheel", why="it has to be NAME-VERSION-PYTHON-ABI-PLATFORM.whl", remedy=REBUILD
        )
    folder = dist_info.removesuffix(".dist-info").rpartition("-")[0]
    where, why = f"{file}: {dist_info}", f"the file name says {wanted[0]} {wanted[1]}"
    if _canonical(folder) != _canonical(wanted[0]):
        raise BuildError(f"{where} is of another project", why=why, remedy=REBUILD)
    if _canonical(name) != _canonical(wanted[0]):
        raise BuildError(f"{where}/METADATA: Name is {name or 'missing'}", why=why, remedy=REBUILD)
    if not _same_version(version, wanted[1]):
        raise BuildError(f"{where}/METADATA: Version is {version or 'missing'}", why=why, remedy=REBUILD)


def _canonical(name: str) -> str:
    return _SEPARATORS.sub("-", name).lower()


def _same_version(one: str, other: str) -> bool:
    if one == other:
        return True
    from packaging.version import InvalidVersion, Version  # as slow to load as an unchanged build; seldom needed

    try:
        return Version(one) == Version(other.replace("_", "-"))
    except InvalidVersion:
        return False
