"""Images that stand on images which other tools made."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from imagery.layers import Item, Layout, file, folder, hard, link, tar
from imagery.trees import told
from imagery.world import World
from vllm_ci.domain.errors import BuildError, ConfigError
from vllm_ci.domain.image_spec import Base, Overlay
from vllm_ci.images.build import BuiltImage
from vllm_ci.images.integrity import FOUNDATION, manifest
from vllm_ci.images.store import image_manifest
from vllm_ci.images.tree import materialise

UMOCI, SKOPEO = shutil.which("umoci"), shutil.which("skopeo")
LONG = "long/" + "/".join(["n" * 60] * 4)
FIRST = [
    folder("usr"),
    folder("usr/lib"),
    link("lib", "usr/lib"),
    file("usr/lib/libc", b"1"),
    file("usr/lib/twice", b"old"),
    file("usr/lib/twice", b"new", 0o755),
    hard("usr/lib/again", "usr/lib/twice"),
    folder("cache"),
    file("cache/stale"),
    folder("gone"),
    file("gone/file"),
    file("single"),
    file(LONG, b"long"),
    Item(name="pax", content=b"pax", pax={"mtime": "1.5", "SCHILY.xattr.user.x": "y", "comment": "c"}),
    file("é\udcff", b"odd"),
    Item(name="dev/null", kind="device"),
    file("etc/hosts", b"localhost"),
]
SECOND = [
    folder("cache"),
    file("cache/.wh..wh..opq"),
    file("cache/fresh"),
    file(".wh.gone"),
    file(".wh.single"),
    hard("usr/lib/libc.so", "usr/lib/libc"),
]


def based(world: World, path: Path, digest: str, **changes: Any) -> BuiltImage:
    return world.build(base=Base(suite="bookworm", packages=("small",), image=f"oci:{path}@{digest}"), **changes)


def config(world: World, image: BuiltImage) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        world.store.read(image_manifest(image.ref.digest, store=world.store)["config"]["digest"])
    )
    return found


@pytest.mark.slow
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
@pytest.mark.parametrize("compression", ["gzip", "zstd", ""])
def test_a_foreign_base_is_known_by_its_own_tars(
    world: World, tmp_path: Path, compression: str, docker: bool, form: int
) -> None:
    under = Layout(path=tmp_path / "under")
    digest = under.image([tar(FIRST, form=form), tar(SECOND, form=form)], compression=compression, docker=docker)
    image = based(world, under.path, digest)
    tree = told(materialise(image.ref.digest, store=world.store))
    assert tree["usr/lib/twice"] == f"file {hashlib.sha256(b'new').hexdigest()[:12]} True" == tree["usr/lib/again"]
    assert tree["usr/lib/libc"] == tree["usr/lib/libc.so"]
    assert tree["lib"] == "link /usr/lib"
    assert LONG in tree
    assert not {"gone", "single", "cache/stale", "dev/null"} & set(tree)
    known = manifest(image.ref.digest, store=world.store)
    assert set(known) == {FOUNDATION, "settings", "commit", "helper", "vllm-small"}
    assert {path for path in known[FOUNDATION] if path.startswith("/cache") or "twice" in path} == {
        "/cache/fresh",
        "/usr/lib/twice",
    }
    assert "/etc/hosts" not in known[FOUNDATION]
    assert known[FOUNDATION]["/usr/lib/twice"] == hashlib.sha256(b"new").hexdigest()
    layers = image_manifest(image.ref.digest, store=world.store)["layers"]
    assert {layer["mediaType"].partition("+")[0] for layer in layers} == {"application/vnd.oci.image.layer.v1.tar"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "history",
    [
        None,
        [],
        [{"created_by": "one"}],
        [{"created_by": "x", "empty_layer": True}],
        [{"created_by": str(each)} for each in range(5)],
    ],
    ids=["none", "empty", "short", "without-layers", "long"],
)
def test_the_history_has_an_entry_for_each_layer_whatever_the_bases_has(
    world: World, tmp_path: Path, history: list[dict[str, Any]] | None
) -> None:
    under = Layout(path=tmp_path / "under")
    image = based(world, under.path, under.image([tar(FIRST), tar(SECOND)], history=history))
    found = config(world, image)
    assert len([item for item in found["history"] if not item.get("empty_layer")]) == len(found["rootfs"]["diff_ids"])


def test_a_base_whose_configuration_does_not_fit_its_manifest_is_refused(world: World, tmp_path: Path) -> None:
    under = Layout(path=tmp_path / "under")
    digest = under.image([tar(FIRST)])
    wrong = json.loads((under.blobs / digest.removeprefix("sha256:")).read_bytes())
    wrong["layers"] *= 2
    found = under.put(json.dumps(wrong).encode(), wrong["mediaType"])
    with pytest.raises(BuildError, match="lists 1 layers, its manifest 2"):
        based(world, under.path, found["digest"])


def test_a_hostile_base_is_refused_when_the_image_is_built(world: World, tmp_path: Path) -> None:
    under = Layout(path=tmp_path / "under")
    with pytest.raises(BuildError, match=r"holds '\.\./evil', which cannot be unpacked"):
        based(world, under.path, under.image([tar([file("../evil")])]))


@pytest.mark.slow
def test_paths_through_links_of_a_base_image_are_refused_with_the_place_to_write(world: World, tmp_path: Path) -> None:
    under = Layout(path=tmp_path / "under")
    digest = under.image([tar([folder("srv"), folder("srv/opt"), link("opt", "/srv/opt"), *FIRST])])
    with pytest.raises(ConfigError, match=r"prefix /opt/vllm goes through /opt, a link to /srv/opt \(base.image\)") as caught:
        based(world, under.path, digest)
    assert caught.value.remedy == "write /srv/opt instead of /opt"
    clear = {"prefix": "/srv/opt/vllm", "overlays": (Overlay(source="serving", target="/lib/mine"),)}
    with pytest.raises(ConfigError, match=r"overlay serving to /lib/mine goes through /lib, a link to usr/lib \(base.image\)"):
        based(world, under.path, digest, **clear)


@pytest.mark.needs_tool
@pytest.mark.skipif(UMOCI is None, reason="umoci is not installed (Debian package umoci)")
@pytest.mark.skipif(os.geteuid() != 0, reason="umoci makes devices only as root")
def test_an_image_on_one_that_umoci_made_unpacks_there_as_here(world: World, tmp_path: Path) -> None:
    def umoci(*arguments: str) -> None:
        subprocess.run([str(UMOCI), *arguments], check=True, capture_output=True, cwd=tmp_path)

    umoci("init", "--layout", "under")
    umoci("new", "--image", "under:made")
    umoci("unpack", "--image", "under:made", "bundle")
    root = tmp_path / "bundle" / "rootfs"
    for path, content in {"usr/lib/a": "a", "usr/lib/b": "b", "old/one": "1", "old/deep/two": "2", "f": "f"}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    (root / "lib").symlink_to("usr/lib")
    os.link(root / "usr/lib/a", root / "usr/lib/hard")
    umoci("repack", "--refresh-bundle", "--image", "under:made", "bundle")
    shutil.rmtree(root / "old")
    (root / "f").unlink()
    (root / "f").mkdir()
    (root / "f" / "inner").write_text("now a directory")
    (root / "usr/lib/b").unlink()
    umoci("repack", "--image", "under:made", "bundle")
    digest = json.loads((tmp_path / "under/index.json").read_bytes())["manifests"][0]["digest"]
    image = based(world, tmp_path / "under", digest)
    umoci("unpack", "--image", f"{world.store.layout}:{image.ref.repository}:{image.ref.tags[0]}", "out")
    assert told(materialise(image.ref.digest, store=world.store)) == told(tmp_path / "out" / "rootfs")


@pytest.mark.needs_tool
@pytest.mark.skipif(SKOPEO is None, reason="skopeo is not installed (Debian package skopeo)")
@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
def test_skopeo_reads_and_converts_an_image_on_a_foreign_base(world: World, tmp_path: Path, docker: bool) -> None:
    from vllm_ci.images.export import Output

    under = Layout(path=tmp_path / "under")
    image = based(world, under.path, under.image([tar(FIRST), tar(SECOND)], docker=docker))
    exported = Output.parse(f"oci:{tmp_path / 'out'}").export(image, store=world.store)
    for target in (f"oci:{tmp_path / 'copy'}:x", f"docker-archive:{tmp_path / 'archive'}:x:y", f"dir:{tmp_path / 'dir'}"):
        form = ["--format", "v2s2"] if target.startswith("dir") else []
        source = f"oci:{exported.layout}:{image.ref.tags[0]}"
        done = subprocess.run(
            [str(SKOPEO), "--insecure-policy", "copy", *form, source, target], check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
