"""Paths in ``vllm-ci.yaml`` and in image specs have one form, and what cannot be one is refused with file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_ci.config import load
from vllm_ci.domain.errors import ConfigError
from vllm_ci.domain.image_spec import ImageSpec
from vllm_ci.images import spec_file

SPEC = """\
base: {suite: bookworm, packages: [python3.11]}
python: "3.11"
glibc: "2.36"
prefix: /opt/vllm
platforms: [linux/amd64, linux/arm64]
requirements: [vllm]
tiers: [{name: all, wheels: ["*"]}]
"""


def config(folder: Path, text: str) -> load.Loaded:
    (folder / "vllm-ci.yaml").write_text(f"version: 1\n{text}")
    return load.load(folder / "vllm-ci.yaml")


def image(folder: Path, text: str) -> ImageSpec:
    key = text.partition(":")[0]
    kept = "".join(f"{line}\n" for line in SPEC.splitlines() if not line.startswith(f"{key}:"))
    (folder / "mine.yaml").write_text(kept + text + "\n")
    return spec_file.load(folder / "mine.yaml")


@pytest.mark.parametrize("written", ["files", "./files", "files/", ".//files/."])
def test_overlays_are_the_same_however_they_are_written(tmp_path: Path, written: str) -> None:
    found = config(tmp_path, f"image:\n  overlays:\n    - {{from: '{written}', to: '//opt/./x', exclude: ['./a', 'b/']}}\n")
    (overlay,) = found.config.image.overlays
    assert (overlay.from_, overlay.to, overlay.exclude) == ("files", "/opt/x", ("a", "b/*"))


def test_a_slash_at_the_end_of_a_target_is_kept(tmp_path: Path) -> None:
    found = config(tmp_path, "image:\n  overlays:\n    - {from: ., to: /opt/x//}\n")
    assert (found.config.image.overlays[0].from_, found.config.image.overlays[0].to) == (".", "/opt/x/")


def test_the_other_paths_have_one_form_too(tmp_path: Path) -> None:
    found = config(
        tmp_path,
        "image: {spec: ./specs//mine.yaml, vllm: {package: ./vllm/, inputs: [csrc/, ./cmake],"
        " requirements: [./requirements//cuda.txt], compile: {dockerfile: ./docker/Dockerfile, wheels: /workspace//dist/}}}\n"
        "model: {path: ../models/./tiny/}\nreport: {directory: ./runs/}\n"
        "stages: {unit: {paths: [./tests/, 'tests//a.py::test_b'], changed: [{changed: [./vllm/], run: [./tests/]}]}}\n",
    ).config
    assert found.image.spec == "specs/mine.yaml"
    assert found.image.vllm is not None
    assert found.image.vllm.compile is not None
    assert (found.image.vllm.package, found.image.vllm.inputs) == ("vllm", ("csrc", "cmake"))
    assert (found.image.vllm.compile.dockerfile, found.image.vllm.compile.wheels) == ("docker/Dockerfile", "/workspace/dist")
    assert (found.model.path, found.report.directory) == ("../models/tiny", "runs")
    assert found.image.vllm.requirements == ("requirements/cuda.txt",)
    assert found.stages.unit.paths == ["tests", "tests/a.py::test_b"]
    assert (found.stages.unit.changed[0].changed, found.stages.unit.changed[0].run) == (["vllm/*"], ["tests"])


@pytest.mark.parametrize(
    ("text", "key", "why", "remedy"),
    [
        (
            "image:\n  overlays:\n    - to: /opt/x\n      from: /files\n",
            "5: image.overlays.0.from",
            "is absolute",
            "e.g. files",
        ),
        ("image:\n  overlays:\n    - from: ../files\n      to: /x\n", "4: image.overlays.0.from", "contains ..", "without .."),
        ("image:\n  overlays:\n    - from: files\n      to: opt/x\n", "5: image.overlays.0.to", "is relative", "/opt/opt/x"),
        (
            "image:\n  overlays:\n    - from: files\n      to: /opt/../x\n",
            "5: image.overlays.0.to",
            "contains ..",
            "without ..",
        ),
        ("image:\n  overlays:\n    - from: files\n      to: /\n", "5: image.overlays.0.to", "root directory", "/opt/serving"),
        (
            'image:\n  overlays:\n    - from: "a\\0b"\n      to: /x\n',
            "4: image.overlays.0.from",
            "control character",
            "serving",
        ),
        ("image:\n  overlays:\n    - from: a\\b\n      to: /x\n", "4: image.overlays.0.from", "backslash", "a/b"),
        ("image:\n  overlays:\n    - from: ''\n      to: /x\n", "4: image.overlays.0.from", "is empty", "serving"),
        ("image:\n  vllm:\n    requirements: [/r.txt]\n", "4: image.vllm.requirements.0", "is absolute", "e.g. r.txt"),
        ("image:\n  vllm:\n    compile:\n      wheels: dist\n", "5: image.vllm.compile.wheels", "is relative", "/opt/dist"),
        ("model:\n  path: ~/models\n", "3: model.path", "only a shell expands", "the full path"),
        ("stages:\n  unit:\n    paths: [../tests]\n", "4: stages.unit.paths.0", "contains ..", "without .."),
        ("stages:\n  unit:\n    paths: [/tests]\n", "4: stages.unit.paths.0", "is absolute", "e.g. tests"),
        ('report:\n  directory: "a\\tb"\n', "3: report.directory", "control character", "write"),
    ],
)
def test_what_cannot_be_such_a_path_is_refused_with_line_key_and_form(
    tmp_path: Path, text: str, key: str, why: str, remedy: str
) -> None:
    with pytest.raises(ConfigError, match=f"vllm-ci.yaml:{key} is not valid") as caught:
        config(tmp_path, text)
    assert why in caught.value.why
    assert remedy in caught.value.remedy


def test_paths_of_a_spec_have_one_form(tmp_path: Path) -> None:
    found = image(
        tmp_path,
        "prefix: /opt//v/\nwritable: [/home/u/]\nlinks: {/usr//bin/cc/: gcc}\nworkdir: /srv/\nuser: {home: //home/u/}\n"
        "entrypoint: [/opt//v/bin/python, -m, x//y]\nhealth: {argv: [curl, 'http://localhost/']}\n"
        "overlays: [{source: ./files/, target: /opt//x}]",
    )
    assert (found.prefix, found.writable, found.links) == ("/opt/v", ("/home/u",), {"/usr/bin/cc": "gcc"})
    assert (found.workdir, found.user.home, found.entrypoint) == ("/srv", "/home/u", ("/opt/v/bin/python", "-m", "x//y"))
    assert (found.overlays[0].source, found.overlays[0].target) == ("files", "/opt/x")


@pytest.mark.parametrize(
    ("text", "key", "why"),
    [
        ("prefix: opt/v", "7: prefix", "is relative"),
        ("prefix: /", "7: prefix", "root directory"),
        ("writable:\n  - /home/u\n  - ../x", "10: writable.1", "contains .."),
        ("links:\n  usr/bin/cc: gcc", "9: links.usr/bin/cc", "is relative"),
        ("base:\n  suite: bookworm\n  packages: []\n  links:\n    /usr/../cc: gcc", "11: base.links./usr/../cc", "contains .."),
        ("base:\n  suite: bookworm\n  packages: []\n  interpreter: python3", "10: base.interpreter", "is relative"),
        ("workdir: srv", "8: workdir", "is relative"),
        ("user: {home: 'a'}", "8: user.home", "is relative"),
        ("user: {home: '/a:b'}", "8: user.home", "contains a colon"),
        ('user: {name: "a\\nb"}', "8: user.name", "is not a user name"),
        ("entrypoint: [bin/python]", "8: entrypoint.0", "is relative"),
        ("health: {argv: [./check]}", "8: health.argv.0", "is relative"),
        ("overlays: [{source: /a, target: /b}]", "8: overlays.0.source", "is absolute"),
    ],
)
def test_a_spec_with_another_kind_of_path_is_refused_with_line_and_key(tmp_path: Path, text: str, key: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"mine.yaml:{key} is not valid") as caught:
        image(tmp_path, text)
    assert why in caught.value.why
    assert caught.value.remedy.startswith("write ")


def test_a_spec_that_is_not_there_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(SPEC)
    with pytest.raises(Exception, match="no image spec") as caught:
        spec_file.load(tmp_path / "mne.yaml")
    assert str(tmp_path / "mine.yaml") in str(caught.value)
    with pytest.raises(Exception, match="did you mean cuda"):
        spec_file.load("cudda")


def test_the_shipped_specs_are_in_their_one_form() -> None:
    for name in spec_file.shipped():
        plain = spec_file.load(name)
        assert spec_file.check(plain) == plain
