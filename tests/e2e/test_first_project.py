"""README, "Your own project", followed to the letter: the wheel in a new environment, a file of one line, a commit, a run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.conftest import ROOT, git
from standin.starved import skip_if_starved
from vllm_ci.images import uv
from vllm_ci.images.index import configured

pytestmark = [pytest.mark.e2e, pytest.mark.needs_index, pytest.mark.timeout(2400)]


def bare(home: Path) -> dict[str, str]:
    """A new user's environment: another home; the index of the machine, and what was downloaded before, to save time."""
    indexes = configured()
    kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.lower().endswith("_proxy")}
    cache = os.environ.get("VLLM_CI_HOME") or str(Path.home() / ".cache" / "vllm-ci")
    certificates = {"SSL_CERT_FILE": indexes.certificates} if indexes.certificates else {}
    own = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", "VLLM_CI_HOME": cache}
    return {**kept, **certificates, **own, "UV_DEFAULT_INDEX": indexes.urls[0], "UV_PYTHON_DOWNLOADS": "never"}


def run(command: list[str], folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=2000, check=False)


@pytest.fixture
def command(tmp_path: Path) -> str:
    """`pip install` of the wheel, with the newest dependencies."""
    (tmp_path / "home").mkdir()
    env = bare(tmp_path / "home")
    for step in (
        ["build", "--wheel", "--out-dir", str(tmp_path / "dist"), str(ROOT)],
        ["venv", "--no-project", "--python", sys.executable, str(tmp_path / "env")],
        ["pip", "install", "--python", str(tmp_path / "env/bin/python")],
    ):
        wheels = [str(path) for path in (tmp_path / "dist").glob("*.whl")] if step[0] == "pip" else []
        done = run([uv.program(), *step, *wheels, "--quiet"], tmp_path, env)
        assert done.returncode == 0, done.stderr
    return str(tmp_path / "env" / "bin" / "vllm-ci")


def test_the_first_project_of_a_new_user_passes(command: str, tmp_path: Path, spec: str) -> None:
    readme = (ROOT / "README.md").read_text()
    assert re.search(r"`version: 1` is enough", readme)
    folder = tmp_path / "project"
    folder.mkdir()
    # One line; a second one only where mirrors have dropped a package of the shipped lock.
    (folder / "vllm-ci.yaml").write_text("version: 1\n" + ("" if spec == "cpu" else f"image: {{spec: {spec}}}\n"))
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "first")

    # The quick start is tested at full size elsewhere; here, the way to it is.
    done = run([command, "run", "--budget", "10", "--json"], folder, bare(tmp_path / "home"))

    skip_if_starved(done.returncode, done.stdout)
    assert done.returncode == 0, done.stderr[-6000:]
    result = json.loads(done.stdout)
    assert result["verdict"] == "passed"
    assert [stage["name"] for stage in result["stages"]] == ["unit", "integration", "streaming", "security"]
    assert "settings" in done.stderr
    assert "VLLM_CPU_KVCACHE_SPACE=1" in done.stderr
    shown = run([command, "show"], folder, bare(tmp_path / "home"))
    assert "passed" in shown.stderr
    assert (Path(result["report_dir"]) / "report.html").is_file()


def test_the_users_tests_see_the_packages_of_the_image(project: Path) -> None:
    """The image's own packaging and pygments, not those that pytest runs with; nothing of pytest where the image has none."""
    (project / "tests" / "test_seen.py").write_text(
        "import importlib, importlib.metadata as metadata, subprocess, sys\n"
        "import pytest\n\n"
        "def site():\n"
        "    import vllm\n"
        "    return vllm.__file__.rpartition('/vllm/')[0]\n\n"
        "def test_packages_are_those_of_the_image():\n"
        "    import packaging\n"
        "    assert packaging.__file__.startswith(site())\n"
        "    assert metadata.version('packaging') == packaging.__version__\n\n"
        "def test_every_distribution_lies_in_the_image():\n"
        "    names = [each.metadata['Name'] for each in metadata.distributions()]\n"
        "    assert len(names) == len(set(names)) > 50\n"
        "    assert all(str(each.locate_file('')).startswith(site()) for each in metadata.distributions())\n\n"
        "@pytest.mark.parametrize('name', ['pytest', 'pluggy', 'iniconfig'])\n"
        "def test_what_the_image_lacks_is_lacking(name):\n"
        "    code = 'import ' + name\n"
        "    assert subprocess.run([sys.executable, '-c', code], capture_output=True).returncode == 1\n"
        "    with pytest.raises(metadata.PackageNotFoundError):\n"
        "        metadata.version(name)\n"
    )
    git(project, "add", ".")
    git(project, "commit", "--quiet", "--message", "look")
    done = run([sys.executable, "-m", "vllm_ci", "run", "--stage", "unit", "--json"], project, {**os.environ})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-4000:]
    (stage,) = json.loads(done.stdout)["stages"]
    assert stage["cases"]["passed"] >= 12 + 8 + 5
