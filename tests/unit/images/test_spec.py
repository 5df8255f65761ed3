from __future__ import annotations

from pathlib import Path

import pytest

from vllm_ci.domain.errors import ConfigError, UsageError
from vllm_ci.domain.image_spec import selected
from vllm_ci.images.spec_file import load

TEXT = """
base: {suite: bookworm, packages: [python3.11]}
python: "3.11"
glibc: "2.36"
prefix: /opt/vllm
platforms: [linux/amd64, linux/arm64]
requirements: [vllm]
tiers: [{name: all, wheels: ["*"]}]
"""


def spec(tmp_path: Path, text: str) -> Path:
    (tmp_path / "mine.yaml").write_text(text)
    return tmp_path / "mine.yaml"


def test_a_spec_by_path_has_its_locks_beside_it(tmp_path: Path) -> None:
    found = load(spec(tmp_path, TEXT))
    assert (found.name, found.wheels_lock, found.debs_lock) == ("mine", tmp_path / "mine.lock", tmp_path / "mine.debs.lock")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("tierz: []", "did you mean tiers"),
        ('python: {"a": 1}', "python cannot be"),
        ("platforms: linux/amd64", "platforms cannot be"),
        ("compression: lzma", "compression cannot be"),
        ("tiers: [{name: x, wheels: ['*'], files: some}]", r"mine.yaml:8: tiers.0.files cannot be"),
        ("base: {image: debian:12, suite: bookworm, packages: []}", "is not pinned"),
        ("base: {packages: []}", "base.suite and base.packages are missing"),
        ("python: 3.11\npython: 3.12", r"mine.yaml:\d+: duplicate key python"),
        ("python: [", "invalid YAML"),
        ("user: 5", r"mine.yaml:9: user has to be a mapping"),
        ("base: {suite: bookworm, packagez: []}", r"mine.yaml:8: unknown key base.packagez"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(tmp_path: Path, change: str, message: str) -> None:
    key = change.partition(":")[0]
    kept = "\n".join(line for line in TEXT.splitlines() if not line.startswith(f"{key}:"))
    with pytest.raises(ConfigError, match=message):
        load(spec(tmp_path, f"{kept}\n{change}\n"))


def test_a_platform_that_is_not_locked_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not locked for linux/riscv64"):
        load(spec(tmp_path, TEXT), targets=("linux/riscv64",))


def test_an_unknown_name_lists_the_shipped_ones() -> None:
    with pytest.raises(UsageError, match="no image spec nope") as caught:
        load("nope")
    assert "cpu, cuda" in caught.value.why


@pytest.mark.parametrize(
    ("name", "patterns", "chosen"),
    [
        ("torch", ("*", "!torch"), False),
        ("torch", ("!torch", "*"), True),
        ("nvidia-ml-py", ("*", "!nvidia-*", "nvidia-ml-py"), True),
        ("x", (), False),
    ],
)
def test_the_last_pattern_that_matches_decides(name: str, patterns: tuple[str, ...], chosen: bool) -> None:
    assert selected(name, patterns) is chosen
