"""What users install: sdist and wheel are built with any supported Python, and the wheel alone runs a project.

Nothing here uses the environment of the checkout: a wheel gets a new one, with the newest or the lowest dependencies it allows.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

from imagery.relock import usable
from imagery.wheels import write_wheel
from imagery.world import PLATFORMS, git
from vllm_ci.images import uv
from vllm_ci.images.index import configured
from vllm_ci.images.lockfile import LockedWheel, write_wheels

ROOT = Path(__file__).parents[2]
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
VLLM = b"__version__ = '1.0'\nclass LLM: pass\nclass SamplingParams: pass\n"
TEST = (
    "import importlib.metadata\nimport vllm\n\ndef test_it():\n    assert importlib.metadata.version('vllm-small') == '1.0'\n"
)

pytestmark = [pytest.mark.needs_index, pytest.mark.slow, pytest.mark.timeout(900)]


def environment(**more: str) -> dict[str, str]:
    """The user's own index and certificates, no downloads of interpreters, and no word of this checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VLLM_CI_", "PYTHON", "VIRTUAL_ENV"))}
    homes = {name: value for name, value in os.environ.items() if name == "VLLM_CI_HOME"}
    indexes = configured()
    # uv reads nothing of pip's configuration.
    own = {"UV_DEFAULT_INDEX": indexes.urls[0], "UV_PYTHON_DOWNLOADS": "never"}
    own |= {"SSL_CERT_FILE": indexes.certificates} if indexes.certificates else {}
    return {**kept, **homes, **own, **more}


def ended(command: Sequence[str | Path], folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=environment(**more), capture_output=True, text=True, timeout=600, check=False
    )


def run(command: Sequence[str | Path], folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    done = ended(command, folder, **more)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def interpreters() -> Iterator[tuple[str, Path]]:
    """The supported interpreters that this machine has: the one that runs this, and those on the path."""
    own = "{}.{}".format(*sys.version_info)
    yield own, Path(sys.base_prefix) / "bin" / f"python{own}"
    for version in VERSIONS:
        command = [uv.program(), "python", "find", "--no-project", "--no-config", "--system", version]
        found = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False, cwd="/")
        if found.returncode == 0:
            yield version, Path(found.stdout.strip())


def python(version: str) -> Path:
    found = dict(interpreters())
    if version not in found:
        pytest.skip(f"no Python {version} on this machine")
    return found[version]


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of this checkout that git knows, as a clone has them."""
    folder = tmp_path_factory.mktemp("clone") / "checkout"
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True
    ).stdout.split(b"\0")
    for name in filter(None, names):
        path = ROOT / os.fsdecode(name)
        if path.is_file():
            target = folder / os.fsdecode(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return folder


@pytest.fixture(scope="session")
def built(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sdist and wheel, built as `uv build` does by itself: the wheel from the sdist."""
    out = tmp_path_factory.mktemp("dist")
    run([uv.program(), "build", "--out-dir", out], checkout)
    return out


def wheel_of(folder: Path) -> Path:
    (found,) = folder.glob("*.whl")
    return found


