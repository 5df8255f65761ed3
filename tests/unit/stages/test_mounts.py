"""What is mounted for pytest, and what the code under test sees of it: nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path

import pytest

from vllm_ci.stages import mounts

pytestmark = pytest.mark.slow

# Import name to distribution. `py` is brought by pytest itself, as a stand-in.
MOUNTED = {"packaging": "packaging", "pluggy": "pluggy", "iniconfig": "iniconfig", "pygments": "pygments", "py": "py"}


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mounts.gather(tmp_path_factory.mktemp("tools"))


def image(root: Path, version: str, *names: str) -> Path:
    """Packages of an image: each has a version, a module that only it has, metadata and an entry point."""
    for name in names:
        package = root / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(f"__version__ = {version!r}\nfrom {name}.only_here import PLACE\n")
        (package / "only_here.py").write_text("PLACE = 'image'\n")
        info = root / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "RECORD").write_text(f"{name}/__init__.py,,\n")
        (info / "entry_points.txt").write_text(f"[pygments.lexers]\nimage = {name}.only_here:NoSuchLexer\n")
    return root


def run(tools: Path, folder: Path, packages: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a test as inside an image: an interpreter with nothing but the standard library and the image's packages."""
    (folder / "test_image.py").write_text(textwrap.dedent(text))
    command = [sys.executable, "-S", str(tools / "start.py"), f"--also={folder}", "-p", "vllm_ci.suites.inside"]
    return subprocess.run(
        [
            *(*command, "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(folder), "--import-mode=append"),
            *("--vllm-report", str(folder / "out"), *options, "test_image.py"),
        ],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(packages), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_what_is_mounted_is_enough_for_pytest_in_a_bare_python(tools: Path, tmp_path: Path) -> None:
    text = "def test_one(request):\n    assert request.config.option.vllm_report\n"
    done = run(tools, tmp_path, tmp_path / "none", text)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out" / "cases.json").is_file()


@pytest.mark.parametrize("version", ["0.0.1", "2099.1"])
@pytest.mark.parametrize("names", [(name,) for name in MOUNTED] + [tuple(MOUNTED)], ids="-".join)
def test_the_code_under_test_sees_the_packages_of_the_image(
    tools: Path, tmp_path: Path, version: str, names: tuple[str, ...]
) -> None:
    """Older and newer ones than those that pytest uses; pytest goes on with its own."""
    text = f"""
        import importlib, importlib.metadata as metadata, importlib.util, json, subprocess, sys
        import pytest

        NAMES = {names!r}
        CODE = (
            "import importlib, importlib.metadata as m, json, sys\\n"
            "print(json.dumps([[importlib.import_module(n).__version__, m.version(n)] for n in sys.argv[1:]]))"
        )

        @pytest.mark.parametrize("name", NAMES)
        def test_import(name):
            module = importlib.import_module(name)
            assert (module.__version__, module.PLACE) == ({version!r}, "image")
            assert importlib.import_module(name + ".only_here").PLACE == "image"
            assert importlib.util.find_spec(name).origin == module.__file__

        def test_metadata():
            assert [metadata.version(name) for name in NAMES] == [{version!r}] * len(NAMES)
            found = sorted((each.metadata["Name"], each.version) for each in metadata.distributions())
            assert found == sorted((name, {version!r}) for name in NAMES)
            assert set(metadata.packages_distributions()) == set(NAMES)
            assert {{each.value for each in metadata.entry_points(group="pygments.lexers")}} == {{
                name + ".only_here:NoSuchLexer" for name in NAMES
            }}

        def test_child_process():
            done = subprocess.run([sys.executable, "-S", "-c", CODE, *NAMES], capture_output=True, text=True)
            assert json.loads(done.stdout) == [[{version!r}, {version!r}]] * len(NAMES), done.stderr

        def test_pytest_works():
            with pytest.raises(ValueError, match="x"):
                raise ValueError("x")
            pytest.importorskip("json", minversion=None)
    """
    done = run(tools, tmp_path, image(tmp_path / "image", version, *names), text, "--color=yes")
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_the_image_lacks_is_lacking(tools: Path, tmp_path: Path) -> None:
    text = f"""
        import importlib, importlib.metadata as metadata, pkgutil, sys
        import pytest

        HIDDEN = {tuple(MOUNTED)!r}

        @pytest.mark.parametrize("name", HIDDEN)
        def test_import(name):
            with pytest.raises(ModuleNotFoundError):
                importlib.import_module(name)
            assert not [loaded for loaded in sys.modules if loaded.partition(".")[0] == name]

        @pytest.mark.parametrize("name", ["pytest", *HIDDEN])
        def test_metadata(name):
            with pytest.raises(metadata.PackageNotFoundError):
                metadata.version(name)
            assert not list(metadata.distributions())

        def test_path():
            assert not [entry for entry in sys.path if entry.startswith({str(tools)!r})]
            assert not {{"pytest", "_pytest", "vllm_ci", *HIDDEN}} & {{each.name for each in pkgutil.iter_modules()}}
    """
    done = run(tools, tmp_path, tmp_path / "none", text)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_mounted_pytest_runs_the_tests_although_the_image_has_one(tools: Path, tmp_path: Path) -> None:
    """On purpose: the report is made by ours. What is installed is still told truly, and child processes use the image's."""
    text = f"""
        import importlib.metadata, subprocess, sys
        import pytest, _pytest

        def test_one():
            assert pytest.__version__ == {metadata.version("pytest")!r}
            assert importlib.metadata.version("pytest") == "1.0"
            code = "import pytest; print(pytest.PLACE)"
            done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True)
            assert done.stdout == "image\\n", done.stderr
    """
    done = run(tools, tmp_path, image(tmp_path / "image", "1.0", "pytest", "_pytest", "pluggy"), text)
    assert done.returncode == 0, done.stdout + done.stderr


def test_conftests_and_plugins_of_the_user_and_of_the_image_work(tools: Path, tmp_path: Path) -> None:
    """A plugin that the image has installed is loaded by its entry point, as pytest does anywhere."""
    packages = image(tmp_path / "image", "1.0", "plugin")
    (packages / "plugin" / "hooks.py").write_text("import pytest\n@pytest.fixture\ndef of_image():\n    return 1\n")
    (packages / "plugin-1.0.dist-info" / "entry_points.txt").write_text("[pytest11]\nplugin = plugin.hooks\n")
    (tmp_path / "conftest.py").write_text(
        "import pytest\npytest_plugins = 'pytester'\n@pytest.fixture\ndef of_user(of_image):\n    return of_image + 1\n"
    )
    text = "def test_one(of_user, pytester):\n    assert of_user == 2\n"
    done = run(tools, tmp_path, packages, text)
    assert done.returncode == 0, done.stdout + done.stderr


def test_processes_that_multiprocessing_spawns_find_the_test_and_start_no_second_pytest(tools: Path, tmp_path: Path) -> None:
    text = """
        import multiprocessing
        import pytest

        def work(queue):
            queue.put(pytest.__name__)

        def test_spawn():
            context = multiprocessing.get_context("spawn")
            queue = context.Queue()
            process = context.Process(target=work, args=(queue,))
            process.start()
            assert queue.get(timeout=60) == "pytest"
            process.join(60)
            assert process.exitcode == 0
    """
    done = run(tools, tmp_path, tmp_path / "none", text)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("test session starts") == 1
