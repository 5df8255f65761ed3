"""Which Debian mirrors the user means."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_ci.domain.errors import ConfigError
from vllm_ci.images.debian import mirrors


def apt(folder: Path, *lines: str) -> Path:
    (folder / "sources.list").write_text("\n".join(lines) + "\n")
    return folder


def test_a_host_of_another_release_knows_a_mirror_all_the_same(tmp_path: Path) -> None:
    etc = apt(
        tmp_path, "deb http://mirror.test/debian trixie main", "deb http://mirror.test/debian-security trixie-security main"
    )
    found = mirrors.sources("bookworm", etc=etc, environ={})
    assert [(source.uri, source.suite) for source in found] == [
        ("http://mirror.test/debian", "bookworm"),
        ("http://mirror.test/debian-security", "bookworm-security"),
    ]


def test_a_host_that_knows_no_debian_mirror_is_told_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="VLLM_CI_DEBIAN_MIRROR"):
        mirrors.sources("bookworm", etc=apt(tmp_path, "deb http://packages.test/tools stable main"), environ={})


def test_a_locked_package_is_also_looked_for_among_the_security_updates(tmp_path: Path) -> None:
    found = mirrors.sources("bookworm", etc=apt(tmp_path, "deb http://mirror.test/debian bookworm main"), environ={})
    assert mirrors.roots(found) == ("http://mirror.test/debian", "http://mirror.test/debian-security")