def contents(wheel: Path) -> dict[str, str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


@pytest.mark.parametrize("version", VERSIONS)
def test_uv_builds_with_the_one_interpreter_that_a_machine_has(checkout: Path, tmp_path: Path, version: str) -> None:
    """No interpreter is fetched, whatever `.python-version` says."""
    (tmp_path / "bin").mkdir()
    for name in ("python3", f"python{version}"):
        (tmp_path / "bin" / name).symlink_to(python(version))
    path = {"PATH": str(tmp_path / "bin"), "UV_PYTHON_PREFERENCE": "only-system", "PYENV_ROOT": "/none"}
    done = run([uv.program(), "build", "--wheel", "--out-dir", tmp_path / "out"], checkout, **path)
    assert wheel_of(tmp_path / "out").is_file(), done.stderr


def test_a_build_frontend_without_uv_builds_the_same_wheel(checkout: Path, built: Path, tmp_path: Path) -> None:
    """As pip and `python -m build` do: the hook of the build backend, in an environment of its own."""
    run([uv.program(), "venv", "--quiet", "--no-project", "--python", sys.executable, tmp_path / "env"], tmp_path)
    interpreter = tmp_path / "env" / "bin" / "python"
    run([uv.program(), "pip", "install", "--quiet", "--python", interpreter, "build"], tmp_path)
    run([interpreter, "-m", "build", "--wheel", "--outdir", tmp_path / "out", checkout], tmp_path, PATH=os.environ["PATH"])
    assert contents(wheel_of(tmp_path / "out")) == contents(wheel_of(built))


def test_the_wheel_of_the_sdist_is_that_of_the_checkout_and_holds_the_data(checkout: Path, built: Path, tmp_path: Path) -> None:
    run([uv.program(), "build", "--wheel", "--out-dir", tmp_path / "out"], checkout)
    found = contents(wheel_of(built))
    assert found == contents(wheel_of(tmp_path / "out"))
    for path in (ROOT / "images").iterdir():
        assert found[f"vllm_ci/data/images/{path.name}"] == hashlib.sha256(path.read_bytes()).hexdigest()
    lock = hashlib.sha256((ROOT / "requirements.lock").read_bytes()).hexdigest()
    assert found["vllm_ci/data/requirements.lock"] == lock
    assert {"vllm_ci/py.typed", "vllm_ci/schema/vllm-ci.schema.json", "vllm_ci/report/report.html.j2"} <= found.keys()


def test_the_sdist_holds_no_caches_and_no_tools(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
    assert any(name.endswith("/pyproject.toml") for name in names)
    assert not [name for name in names if re.search(r"/(\.tools|\.git|\.vllm-ci|__pycache__|\.mypy_cache)(/|$)", name)]


@pytest.fixture(scope="session", params=["highest", "lowest-direct"])
def installed(request: pytest.FixtureRequest, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of an environment that has the wheel and its dependencies, and nothing else."""
    folder = tmp_path_factory.mktemp(request.param)
    wheel = wheel_of(built)
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(name).decode())
    # For uv the dependencies of a wheel are not direct ones; named beside it, they are.
    requirements = [each for each in metadata.get_all("Requires-Dist", []) if "extra ==" not in each]
    (folder / "requirements.txt").write_text("\n".join(requirements) + "\n")
    run([uv.program(), "venv", "--quiet", "--no-project", "--python", sys.executable, folder / "env"], folder)
    command: list[str | Path] = [
        uv.program(),
        "pip",
        "install",
        "--quiet",
        "--no-config",
        "--python",
        folder / "env" / "bin" / "python",
    ]
    run([*command, "--resolution", request.param, "--only-binary", ":all:", "-r", "requirements.txt", wheel], folder)
    return folder / "env" / "bin" / "vllm-ci"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with a small image: the real base, and a package named vllm of a few bytes."""
    shipped = usable("cpu", tmp_path / "relocked")
    folder = tmp_path / "project"
    folder.mkdir()
    spec = yaml.safe_load(shipped.read_text())
    spec |= {"variant": "test", "repository": "small", "requirements": ["vllm-small==1.0"], "overrides": []}
    spec["tiers"] = [{"name": "all", "wheels": ["*"]}]
    (folder / "small.yaml").write_text(yaml.safe_dump(spec))
    shutil.copy(shipped.with_suffix(".debs.lock"), folder / "small.debs.lock")
    wheel = write_wheel(tmp_path / "links", "vllm-small", "1.0", {"vllm/__init__.py": VLLM, "vllm/engine.py": b"STEP = 1\n"})
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    locked = LockedWheel(
        project="vllm-small",
        version="1.0",
        filename=wheel.name,
        sha256=digest,
        size_bytes=wheel.stat().st_size,
        platforms=PLATFORMS,
    )
    write_wheels(folder / "small.lock", [locked], PLATFORMS, spec="small")
    (folder / "tests").mkdir()
    (folder / "tests" / "test_it.py").write_text(TEST)
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    (folder / "vllm-ci.yaml").write_text(
        "version: 1\nimage: {spec: ./small.yaml}\nmodel: {path: model}\nstages: {unit: {paths: [tests]}}\n"
    )
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "small")
    return folder


def test_the_wheel_alone_builds_an_image_and_tests_inside_it(installed: Path, project: Path) -> None:
    links = {"UV_FIND_LINKS": str(project.parent / "links")}
    assert run([installed, "--version"], project).stdout.startswith("vllm-ci, version ")
    shown = json.loads(run([installed, "config", "--json"], project).stdout)
    assert shown["image.spec"]["value"] == "small.yaml"
    doctor = ended([installed, "doctor"], project, **links)
    # 3 where this machine lacks something that has nothing to do with the package, such as free disk space.
    assert doctor.returncode in (0, 3), doctor.stderr
    assert "python" in doctor.stdout
    image = json.loads(run([installed, "build", "--json"], project, **links).stdout)["image"]
    result = json.loads(run([installed, "run", "--stage", "unit", "--json"], project, **links).stdout)
    assert result["verdict"] == "passed", result
    assert result["image"]["digest"] == image["digest"]
    (stage,) = result["stages"]
    assert stage["cases"]["passed"] >= 12
    assert list(Path(result["report_dir"]).glob("report.html"))
    assert "passed" in run([installed, "show"], project).stderr


def test_every_module_of_the_wheel_can_be_imported(installed: Path, tmp_path: Path) -> None:
    """With the lowest versions too: a name that only newer ones have would be found here. What extras bring is left out."""
    code = (
        "import importlib, pkgutil, vllm_ci\n"
        "names = [each.name for each in pkgutil.walk_packages(vllm_ci.__path__, 'vllm_ci.')]\n"
        "skip = ('vllm_ci.module', 'vllm_ci.engines.dagger', 'vllm_ci.evidence.keyless', 'vllm_ci.programs.',\n"
        "        'vllm_ci.suites.unit', 'vllm_ci.suites.security.test_generated', 'vllm_ci.__main__',\n"
        "        'vllm_ci.images._compiler', 'vllm_ci.suites.grpc.')\n"
        "wanted = [name for name in names if not name.startswith(skip)]\n"
        "[importlib.import_module(name) for name in wanted]\n"
        "print(len(wanted))\n"
    )
    assert int(run([installed.parent / "python", "-c", code], tmp_path).stdout) > 150
