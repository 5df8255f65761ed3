"""The cases that look into an image, against small trees that stand for images: one that is right, and wrong ones."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from vllm_ci.stages.mounts import gather

pytestmark = pytest.mark.slow

PACKAGES = "opt/env/lib/python3/site-packages"
COMMIT = "a" * 40


@dataclass
class Image:
    """A tree, what its builder says of it, and its configuration."""

    root: Path
    config: dict[str, Any]
    manifest: dict[str, dict[str, str]] = field(default_factory=dict)

    def put(self, path: str, text: str, owner: str = "vllm") -> None:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(0o644)
        self.manifest.setdefault(owner, {})[f"/{path}"] = hashlib.sha256(text.encode()).hexdigest()


def image(root: Path) -> Image:
    labels = {
        "org.opencontainers.image.revision": COMMIT,
        "ai.vllm.build.vllm-version": "0.32.0",
        "org.opencontainers.image.version": "0.32.0",
    }
    made = Image(root=root, config={"config": {"Env": ["PATH=/usr/bin"], "Labels": labels, "User": "2000:0"}, "history": []})
    made.put(f"{PACKAGES}/vllm/__init__.py", "__version__ = '0.32.0'\nclass LLM: pass\nclass SamplingParams: pass\n")
    made.put(f"{PACKAGES}/vllm-0.32.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0\n")
    made.put(f"{PACKAGES}/vllm-0.32.0.dist-info/top_level.txt", "vllm\n")
    made.put(f"{PACKAGES}/vllm-0.32.0.dist-info/RECORD", "vllm/__init__.py,,\n")
    made.put("opt/serving/post.py", "def clean(text): return text\n", owner="commit")
    made.put("etc/passwd", "vllm:x:2000:0::/home/vllm:/usr/sbin/nologin\n", owner="settings")
    return made


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gather(tmp_path_factory.mktemp("tools"))


def judged(made: Image, tools: Path, folder: Path) -> dict[str, str]:
    """Status of every case, run by an interpreter that has nothing but the standard library."""
    (folder / "manifest.json").write_text(json.dumps(made.manifest))
    (folder / "config.json").write_text(json.dumps(made.config))
    ended = subprocess.run(
        [
            *(sys.executable, "-S", str(tools / "start.py"), "-p", "vllm_ci.suites.inside", "-p", "no:cacheprovider"),
            "--import-mode=importlib",
            *("--pyargs", "vllm_ci.suites.unit", "-c", "/dev/null", "--rootdir", str(folder), "--vllm-report", str(folder)),
            *(
                f"--vllm-manifest={folder}/manifest.json",
                f"--vllm-image-config={folder}/config.json",
                f"--vllm-commit={COMMIT}",
            ),
        ],
        env={"PYTHONPATH": str(made.root / PACKAGES), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=folder,  # pytest loads the conftest files of its working directory
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (folder / "cases.json").exists(), ended.stdout + ended.stderr
    document = json.loads((folder / "cases.json").read_text())
    return {case["name"].partition("::test_")[2]: case["status"] for case in document["cases"]}


def test_an_image_that_is_right_passes(tmp_path: Path, tools: Path) -> None:
    found = judged(image(tmp_path / "root"), tools, tmp_path)
    wrong = {name: status for name, status in found.items() if status not in ("passed", "skipped")}
    assert not wrong
    assert list(found.values()).count("passed") >= 11


def changed(made: Image) -> None:
    (made.root / PACKAGES / "vllm/__init__.py").write_text(
        "__version__ = '0.32.0'\nclass LLM: pass\nclass SamplingParams: ...\n"
    )


def missing(made: Image) -> None:
    (made.root / "opt/serving/post.py").unlink()


def added(made: Image) -> None:
    (made.root / PACKAGES / "sitecustomize.py").write_text("")


def writable(made: Image) -> None:
    (made.root / "opt/serving/post.py").chmod(0o666)


def folder_writable(made: Image) -> None:
    (made.root / "opt/serving").chmod(0o777)


def group_writable(made: Image) -> None:
    (made.root / PACKAGES / "vllm/__init__.py").chmod(0o664)


def cannot_be_imported(made: Image) -> None:
    made.put(f"{PACKAGES}/vllm/__init__.py", "import no_such_library\n")


def crashes_on_import(made: Image) -> None:
    made.put(f"{PACKAGES}/vllm/__init__.py", "import os\nos.kill(os.getpid(), 11)\n")


def another_version(made: Image) -> None:
    path = f"{PACKAGES}/vllm-0.32.0.dist-info/METADATA"
    made.put(path, "Metadata-Version: 2.1\nName: vllm\nVersion: 0.31.0\n")


def wrong_label(made: Image) -> None:
    made.config["config"]["Labels"].update(
        {"ai.vllm.build.vllm-version": "0.33.0", "org.opencontainers.image.version": "0.33.0"}
    )


def another_commit(made: Image) -> None:
    made.config["config"]["Labels"]["org.opencontainers.image.revision"] = "b" * 40


def secret_in_env(made: Image) -> None:
    made.config["config"]["Env"].append("HF_TOKEN=hf_" + "x" * 34)


def secret_in_history(made: Image) -> None:
    made.config["history"].append({"created_by": "ARG TOKEN=ghp_" + "x" * 36})


def secret_in_a_file(made: Image) -> None:
    made.put("opt/serving/settings.py", "KEY = 'hf_" + "x" * 34 + "'\n", owner="commit")


def credentials(made: Image) -> None:
    made.put("home/vllm/.netrc", "machine x login y\n", owner="commit")


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (changed, "every_file_is_the_one_that_was_locked"),
        (missing, "every_file_is_the_one_that_was_locked"),
        (added, "no_file_came_from_nowhere"),
        (writable, "nothing_is_writable_by_everybody"),
        (folder_writable, "nothing_is_writable_by_everybody"),
        (group_writable, "code_is_not_writable_by_its_group"),
        (cannot_be_imported, "vllm_can_be_imported"),
        (crashes_on_import, "vllm_can_be_imported"),
        (another_version, "every_distribution_has_the_version_of_its_locked_wheel"),
        (wrong_label, "the_label_names_the_version_of_vllm_that_is_installed"),
        (another_commit, "the_label_names_the_commit_that_is_tested"),
        (secret_in_env, "the_environment_sets_no_secret"),
        (secret_in_history, "the_history_shows_no_secret"),
        (secret_in_a_file, "the_files_of_the_commit_hold_no_secret"),
        (credentials, "no_file_is_one_that_holds_credentials"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_is_wrong_with_an_image_is_named(tmp_path: Path, tools: Path, spoil: Callable[[Image], None], named: str) -> None:
    made = image(tmp_path / "root")
    spoil(made)
    found = judged(made, tools, tmp_path)
    assert found[named] == "failed", found
    assert list(found.values()).count("passed") >= 8


def test_what_is_mounted_brings_pytest_and_nothing_that_needs_more(tools: Path) -> None:
    brought = {folder: {path.name for path in (tools / folder).iterdir()} for folder in ("lib", "apart")}
    assert brought["lib"] == {"pytest", "_pytest", "vllm_ci"}
    assert brought["apart"] == {"pluggy", "iniconfig", "packaging", "pygments", "py.py"}
    ours = {str(path.relative_to(tools / "lib/vllm_ci")) for path in (tools / "lib/vllm_ci").rglob("*.py")}
    assert "suites/plugin.py" not in ours
    assert "suites/unit/test_files.py" in ours
