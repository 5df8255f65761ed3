"""Only the entry changes: everything else of a user's file survives byte for byte."""

from __future__ import annotations

import difflib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from generated import examples
from vllm_ci.domain.errors import ConfigError
from vllm_ci.release.kustomization import read, set_image

DIGEST = "sha256:" + "0123456789abcdef" * 4
FIELDS = {"newName": "r.example.com/team/vllm", "newTag": "1" * 40 + "-cpu", "digest": DIGEST}

# Odd but valid files.
FILES = {
    "minimal": "images:\n- name: vllm\n",
    "full": """\
# what we deploy
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization   # do not touch
namespace: "serving"

resources:
    - deployment.yaml
    - ../base    # shared

images:
    # the sidecar
    - name: proxy
      newTag: 'v1.2'

    - name: vllm      # ours
      # pinned by the release manager
      newName: old.example.com/vllm  # mirror
      newTag: "v0.31.0"
      digest: sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
    - {name: tools, newTag: v3}
# patches come last
patches:
  - path: x.yaml
""",
    "name last": "images:\n  - newTag: v1\n    newName: x\n    name: vllm\nresources: [a.yaml]\n",
    "other order": "images:\n- digest: sha256:ab\n  name: vllm   # c\n",
    "single quotes": "images:\n- name: 'vllm'\n  newTag: 'v1'\n  newName: 'a/b'\n",
    "flow entry": "images:\n- {name: vllm, newTag: v1}   # short\nkind: Kustomization\n",
    "flow list": "images: [{name: proxy, newTag: v1}, {name: vllm}]\nkind: Kustomization\n",
    "json": '{"kind": "Kustomization", "images": [{"name": "vllm", "newTag": "v1"}], "resources": ["d.yaml"]}\n',
    "json without images": '{"kind": "Kustomization", "resources": ["d.yaml"]}',
    "no images": "kind: Kustomization\nresources:\n- d.yaml",
    "no images, block at the end": "kind: Kustomization\nconfigMapGenerator:\n- name: c\n  literals:\n  - |+\n    a\n    b\n\n",
    "no images, comments at the end": "kind: Kustomization\nresources:\n- d.yaml # d\n# the end\n",
    "empty list": "kind: Kustomization\nimages: []\nresources: [d.yaml]\n",
    "empty value": "kind: Kustomization\nimages:\nresources: [d.yaml]\n",
    "null": "kind: Kustomization\nimages: ~\nresources: [d.yaml]\n",
    "others only": "kind: Kustomization\nimages:\n  - name: proxy\n    newTag: v1 # p\n\n  # end\nresources: [d.yaml]\n",
    "others only, not indented": "images:\n- name: proxy\n  newTag: v1",
    "empty fields": "images:\n- name: vllm\n  newTag:\n  digest:   # none yet\nkind: Kustomization\n",
    "windows": "kind: Kustomization\r\nimages:\r\n- name: vllm\r\n  newTag: v1\r\nresources: []\r\n",
    "windows, no images": "kind: Kustomization\r\nresources: []\r\n",
    "no line break at the end": "images:\n- name: vllm\n  newTag: v1",
    "document markers": "%YAML 1.1\n---\nimages:\n- name: vllm\n  newTag: v1\n...\n",
    "umlauts and emoji": "# für alle 🚀\nimages:\n- name: vllm # größer\n  newTag: v1 # ü\nnamePrefix: ä-\n",
    "byte order mark": "\ufeffimages:\n- name: vllm\n  newTag: v1\n",
    "quoted keys": '"images":\n- "name": "vllm"\n  "newTag": "v1"\n',
    "anchors elsewhere": "commonLabels: &l\n  app: x\nimages:\n- name: vllm\n  newTag: v1\nlabels:\n- pairs: *l\n",
    "nested dash": "images:\n-\n    name: vllm\n    newTag: v1\n",
    "tabs behind values": "images:\n- name: vllm\t# t\n  newTag: v1\t\n",
    "same name elsewhere": "patches:\n- target: {name: vllm}\nimages:\n- name: vllm\nreplicas:\n- name: vllm\n  count: 2\n",
    "numbers for tags": "images:\n- name: vllm\n  newTag: 1.10\n- name: proxy\n  newTag: 007\n",
    "long lines": "images:\n- name: vllm\n  newTag: v1\ncommonAnnotations:\n  a: " + "x" * 5000 + "\n",
}


