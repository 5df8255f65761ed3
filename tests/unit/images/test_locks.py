from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vllm_ci.domain.errors import BuildError, ConfigError
from vllm_ci.images import resolver, uv
from vllm_ci.images.debian import apt
from vllm_ci.images.index import Indexes
from vllm_ci.images.lockfile import LockedDeb, LockedWheel, read_debs, read_wheels, write_debs, write_wheels
from vllm_ci.images.spec_file import folders, load, shipped

PLATFORMS = ("linux/amd64", "linux/arm64")


def wheel(project: str, sha: str, platforms: tuple[str, ...] = PLATFORMS) -> LockedWheel:
    return LockedWheel(
        project=project,
        version="1",
        filename=f"{project}-1-py3-none-any.whl",
        sha256=sha * 64,
        size_bytes=7,
        platforms=platforms,
    )


def test_a_wheel_lock_reads_back_as_it_was_written(tmp_path: Path) -> None:
    wheels = (wheel("a", "1"), wheel("b", "2", ("linux/amd64",)), wheel("b", "3", ("linux/arm64",)))
    write_wheels(tmp_path / "x.lock", wheels, PLATFORMS, spec="x")
    assert read_wheels(tmp_path / "x.lock", PLATFORMS) == wheels


def test_pip_itself_can_read_a_wheel_lock(tmp_path: Path) -> None:
    from packaging.requirements import Requirement

    write_wheels(tmp_path / "x.lock", [wheel("b", "2", ("linux/amd64",))], PLATFORMS, spec="x")
    line = next(line for line in (tmp_path / "x.lock").read_text().splitlines() if "==" in line)
    assert str(Requirement(line.rstrip("\\ "))) == 'b==1; platform_machine == "x86_64"'


def test_a_debian_lock_reads_back_as_it_was_written(tmp_path: Path) -> None:
    debs = (LockedDeb(name="a", version="1:2-3", architecture="amd64", sha256="4" * 64, size_bytes=5, path="pool/a.deb"),)
    write_debs(tmp_path / "x", debs, spec="x")
    assert read_debs(tmp_path / "x") == debs


@pytest.mark.parametrize("text", ["a==1 --hash=sha256:00\n", "a==1 \\\n    --hash=sha256:" + "0" * 64 + "\n"])
def test_a_lock_that_is_not_ours_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.lock").write_text(text)
    with pytest.raises(ConfigError, match="could be read"):
        read_wheels(tmp_path / "x.lock", PLATFORMS)


@pytest.mark.parametrize("read", [lambda path: read_wheels(path, PLATFORMS), read_debs])
def test_an_empty_lock_is_refused(tmp_path: Path, read: Callable[[Path], object]) -> None:
    (tmp_path / "x.lock").write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        read(tmp_path / "x.lock")


@pytest.mark.parametrize("odd", ["<<<<<<< HEAD", "b==1 \\"])
def test_a_wheel_lock_with_other_text_is_refused(tmp_path: Path, odd: str) -> None:
    path = tmp_path / "x.lock"
    write_wheels(path, [wheel("a", "1")], PLATFORMS, spec="x")
    path.write_text(f"{path.read_text()}{odd}\n")
    with pytest.raises(ConfigError, match="not part of a requirement"):
        read_wheels(path, PLATFORMS)


def test_a_lock_is_replaced_in_one_step(tmp_path: Path) -> None:
    """A build that reads a lock while it is written again never sees a part of it."""
    path, wheels = tmp_path / "x.lock", [wheel(f"a{number}", "1") for number in range(50)]
    write_wheels(path, wheels, PLATFORMS, spec="x")
    stop = threading.Event()

    def write_again() -> None:
        while not stop.is_set():
            write_wheels(path, wheels, PLATFORMS, spec="x")

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write_again)
        try:
            counts = {len(read_wheels(path, PLATFORMS)) for _ in range(300)}
        finally:
            stop.set()
        writing.result()
    assert counts == {50}


