"""Where packages come from is the user's choice."""

from __future__ import annotations

from pathlib import Path

import pytest
from pypi_simple import PYPI_SIMPLE_ENDPOINT

from vllm_ci.domain.errors import ConfigError
from vllm_ci.images.debian.mirrors import sources
from vllm_ci.images.index import configured


@pytest.fixture(autouse=True)
def _no_files_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("sys.prefix", str(tmp_path / "prefix"))


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_CONFIG_DIRS": str(tmp_path / "xdg")}


def test_without_any_configuration_the_public_index_of_the_client_library_is_meant(environ: dict[str, str]) -> None:
    assert configured({**environ, "PIP_CONFIG_FILE": "/dev/null"}).urls == (PYPI_SIMPLE_ENDPOINT,)


def test_uvs_variables_come_before_pips_and_variables_before_files(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "config/pip").mkdir(parents=True)
    (tmp_path / "config/pip/pip.conf").write_text(
        "[global]\nindex-url = http://file/simple\nextra-index-url = http://more/simple\n"
    )
    assert configured(environ).urls == ("http://file/simple", "http://more/simple")
    environ["PIP_INDEX_URL"] = "http://pip/simple"
    assert configured(environ).urls[0] == "http://pip/simple"
    environ["UV_DEFAULT_INDEX"] = "named=http://uv/simple"
    assert configured(environ).urls[0] == "http://uv/simple"


def test_uvs_file_is_read(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "config/uv").mkdir(parents=True)
    (tmp_path / "config/uv/uv.toml").write_text(
        'find-links = ["/wheels"]\n[[index]]\nurl = "http://default/simple"\ndefault = true\n[[index]]\nurl = "http://extra/simple"\n'
    )
    found = configured(environ)
    assert found.urls == ("http://default/simple", "http://extra/simple")
    assert found.find_links == ("/wheels",)


def test_certificates_of_pips_configuration_are_used(environ: dict[str, str]) -> None:
    assert configured({**environ, "PIP_CERT": "/ca.pem"}).certificates == "/ca.pem"


APT = """
Types: deb deb-src
URIs: http://mirror/debian http://second/debian/
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/x.gpg

# another
Enabled: no
Types: deb
URIs: http://off/debian
Suites: bookworm
Components: main
"""


def test_apts_configuration_is_read_in_both_its_forms(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d/debian.sources").write_text(APT)
    (tmp_path / "sources.list").write_text(
        "# a comment\ndeb [arch=amd64 signed-by=/k.gpg] http://old/debian-security bookworm-security main\n"
        "deb http://x/ubuntu noble main\n"
    )
    found = sources("bookworm", etc=tmp_path, environ={})
    assert [(source.uri, source.suite) for source in found] == [
        ("http://old/debian-security", "bookworm-security"),
        ("http://mirror/debian", "bookworm"),
        ("http://mirror/debian", "bookworm-updates"),
        ("http://second/debian", "bookworm"),
        ("http://second/debian", "bookworm-updates"),
    ]
    assert found[0].signed_by == "/k.gpg"
    assert found[1].signed_by == "/usr/share/keyrings/x.gpg"


def test_a_mirror_that_the_user_names_takes_the_place_of_apts(tmp_path: Path) -> None:
    environ = {"VLLM_CI_DEBIAN_MIRROR": "http://snapshot/debian/ http://snapshot/debian-security"}
    assert [(item.uri, item.suite) for item in sources("bookworm", etc=tmp_path, environ=environ)] == [
        ("http://snapshot/debian", "bookworm"),
        ("http://snapshot/debian-security", "bookworm-security"),
    ]


def test_no_mirror_at_all_says_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no mirror of Debian bookworm") as caught:
        sources("bookworm", etc=tmp_path, environ={})
    assert "VLLM_CI_DEBIAN_MIRROR" in caught.value.remedy
