from __future__ import annotations

from pathlib import Path

import pytest

from imagery.debs import write_deb
from imagery.world import World
from vllm_ci.domain.errors import BuildError
from vllm_ci.domain.events import ignore
from vllm_ci.domain.image_spec import Base
from vllm_ci.images import contents
from vllm_ci.images.debian import base
from vllm_ci.images.debian.deb import merged, unpack
from vllm_ci.images.spec_file import host_platform


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("./bin/sh", "usr/bin/sh"),
        ("./lib64/ld.so", "usr/lib64/ld.so"),
        ("./etc/passwd", "etc/passwd"),
        ("./library/x", "library/x"),
    ],
)
def test_usr_is_merged(path: str, where: str) -> None:
    assert merged(path) == where


def test_a_package_is_unpacked_with_modes_and_links(tmp_path: Path) -> None:
    path = write_deb(tmp_path / "a.deb", "a", "1", {"./bin/run": b"run", "./usr/share/a": b"a"}, {"./usr/bin/again": "run"})
    (tmp_path / "files").mkdir()
    package = unpack(path, tmp_path / "files")
    assert "Package: a" in package.control.text
    found = {member.path: (number, member) for number, member in enumerate(package.members)}
    number, run = found["usr/bin/run"]
    assert run.executable
    assert not found["usr/share/a"][1].executable
    assert (tmp_path / "files" / str(number)).read_bytes() == b"run"
    assert found["usr/bin/again"][1].link == "run"


def test_what_is_no_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.deb").write_bytes(b"no")
    with pytest.raises(BuildError, match="no Debian package"):
        unpack(tmp_path / "bad.deb", tmp_path)


@pytest.mark.slow
def test_the_tree_says_what_is_installed_leaves_out_what_the_spec_excludes_and_has_its_links(world: World) -> None:
    world.deb("docs", "3", {"./usr/share/doc/docs/copyright": b"c", "./usr/share/doc/docs/manual": b"m", "./usr/bin/gcc": b"g"})
    wanted = Base(
        suite="bookworm",
        exclude=("/usr/share/doc/*", "!/usr/share/doc/*/copyright"),
        links={"/usr/bin/cc": "gcc", "/usr/lib/x/y": "../z"},
    )
    debs = contents.debs_for(world.spec(base=wanted), host_platform())
    tree = base.root(world.store, debs, wanted, emit=ignore)
    assert (tree / "usr/share/doc/docs/copyright").exists()
    assert not (tree / "usr/share/doc/docs/manual").exists()
    assert (tree / "usr/bin/cc").read_bytes() == b"g"
    assert (tree / "usr/lib/x/y").readlink() == Path("../z")
    assert "Version: 3" in (tree / "var/lib/dpkg/status.d/docs").read_text()
    assert (tree / "bin").readlink() == Path("usr/bin")


def test_a_debian_package_with_a_whiteouts_name_is_refused(tmp_path: Path) -> None:
    path = write_deb(tmp_path / "odd.deb", "odd", "1", {"./usr/share/.wh.doc": b""})
    (tmp_path / "root").mkdir()
    with pytest.raises(BuildError, match=r"odd\.deb: .*usr/share/\.wh\.doc holds \.wh\.doc in its name"):
        unpack(path, tmp_path / "root")