def parsed(text: str) -> dict[str, Any]:
    """A document, all scalars as text. (The parser does not take tabs before comments.)"""
    value: dict[str, Any] = yaml.load(text.replace("\t", " "), Loader=yaml.BaseLoader)
    return value


def images_of(document: dict[str, Any]) -> dict[str, Any]:
    found = document.get("images")
    return {each["name"]: each for each in found} if isinstance(found, list) else {}


def changed_lines(before: str, after: str) -> list[str]:
    """Lines that were taken away or changed (not those that were added)."""
    rows = difflib.ndiff(before.splitlines(keepends=True), after.splitlines(keepends=True))
    return [row[2:] for row in rows if row.startswith("- ")]


@pytest.mark.parametrize("name", FILES)
def test_the_entry_says_what_it_should_and_nothing_else_changes(name: str) -> None:
    before = FILES[name]
    after = set_image(before, "vllm", FIELDS)
    assert read(after, "vllm") == FIELDS
    old, new = parsed(before), parsed(after)
    others, kept = images_of(old), images_of(new)
    others.pop("vllm", None)
    kept.pop("vllm")
    assert kept == others
    assert {**new, "images": []} == {**old, "images": []}
    assert set_image(after, "vllm", FIELDS) == after, "a second time changes nothing"
    comments = [line.partition("#")[2] for line in before.splitlines() if "#" in line]
    assert [line.partition("#")[2] for line in after.splitlines() if "#" in line] == comments
    assert after.count("\r\n") in (0, after.count("\n"))
    # Whatever line was changed held one of the fields, or the list itself on one line.
    for line in changed_lines(before, after):
        assert any(word in line for word in ("newName", "newTag", "digest", "images", "name", "- d.yaml", "{")), line


def test_only_the_values_are_touched_in_the_full_example() -> None:
    after = set_image(FILES["full"], "vllm", FIELDS)
    expected = (
        FILES["full"]
        .replace("old.example.com/vllm", FIELDS["newName"])
        .replace('"v0.31.0"', f'"{FIELDS["newTag"]}"')
        .replace("sha256:" + "a" * 64, DIGEST)
    )
    assert after == expected


def test_going_back_gives_the_same_bytes_again() -> None:
    first = set_image(FILES["full"], "vllm", FIELDS)
    second = set_image(first, "vllm", {**FIELDS, "newTag": "v2"})
    assert set_image(second, "vllm", FIELDS) == first


def test_a_file_that_is_not_there_is_made() -> None:
    text = set_image("", "vllm", FIELDS)
    assert yaml.safe_load(text)["kind"] == "Kustomization"
    assert read(text, "vllm") == FIELDS


@pytest.mark.parametrize(
    "text",
    [
        "images:\n- name: vllm\n  newTag: &t v1\n- name: b\n  newTag: *t\n",
        "x: &t v1\nimages:\n- name: vllm\n  newTag: *t\n",
        "x: &d {newTag: v1}\nimages:\n- name: vllm\n  <<: *d\n",
        "images:\n- name: vllm\n- name: vllm\n",
        "images:\n- name: vllm\n  newTag: |\n    v1\n",
        "images:\n- name: vllm\n  newTag: [v1]\n",
        "images:\n- name: vllm\n  newTag: !!str v1\n",
        "images: {name: vllm}\n",
        "images: text\n",
        "images:\n- name: vllm\n  tagSuffix: -x\n  newTag: v1\n",
        "- a\n",
        "a: 1\n---\nb: 2\n",
        "a: [\n",
        "images:\n- ? name\n  : vllm\n",
    ],
)
def test_what_cannot_be_rewritten_safely_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        set_image(text, "vllm", FIELDS)


