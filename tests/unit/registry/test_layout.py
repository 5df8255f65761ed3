from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from registries.images import add_image, layer_of, small_image
from vllm_ci.domain.errors import RegistryError
from vllm_ci.images import export
from vllm_ci.images.store import Store
from vllm_ci.registry.errors import DigestError, NotFoundError
from vllm_ci.registry.layout import REF_NAME, Layout
from vllm_ci.registry.manifest import Descriptor, Manifest, digest_of
from vllm_ci.registry.transfer import copy, pull, push


def test_tags_move(tmp_path: Path) -> None:
    layout, one = small_image(tmp_path, seed=1)
    _, two = small_image(tmp_path, seed=2)
    layout.put_manifest(one, tag="current")
    layout.put_manifest(two, tag="current")
    layout.put_manifest(one, tag="first")
    assert layout.tags() == ("current", "first")
    assert layout.resolve("current") == two.digest
    layout.put_manifest(one, tag="current")
    assert layout.resolve("current") == one.digest
    assert layout.manifest(two.digest).content == two.content


def test_the_folder_is_a_layout_by_the_specification(tmp_path: Path) -> None:
    layout, image = small_image(tmp_path)
    layout.put_manifest(image, tag="one")
    assert json.loads((tmp_path / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    [entry] = json.loads((tmp_path / "index.json").read_text())["manifests"]
    assert entry["digest"] == image.digest
    assert entry["size"] == len(image.content)
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": "one"}


def test_wrong_bytes_are_not_kept_and_altered_ones_are_found(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    blob = Descriptor(media_type="text/plain", digest=digest_of(b"right"), size=5)
    with pytest.raises(DigestError):
        layout.put_blob(blob, lambda _: [b"wrong"])
    assert not layout.has_blob(blob.digest)
    assert layout.put_blob(blob, lambda _: [b"ri", b"ght"])
    assert not layout.put_blob(blob, lambda _: [b"never read"])
    file = layout.find(blob.digest)
    assert file
    file.write_bytes(b"wrong")
    with pytest.raises(DigestError, match="altered"):
        layout.blob(blob.digest)


def test_deleting_an_image_keeps_what_others_use(tmp_path: Path) -> None:
    layout, one = small_image(tmp_path, seed=1)
    _, two = small_image(tmp_path, seed=2)
    layout.delete(one.digest)
    assert [layout.has_blob(blob.digest) for blob in one.blobs] == [False, True, False]
    assert all(layout.has_blob(blob.digest) for blob in two.blobs)
    with pytest.raises(NotFoundError):
        layout.manifest(one.digest)


def test_writers_at_once_lose_no_tag(tmp_path: Path) -> None:
    layout, image = small_image(tmp_path)

    def write(number: int) -> None:
        Layout(tmp_path).put_manifest(image, tag=f"tag-{number}")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(layout.tags()) == 16


def test_an_image_goes_from_folder_to_folder_by_the_same_call(tmp_path: Path) -> None:
    layout, image = small_image(tmp_path / "from")
    result = push(layout, image.digest, f"oci:{tmp_path / 'to'}", ["one"])
    assert result.pushed_blobs == 3
    assert push(layout, image.digest, f"oci:{tmp_path / 'to'}", ["one"]).pushed_bytes == 0
    assert pull(f"oci:{tmp_path / 'to'}", "one", tmp_path / "back").digest == image.digest


def test_a_blob_that_is_nowhere_is_named(tmp_path: Path) -> None:
    layout, image = small_image(tmp_path / "from")
    file = layout.find(image.blobs[1].digest)
    assert file
    file.unlink()
    with pytest.raises(NotFoundError, match=image.blobs[1].digest):
        copy((layout,), image.digest, Layout(tmp_path / "to"))
    assert Layout(tmp_path / "to").resolve(image.digest) is None


def test_the_same_layer_twice_is_one_blob(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layer = layer_of({"a": b"b"})
    assert len(add_image(layout, layer, layer).blobs) == 2


@pytest.mark.parametrize("content", [b"no json", b"[]", b'{"schemaVersion": 1}', b'{"mediaType": "text/plain"}'])
def test_what_is_no_manifest_is_refused(content: bytes) -> None:
    with pytest.raises(RegistryError):
        Manifest.parse(content)


def test_the_builder_s_cache_and_an_export_are_layouts_of_the_same_kind(tmp_path: Path) -> None:
    """What one part writes the other reads: one class knows `index.json`, `oci-layout` and the blobs."""
    store = Store(tmp_path / "home")
    layout, image = small_image(tmp_path / "made")
    copy((layout,), image.digest, store.images)
    store.tag({"mediaType": image.media_type, "digest": image.digest, "size": len(image.content)}, ("small:one",))
    assert [each["annotations"] for each in store.index() if "annotations" in each] == [{REF_NAME: "small:one"}]
    export.folder(store, image.digest, tmp_path / "out", ("one",))
    assert Layout(tmp_path / "out").resolve("one") == image.digest
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["blobs", "index.json", "oci-layout"]
    assert [each.digest for each in Layout(store.layout).entries()].count(image.digest) == 2


def test_what_else_an_index_says_stays(tmp_path: Path) -> None:
    layout, image = small_image(tmp_path)
    layout.put_manifest(image, tag="one")
    index = tmp_path / "index.json"
    index.write_text(json.dumps({**json.loads(index.read_bytes()), "annotations": {"by": "another tool"}}))
    layout.put_manifest(image, tag="two")
    assert json.loads(index.read_bytes())["annotations"] == {"by": "another tool"}
    assert layout.tags() == ("one", "two")