def test_an_absent_lock_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist") as caught:
        read_debs(tmp_path / "x")
    assert "vllm-ci lock" in caught.value.remedy


@pytest.mark.parametrize("name", shipped())
def test_shipped_specs_have_whole_locks_without_addresses_or_paths_of_a_machine(name: str) -> None:
    spec = load(name)
    wheels, debs = read_wheels(spec.wheels_lock, spec.platforms), read_debs(spec.debs_lock)
    for platform in spec.platforms:
        assert sum(platform in item.platforms for item in wheels) > 40
        assert sum(item.architecture == platform.partition("/")[2] for item in debs) > 50
    for path in (spec.wheels_lock, spec.debs_lock):
        text = path.read_text()
        assert "://" not in text
        assert str(Path.home()) not in text
        assert "file:" not in text
    assert all(not item.path.startswith("/") for item in debs)


def test_specs_ship_with_the_package() -> None:
    assert {"cpu", "cuda"} <= set(shipped())
    assert any(folder.is_dir() for folder in folders())


def test_a_wheel_from_a_folder_is_locked_by_name_and_hash_alone() -> None:
    package = {"name": "a", "wheels": [{"path": "../here/a%2Bcpu-1-py3-none-any.whl", "hashes": {"sha256": "0"}}]}
    assert uv.wheel_of(package)[:2] == ("a+cpu-1-py3-none-any.whl", "0")


def test_a_package_without_a_wheel_for_the_platform_is_refused() -> None:
    with pytest.raises(BuildError, match="has no wheel for this platform"):
        uv.wheel_of({"name": "a", "sdist": {}})


@pytest.mark.slow
def test_locking_keeps_what_fits_and_upgrades_what_it_is_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """uv is really called, with an index of nothing and a folder of tiny wheels."""
    from imagery.wheels import write_wheel

    if subprocess.run([sys.executable, "-c", "from vllm_ci.images.uv import program; program()"], check=False).returncode:
        pytest.skip("uv is not installed (pip install uv)")
    for version in ("1.0", "2.0"):
        write_wheel(tmp_path / "links", "small", version, {"small.py": version.encode()})
        write_wheel(tmp_path / "links", "other", version, {"other.py": version.encode()})
    monkeypatch.setattr(
        resolver, "configured", lambda: Indexes(urls=((tmp_path / "links").as_uri(),), find_links=(str(tmp_path / "links"),))
    )
    spec = load("cpu", wheels_lock=tmp_path / "x.lock", requirements=("small", "other"), overrides=())
    spec = spec.changed(wheels_lock=tmp_path / "x.lock", debs_lock=tmp_path / "x.debs.lock")
    assert {change.after for change in resolver.lock(spec, only="wheels").changes} == {"2.0"}
    write_wheels(tmp_path / "x.lock", [wheel("small", "1"), wheel("other", "2")], PLATFORMS, spec="x")
    (tmp_path / "x.lock").write_text((tmp_path / "x.lock").read_text().replace("==1 ", "==1.0 "))
    changes = resolver.lock(spec, only="wheels", packages=("other",)).changes
    assert [(change.name, change.before, change.after) for change in changes] == [("other (wheel)", "1.0", "2.0")]
    text = (tmp_path / "x.lock").read_text()
    assert str(tmp_path) not in text
    assert "small-1.0-py3-none-any.whl" in text


@pytest.mark.slow
@pytest.mark.needs_apt
def test_apt_resolves_for_another_architecture(tmp_path: Path) -> None:
    import shutil

    if not shutil.which("apt-get"):
        pytest.skip("needs apt")
    from vllm_ci.images.debian.mirrors import sources

    try:
        where = sources("bookworm", environ={})
    except ConfigError:
        pytest.skip("apt is configured for no mirror of bookworm")
    debs = apt.resolve(["netbase"], architecture="arm64", sources=where, state=tmp_path)
    assert "netbase" in [deb.name for deb in debs]
    assert {deb.architecture for deb in debs} == {"arm64"}
    assert all(deb.path.startswith("pool/") and len(deb.sha256) == 64 for deb in debs)
