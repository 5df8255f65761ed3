"""The user's Debian mirrors: from an option, or from apt's own configuration."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from vllm_ci.domain.errors import ConfigError

_ONE_LINE = re.compile(r"^deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s*(?P<components>.*)$")


@dataclass(frozen=True, kw_only=True)
class AptSource:
    """One entry of apt's configuration.

    Attributes:
        uri: Root of the mirror, without a slash at the end.
        suite: ``bookworm``, ``bookworm-security`` ...
        components: ``main`` ...
        signed_by: Keyring that signs it, empty for apt's default ones.
    """

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""


def sources(suite: str, *, etc: Path = Path("/etc/apt"), environ: Mapping[str, str] = os.environ) -> tuple[AptSource, ...]:
    """Sources of ``suite`` and of its updates and security updates.

    ``VLLM_CI_DEBIAN_MIRROR`` (roots separated by spaces, e.g. a snapshot archive's) takes the place of apt's configuration.

    Raises:
        ConfigError: Nothing names a mirror of the suite.
    """
    if named := environ.get("VLLM_CI_DEBIAN_MIRROR"):
        return tuple(
            AptSource(uri=uri.rstrip("/"), suite=f"{suite}-security" if "security" in uri else suite, components=("main",))
            for uri in named.replace(",", " ").split()
        )
    wanted = {suite, f"{suite}-updates", f"{suite}-security"}
    configured = tuple(dict.fromkeys(_configured(etc)))
    found = tuple(source for source in configured if source.suite in wanted) or _of_another_release(configured, suite)
    if not found:
        raise ConfigError(
            f"no mirror of Debian {suite} is known",
            why=f"apt's configuration in {etc} names none (or this is no Debian host)",
            remedy="set VLLM_CI_DEBIAN_MIRROR to the root of a mirror (the folder that holds dists/ and pool/)",
        )
    return found


def roots(sources: Iterable[AptSource]) -> tuple[str, ...]:
    """Roots below which a locked package is looked for, its hash is checked.

    Those of ``sources``, and what lies beside them where Debian and most mirrors keep security updates: container images often
    name the plain archive alone, and an update that was locked may be in the other one only.
    """
    named = list(dict.fromkeys(source.uri for source in sources))
    return tuple(dict.fromkeys([*named, *(f"{root}-security" for root in named if root.endswith("/debian"))]))


def _of_another_release(configured: Iterable[AptSource], suite: str) -> tuple[AptSource, ...]:
    """A mirror that is configured for another Debian release works too: one root serves every suite."""
    return tuple(
        dict.fromkeys(
            replace(source, suite=f"{suite}-security" if source.uri.endswith("-security") else suite)
            for source in configured
            if source.uri.endswith(("/debian", "/debian-security"))
        )
    )


def _configured(etc: Path) -> Iterable[AptSource]:
    lists = [etc / "sources.list", *sorted(etc.glob("sources.list.d/*.list"))]
    for path in lists:
        if path.is_file():
            for line in path.read_text(errors="replace", encoding="utf-8").splitlines():
                if match := _ONE_LINE.match(line.strip()):
                    signed = re.search(r"signed-by=(\S+)", match["options"] or "")
                    yield AptSource(
                        uri=match["uri"].rstrip("/"),
                        suite=match["suite"],
                        components=tuple(match["components"].split("#")[0].split()),
                        signed_by=signed.group(1) if signed else "",
                    )
    for path in sorted(etc.glob("sources.list.d/*.sources")):
        for paragraph in re.split(r"\n\s*\n", path.read_text(errors="replace", encoding="utf-8")):
            yield from _deb822(paragraph)


def _deb822(paragraph: str) -> Iterable[AptSource]:
    """Entries of one paragraph (sources.list(5), DEB822-STYLE FORMAT)."""
    lines = [line for line in paragraph.splitlines() if not line.startswith("#")]
    fields: dict[str, str] = {}
    name = ""
    for line in lines:
        if line[:1].isspace():
            fields[name] = f"{fields.get(name, '')} {line.strip()}"
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
        return
    for uri in fields.get("uris", "").split():
        for suite in fields.get("suites", "").split():
            yield AptSource(
                uri=uri.rstrip("/"),
                suite=suite,
                components=tuple(fields.get("components", "").split()),
                signed_by=fields.get("signed-by", "").strip() if "\n" not in fields.get("signed-by", "") else "",
            )
