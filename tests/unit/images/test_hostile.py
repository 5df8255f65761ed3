"""Layers made to get out of the tree: nothing is written, read or linked outside it.

The long run: ``VLLM_CI_FUZZ=20000 ci/test tests/unit/images/test_hostile.py -n 0 -s`` (number of images; 10 ms each).
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagery.changesets import hostile
from imagery.layers import Item, Layout, file, folder, hard, link, packed, tar
from imagery.trees import told
from vllm_ci.domain.errors import BuildError
from vllm_ci.engines.rootfs import inside
from vllm_ci.images import members, within
from vllm_ci.images.store import Store
from vllm_ci.images.tree import materialise

EXAMPLES = int(os.environ.get("VLLM_CI_FUZZ", "40"))
# The strategy names paths before the directory is made, so it has a fixed name.
LURE = "lure"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory of this machine that no image may touch."""
    place = tmp_path / LURE
    (place / "d").mkdir(parents=True)
    (place / "secret").write_bytes(b"secret")
    (place / "d" / "secret").write_bytes(b"secret")
    return place


def state(place: Path) -> object:
    return told(place), sorted((path.name, path.stat().st_nlink, path.stat().st_mode) for path in place.rglob("*"))


def unpacked(tars: list[bytes], home: Path) -> Path | None:
    store = Store(home)
    digest = Layout(path=store.layout).image(tars)
    try:
        return materialise(digest, store=store)
    except BuildError as error:
        refused = error
    assert refused.remedy
    assert not [path for path in store.trees.iterdir() if path.name.startswith((".part", "image"))]
    return None


def check_closed(tree: Path) -> int:
    """Nothing in the tree is a device, runs as another user, or leads out; how many paths there are."""
    root = os.path.realpath(tree)
    count = 0
    for above, folders, files in os.walk(tree):
        for name in (*folders, *files):
            path = os.path.join(above, name)  # noqa: PTH118
            count += 1
            mode = os.lstat(path).st_mode
            assert stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)
            assert not mode & (stat.S_ISUID | stat.S_ISGID)
            end = os.path.realpath(path)
            assert end == root or end.startswith(f"{root}/"), (path, os.readlink(path))  # noqa: PTH115
            shown = inside(tree, "/" + os.path.relpath(path, tree))
            assert not shown.startswith("/") or os.path.realpath(shown) == shown or not shown.startswith(root)
    return count


@pytest.mark.slow
def test_generated_hostile_layers_reach_nothing_outside_the_tree(outside: Path) -> None:
    before = state(outside)
    seen = {"images": 0, "refused": 0, "paths": 0}

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(hostile(str(outside)))
    def check(layers: list[list[Item]]) -> None:
        with tempfile.TemporaryDirectory() as place:
            tree = unpacked([tar(layer) for layer in layers], Path(place) / "home")
            seen["images"] += 1
            seen["refused"] += tree is None
            if tree is not None:
                seen["paths"] += check_closed(tree)
        assert state(outside) == before

    check()
    sys.stdout.write(f"unpacked: {seen}\n")
    assert seen["images"] - seen["refused"] > EXAMPLES // 10, seen


@settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.data(), st.sampled_from(["", "gzip", "zstd"]))
def test_damaged_tars_are_refused_or_read_and_never_a_fault(data: st.DataObject, compression: str) -> None:
    whole = tar([folder("a"), file("a/x", b"content" * 100), link("l", "a/x"), hard("h", "a/x"), file("é" * 80, b"pax")])
    content = bytearray(packed(whole, compression))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / ("0" * 64)
        path.write_bytes(content)
        with contextlib.suppress(BuildError):
            members.read(path)