# Pieces of files as people and tools write them, put together in any order: most are no kustomization, some are odd ones.
PIECES = [
    "images:\n", "images: []\n", "images: ~\n", "images: &i\n", "- name: vllm\n", "  - name: vllm\n",
    "- {name: vllm, newTag: v1}\n", "- name: proxy\n  newTag: v2\n", "  newTag: v1\n", "    newTag: 'v1'\n",
    '  newName: "a/b" # mirror\n', "  digest: sha256:ab\n", "  newTag:\n", "  newTag: |\n    v1\n",
    "  tagSuffix: -x\n", "# a comment\n", "\n", "  # indented\n", "kind: Kustomization\n", "resources: [a.yaml]\n",
    "resources:\n- a.yaml\n", "labels:\n- pairs: *i\n", "---\n", "...\n", "%YAML 1.1\n", "\t", "\r\n", "\ufeff", "?",
    ": ", "- ", "{", "}", "[", "]", "'", '"', "&a ", "*a ", "!!str ", "<<: ", "\u2028", "\u0085", "ü", "🚀", "\u0000",
    "x: |+\n  b\n\n", "images: [{name: vllm}]\n", '{"images": [{"name": "vllm"}]}', "newTag: 007\n",
    "- name: vllm#x\n", "- 'name': vllm\n",
]  # fmt: skip


@pytest.mark.slow
def test_any_text_is_rewritten_in_one_entry_or_refused() -> None:
    outcomes: list[bool] = []

    @settings(max_examples=examples(3000), deadline=None)
    @given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.booleans())
    def examine(text: str, windows: bool) -> None:
        outcomes.append(is_rewritten(text.replace("\n", "\r\n") if windows else text))

    examine()
    assert outcomes.count(True) > 20
    assert outcomes.count(False) > 20


def is_rewritten(before: str) -> bool:
    """Whether it was, and only in the entry; else it was refused."""
    try:
        after = set_image(before, "vllm", FIELDS)
    except ConfigError:
        return False
    assert read(after, "vllm") == FIELDS
    assert set_image(after, "vllm", FIELDS) == after
    words = ("newName", "newTag", "digest", "images", "name")
    kept = [line for line in before.splitlines() if line.strip() and not any(word in line for word in words)]
    lines = iter(after.splitlines())
    assert all(any(line == each or line.startswith(each) for line in lines) for each in kept), (
        "other lines stay, in their order"
    )
    return True


@pytest.mark.parametrize("tag", ["0" * 40, "1e5", "true", "0x10", "1_000", "12:30", "v1", "null", "2026-11-20"])
def test_tags_that_look_like_something_else_stay_text(tag: str) -> None:
    for before in (FILES["minimal"], FILES["single quotes"], FILES["flow entry"], FILES["json"]):
        text = set_image(before, "vllm", {"newTag": tag})
        [entry] = yaml.safe_load(text)["images"]
        assert entry["newTag"] == tag


@pytest.mark.needs_tool
@pytest.mark.parametrize("name", [name for name in FILES if name != "byte order mark"])
def test_kustomize_would_have_set_the_same(name: str, tmp_path: Path) -> None:
    if shutil.which("kustomize") is None:
        pytest.skip("kustomize is not on PATH (go install sigs.k8s.io/kustomize/kustomize/v5@v5.7.1)")
    file = tmp_path / "kustomization.yaml"
    file.write_bytes(FILES[name].encode())
    image = f"vllm={FIELDS['newName']}:{FIELDS['newTag']}@{DIGEST}"
    done = subprocess.run(
        ["kustomize", "edit", "set", "image", image], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"kustomize itself cannot edit this file: {done.stderr.strip()[:100]}")
    ours = set_image(FILES[name], "vllm", FIELDS)
    assert images_of(parsed(ours))["vllm"] == images_of(parsed(file.read_text()))["vllm"]


@pytest.mark.needs_tool
def test_kubectl_renders_what_we_wrote(tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on PATH")
    (tmp_path / "d.yaml").write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers: [{name: c, image: vllm}]\n"
    )
    text = set_image("kind: Kustomization\nresources:\n- d.yaml # d\n", "vllm", FIELDS)
    (tmp_path / "kustomization.yaml").write_text(text)
    done = subprocess.run(["kubectl", "kustomize", str(tmp_path)], capture_output=True, text=True, check=True)
    assert f"image: {FIELDS['newName']}:{FIELDS['newTag']}@{DIGEST}" in done.stdout
