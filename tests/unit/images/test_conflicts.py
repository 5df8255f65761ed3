"""What does not fit over the layers below it is refused, and both owners are named."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest

from imagery.wheels import write_wheel
from imagery.world import PYTHON, SITE, World
from vllm_ci.domain.errors import BuildError, ConfigError, VllmCiError
from vllm_ci.domain.image_spec import Base, Overlay, Tier
from vllm_ci.images.integrity import manifest
from vllm_ci.images.tree import materialise

pytestmark = pytest.mark.slow

TIERS = (
    Tier(name="first", wheels=("*", "!vllm*", "!other")),
    Tier(name="second", wheels=("other",)),
    Tier(name="vllm", wheels=("vllm*",)),
)


def overlay(target: str) -> dict[str, Any]:
    return {"overlays": (Overlay(source="serving", target=target),)}


@pytest.mark.parametrize(
    ("changes", "named", "instead"),
    [
        (
            overlay("/lib/mine"),
            r"overlay serving to /lib/mine goes through /lib, a link to usr/lib",
            "write /usr/lib instead of /lib",
        ),
        (overlay("/lib"), r"overlay serving to /lib goes through /lib", "write /usr/lib instead of /lib"),
        (
            {"writable": ("/var/lib/x", "/bin/cache")},
            r"writable: /bin/cache goes through /bin",
            "write /usr/bin instead of /bin",
        ),
        ({"writable": ("/lib64",)}, r"writable: /lib64 goes through /lib64", "write /usr/lib64 instead of /lib64"),
        ({"links": {"/sbin/tool": "/opt/tool"}}, r"links: /sbin/tool goes through /sbin", "write /usr/sbin instead of /sbin"),
        ({"prefix": "/lib/vllm"}, r"prefix /lib/vllm goes through /lib", "write /usr/lib instead of /lib"),
        (
            {"links": {"/models": "/data"}, **overlay("/models/x")},
            r"overlay serving to /models/x goes through /models, a link to /data \(links: /models\)",
            "write /data instead of /models",
        ),
    ],
)
def test_a_path_through_a_link_of_a_lower_layer_is_refused_with_the_place_to_write(
    world: World, changes: dict[str, Any], named: str, instead: str
) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        world.build(**changes)
    assert caught.value.remedy == instead


def test_a_path_through_a_link_of_a_package_of_the_base_is_refused(world: World) -> None:
    world.deb("alternatives", "1", {"./etc/real/x": b"x"}, {"./etc/current": "/etc/real"})
    with pytest.raises(ConfigError, match=r"goes through /etc/current, a link to /etc/real"):
        world.build(**overlay("/etc/current/mine"))


def test_what_is_refused_once_is_refused_again_and_names_no_image(world: World) -> None:
    for _ in range(2):
        with pytest.raises(ConfigError, match="goes through /lib"):
            world.build(**overlay("/lib/mine"))
    assert world.store.index() == []
    world.build()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"writable": ("/models/cache",), "links": {"/models": "/data"}},
            ("a link of links: /models", "a directory of writable: /models/cache"),
        ),
        ({"links": {"/opt": "/data"}}, ("links: /opt",)),
        ({"links": {"/usr/lib": "/data"}}, ("a link of links: /usr/lib", "a directory of the Debian packages of the base")),
        ({"writable": ("/usr/lib/here.so",)}, ("a directory of writable: /usr/lib/here.so", "a file of the Debian packages")),
        (overlay("/usr/lib/here.so"), ("a directory of overlay serving", "a file of the Debian packages of the base")),
        (overlay(f"/{SITE}/helper/data.bin/x"), ("a directory of overlay serving", "a file of helper")),
        ({"links": {"/opt/vllm/bin/python": "/bin/true"}}, ("links: /opt/vllm/bin/python", "vllm-ci itself")),
        ({"links": {"/opt/vllm/pyvenv.cfg": "/x"}}, ("links: /opt/vllm/pyvenv.cfg",)),
        ({"writable": ("/../x",)}, ("writable: /../x",)),
    ],
)
def test_a_file_and_a_directory_of_one_name_are_refused_and_both_owners_named(
    world: World, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as caught:
        world.build(**changes)
    for each in words:
        assert each in caught.value.message
    assert caught.value.remedy


def test_a_link_may_stand_for_an_empty_directory_of_the_base(world: World) -> None:
    image = world.build(links={"/srv": "/data"})
    assert (materialise(image.ref.digest, store=world.store) / "srv").is_symlink()


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("tiers", [None, TIERS], ids=["one-layer", "two-layers"])
def test_a_file_of_one_wheel_and_a_directory_of_another_are_refused(
    world: World, tiers: tuple[Tier, ...] | None, swapped: bool
) -> None:
    contents = ({"LICENSE": b"x"}, {"LICENSE/b.txt": b"y"})
    world.wheel("another", "1", contents[swapped])
    world.wheel("other", "1", contents[not swapped])
    with pytest.raises(VllmCiError) as caught:
        world.build(tiers=tiers or world.spec().tiers)
    assert f"/{SITE}/LICENSE is" in caught.value.message
    assert " of another" in caught.value.message
    assert " of other" in caught.value.message
    assert world.store.index() == []


@pytest.mark.parametrize("name", ["bin/python", "bin/python3", f"bin/python{PYTHON}", "pyvenv.cfg"])
def test_no_overlay_replaces_the_interpreter(world: World, name: str) -> None:
    world.commit({f"environment/{name}": b"#!/bin/sh\n"})
    with pytest.raises(ConfigError, match=rf"overlay environment to /opt/vllm would replace /opt/vllm/{name}, "):
        world.build(overlays=(Overlay(source="environment", target="/opt/vllm"),))


def test_no_overlay_replaces_the_interpreter_of_the_base(world: World) -> None:
    world.commit({"tools/x": b"#!/bin/sh\n"})
    with pytest.raises(ConfigError, match=rf"would replace /usr/bin/python{PYTHON}, the interpreter"):
        world.build(overlays=(Overlay(source="tools/x", target=f"/usr/bin/python{PYTHON}"),))


def test_a_file_and_a_directory_of_two_overlays_are_refused(world: World) -> None:
    world.commit({"one/a": b"1", "two/b": b"2"})
    overlays = (Overlay(source="one", target="/opt/x"), Overlay(source="two", target="/opt/x/a"))
    with pytest.raises(ConfigError, match=r"/opt/x/a is a file of overlay one to /opt/x and a directory of overlay two"):
        world.build(overlays=overlays)


def test_a_wheels_file_in_place_of_a_directory_of_the_base_is_refused(world: World) -> None:
    path = write_wheel(world.links, "spread", "1", {"spread-1.data/data/share/x": b"x"})
    world.wheel("spread", "1", {"spread-1.data/data/share/x": b"x"})
    assert path.exists()
    world.deb("sharing", "1", {"./opt/vllm/share/x/y": b"y"})
    with pytest.raises(ConfigError, match=r"/opt/vllm/share/x is a file of spread and a directory of the Debian packages"):
        world.build()


def test_packages_of_the_base_lie_where_dpkg_puts_them(world: World) -> None:
    world.deb(
        "a-links", "1", {"./opt/real/keep": b"k", "./lib/one": b"1"}, {"./opt/name": "/opt/real", "./opt/up": "../../opt/real"}
    )
    world.deb("b-through", "1", {"./opt/name/file": b"f", "./opt/up/other": b"o", "./bin/tool": b"t"})
    image = world.build()
    tree = materialise(image.ref.digest, store=world.store)
    for path, content in {"opt/real/file": b"f", "opt/real/other": b"o", "usr/bin/tool": b"t", "usr/lib/one": b"1"}.items():
        assert (tree / path).read_bytes() == content
        assert not (tree / path).parent.is_symlink()
    assert (tree / "opt/name").resolve() == tree / "opt/real"
    assert "/opt/real/file" in manifest(image.ref.digest, store=world.store)["debian"]


def test_a_package_writes_nothing_through_its_links_onto_this_machine(world: World) -> None:
    outside = world.root / "outside"
    outside.mkdir()
    world.deb("a-links", "1", {}, {"./opt/esc": str(outside), "./usr/share/ca-certificates/z.crt": "/etc/passwd"})
    world.deb("b-through", "1", {"./opt/esc/evil": b"e"})
    image = world.build(base=Base(suite="bookworm", packages=("small",), links={"/opt/esc/link": "x"}))
    assert list(outside.iterdir()) == []
    tree = materialise(image.ref.digest, store=world.store)
    assert (tree / str(outside).lstrip("/") / "evil").read_bytes() == b"e"
    assert (tree / "etc/ssl/certs/ca-certificates.crt").read_bytes() == b"A\nB\n"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"./opt/x": b"f"}, {"./opt/x/y": b"d"}),
        ({"./opt/x/y": b"d"}, {"./opt/x": b"f"}),
        ({"./opt/x/y": b"d"}, {"./opt/x/y/z": b"d"}),
    ],
)
def test_a_file_and_a_directory_of_two_packages_are_refused(
    world: World, first: dict[str, bytes], second: dict[str, bytes]
) -> None:
    world.deb("a-one", "1", first)
    world.deb("b-two", "1", second)
    with pytest.raises(BuildError) as caught:
        world.build()
    assert "/opt/x" in caught.value.message


def test_a_link_of_base_links_never_replaces_a_directory(world: World) -> None:
    with pytest.raises(ConfigError, match=r"base\.links: /usr/bin is a directory of the packages"):
        world.build(base=Base(suite="bookworm", packages=("small",), links={"/usr/bin": "/x"}))


def test_layers_that_an_earlier_version_made_are_read_once_and_checked(world: World) -> None:
    first = world.build()
    for path in (world.store.root / "layers").glob("*.json"):
        facts = json.loads(path.read_bytes())
        del facts["shape"]
        path.write_bytes(json.dumps(facts).encode())
    shutil.rmtree(world.store.root / "members")
    shutil.rmtree(world.store.root / "checked")
    again = world.build()
    assert again.ref == first.ref
    assert not [layer for layer in again.layers if layer.built]
    known = {path.stem for path in (world.store.root / "members").iterdir()}
    assert known == {layer.digest.removeprefix("sha256:") for layer in first.layers}
    with pytest.raises(ConfigError, match="goes through /lib"):
        world.build(**overlay("/lib/mine"))