def test_a_link_to_a_directory_of_the_host_is_not_written_through(tmp_path: Path, outside: Path) -> None:
    before = state(outside)
    layers = [
        [link("esc", str(outside)), file("esc/evil")],
        [file("esc/d/evil"), hard("stolen", "esc/evil")],
        [folder("esc"), file("esc/again")],
    ]
    tree = unpacked([tar(layer) for layer in layers], tmp_path / "home")
    assert tree is not None
    assert state(outside) == before
    assert told(tree)["esc/again"]
    assert (tree / str(outside).lstrip("/") / "evil").is_file()
    check_closed(tree)


@pytest.mark.parametrize("target", ["{outside}/secret", "../../../../../../../..{outside}/secret", "esc/secret"])
def test_a_hard_link_takes_no_file_of_the_host(tmp_path: Path, outside: Path, target: str) -> None:
    layer = [link("esc", str(outside)), hard("stolen", target.format(outside=outside))]
    assert unpacked([tar(layer)], tmp_path / "home") is None
    assert (outside / "secret").stat().st_nlink == 1


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/../evil", ".wh...", "a/.wh..", ".wh.", ".wh.a/b", "n" * 256])
def test_names_that_no_tool_should_place_are_refused(tmp_path: Path, name: str) -> None:
    assert unpacked([tar([folder("a"), file("a/b")]), tar([file(name)])], tmp_path / "home") is None
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("item", [link(".", "/etc"), link("/", "a"), hard("./", "a/b"), file("."), Item(name=".", kind="pipe")])
def test_what_would_replace_the_root_is_refused(tmp_path: Path, item: Item) -> None:
    assert unpacked([tar([folder("a"), file("a/b"), item])], tmp_path / "home") is None


def test_devices_pipes_and_set_user_id_bits_are_left_out_and_odd_names_are_kept(tmp_path: Path) -> None:
    layer = [
        Item(name="null", kind="device"),
        Item(name="pipe", kind="pipe"),
        file("su", b"x", 0o6755),
        file("new\nline"),
        file("back\\slash"),
        file("\udcff\udcfe"),
        file(" "),
    ]
    tree = unpacked([tar(layer)], tmp_path / "home")
    assert tree is not None
    assert set(told(tree)) == {"su", "new\nline", "back\\slash", "\udcff\udcfe", " "}
    assert stat.S_IMODE((tree / "su").stat().st_mode) == 0o555


def test_a_tar_that_ends_in_the_middle_or_is_none_from_there_is_refused(tmp_path: Path) -> None:
    whole = tar([file("a"), file("b")])
    for content in (whole[:700], whole[:1024] + b"garbage!" * 64 + whole[1024:]):
        assert unpacked([content], tmp_path / str(len(content))) is None


def test_a_layer_that_is_not_the_one_of_the_configuration_is_refused(tmp_path: Path) -> None:
    import json

    store = Store(tmp_path / "home")
    layout = Layout(path=store.layout)
    digest = layout.image([tar([file("a")])])
    manifest = json.loads(store.read(digest))
    manifest["layers"] = [layout.put(tar([file("other")]), manifest["layers"][0]["mediaType"])]
    changed = layout.put(json.dumps(manifest).encode(), manifest["mediaType"])
    with pytest.raises(BuildError, match="not the one that the image's configuration names"):
        materialise(changed["digest"], store=store)


@pytest.mark.parametrize("way", [within.open_directory, within.walk])
def test_directories_are_opened_below_the_top_and_never_through_a_link(tmp_path: Path, outside: Path, way: object) -> None:
    opened = way
    assert callable(opened)
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "esc").symlink_to(outside)
    (root / "in").symlink_to("a")
    (root / "file").touch()
    top = os.open(root, os.O_RDONLY)
    try:
        for path in ("", "a", "a/b", "a//b/", "./a"):
            handle = opened(top, path)
            assert os.fstat(handle).st_ino == (root / path).stat().st_ino
            os.close(handle)
        for path in ("esc", "esc/d", "in", "in/b", "..", "../lure", "missing", "file"):
            with pytest.raises(OSError):  # noqa: PT011 - the number differs between kernels
                opened(top, path)
    finally:
        os.close(top)
