"""Odd wheels against pip, uv and the installer library: what they take is taken, what none of them takes is refused by name."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from generated import examples
from imagery import odd
from imagery.wheels import RawWheel, record_row
from vllm_ci.domain.errors import BuildError
from vllm_ci.images.entries import read
from vllm_ci.images.wheels import entry_points, record
from vllm_ci.images.wheels.wheel import Environment, Wheel

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
ENVIRONMENT = Environment(prefix="/e", python=PYTHON)
UV = shutil.which("uv") or next(map(str, Path(__file__).resolve().parents[3].glob(".tools/uv/bin/uv")), "")
# The test environment has no pip; the Python that it was made from mostly does.
PIP = str(Path(sys.base_prefix) / "bin" / f"python{PYTHON}")

# Refused on purpose although pip, uv or both take it: what would break an image, or mean different things to different readers.
STRICTER = {
    "entry point: without a name",  # some versions of pip take it
    "record: unclosed quote",  # pip takes the rest of the file for one name
    "record: four fields",
    "entry point: twice",  # pip takes one of the two
    "entry point: comment after the value",
    "entry point: no group",
    "entry point: broken group",
    "entry point: slash in the name",
    "entry point: climbing name",
    "entry point: absolute name",
    "entry point: not an identifier",
    "entry point: code for a function",
    "entry point: line break in the value",
    "entry point: percent sign",
    "entry point: called python",
    "entry point: called python3",
    "entry point: called python3.11",
    "entry point: called activate",
    "entry point: called .wh.tool",
    "script: called python",
    "data: replaces the interpreter",
    "data: replaces pyvenv.cfg",
    "data: brings activate",
    "data: two files at one path",
    "metadata: another name",
    "metadata: another version",
    "metadata: no name",
    "zip: whiteout",
    "zip: opaque whiteout",
    "zip: directory with a whiteout's name",
    "zip: member twice, different",
    "zip: climbing name",
    "zip: climbing inside",
    "zip: absolute name",
    "zip: name with a line break",
    "zip: name with a control character",
    "zip: bzip2",
    "zip: LZMA",
    "zip: NUL in a name",
}
# Two programs of the reference disagree on what is installed; ours is what uv does.
ONLY_UV_AGREES = {"entry point: byte order mark", "entry point: space in the name", "data: of another name"}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What an installer made of a wheel: files below the environment, and their content where it is text of the wheel."""

    taken: bool
    files: Mapping[str, bytes]
    words: str


def ours(path: Path) -> Answer:
    """What the builder makes of it; a fault of ours is no answer."""
    try:
        found = {
            entry.path.removeprefix("e/"): read(entry.content)
            for entry, _ in Wheel(path, ENVIRONMENT, project="odd").files()
            if entry.content
        }
    except BuildError as error:
        return Answer(taken=False, files={}, words=str(error))
    return Answer(taken=True, files=found, words="")


class Reference:
    """Installers, each into a new environment."""

    def __init__(self, root: Path) -> None:
        self.root = root
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root / "clean")], check=True)
        self.before = _files(root / "clean")
        self._pip: subprocess.Popen[str] | None = None

    def ask(self, name: str, path: Path) -> Answer:
        """Install with ``uv`` or ``pip``."""
        target = self.root / "e"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.root / "clean", target, symlinks=True)
        taken, words = self._uv(target, path) if name == "uv" else self._by_pip(target, path)
        files = {path: content for path, content in _files(target).items() if self.before.get(path) != content}
        return Answer(taken=taken, files=files, words=words)

    def _uv(self, target: Path, path: Path) -> tuple[bool, str]:
        options = ["--no-config", "--no-deps", "--offline", "--no-index", "--python", str(target / "bin/python")]
        environment = {**os.environ, "UV_CACHE_DIR": str(self.root / "cache")}
        done = subprocess.run([UV, "pip", "install", *options, str(path)], capture_output=True, check=False, env=environment)
        return done.returncode == 0, done.stderr.decode(errors="replace")

    def _by_pip(self, target: Path, path: Path) -> tuple[bool, str]:
        """Ask a process that has loaded pip and forks for each wheel: starting pip takes longer than what it does."""
        if self._pip is None:
            environment = {**os.environ, "PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
            self._pip = subprocess.Popen(
                [PIP, "-c", _FORKING_PIP],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment,
            )
        assert self._pip.stdin is not None
        assert self._pip.stdout is not None
        print(json.dumps([str(target), str(path)]), file=self._pip.stdin, flush=True)
        return self._pip.stdout.readline() == "0\n", "pip"

    def close(self) -> None:
        """End pip."""
        if self._pip is not None:
            self._pip.communicate()


_FORKING_PIP = """
import json, os, sys
from pip._internal.cli.main import main
import pip._internal.commands.install
for line in sys.stdin:
    target, wheel = json.loads(line)
    child = os.fork()
    if not child:
        os.dup2(2, 1)
        options = ["--prefix", target, "--ignore-installed", "--no-deps", "--no-index", "--no-compile", "-q"]
        try:
            os._exit(main(["install", *options, wheel]))
        finally:
            os._exit(2)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def _files(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name not in {".lock", "uv_cache.json"} and "__pycache__" not in path.parts
    }


def _comparable(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Without what each installer writes in its own words: who it is, its list, the code of entry points' scripts.

    Signatures of ``RECORD`` are about the wheel's own, so we and the installer library leave them out; pip and uv do not.
    """
    own = ("/RECORD", "/INSTALLER", "/REQUESTED", "/direct_url.json", "/RECORD.jws", "/RECORD.p7s")
    return {path: b"" if path.startswith("bin/") else content for path, content in files.items() if not path.endswith(own)}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    root = tmp_path_factory.mktemp("reference")
    found = Reference(root)
    yield found
    found.close()
    shutil.rmtree(root, ignore_errors=True)


@pytest.mark.parametrize("label", odd.TABLE)
def test_an_odd_wheel_is_taken_or_refused_by_name(label: str, tmp_path: Path) -> None:
    answer = ours(odd.write(label, tmp_path))
    if not answer.taken:
        assert "odd" in answer.words.lower()
        assert "do:" in answer.words


@pytest.mark.needs_tool
@pytest.mark.slow
@pytest.mark.parametrize("label", odd.TABLE)
def test_what_uv_and_pip_make_of_an_odd_wheel_is_what_we_make_of_it(label: str, tmp_path: Path, reference: Reference) -> None:
    path = odd.write(label, tmp_path)
    answer = ours(path)
    asked = {name: reference.ask(name, path) for name in _installers()}
    if not asked:
        pytest.skip("neither uv nor pip is here")
    if label in STRICTER:
        assert not answer.taken
        return
    if len(asked) == 2:
        assert answer.taken == any(other.taken for other in asked.values()), {k: v.words[-500:] for k, v in asked.items()}
    for name, other in asked.items():
        if answer.taken and other.taken and (name == "uv" or label not in ONLY_UV_AGREES):
            assert _comparable(answer.files) == _comparable(other.files)


@functools.cache
def _installers() -> list[str]:
    pip = subprocess.run([PIP, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0
    return [name for name, there in (("uv", bool(UV)), ("pip", pip)) if there]


_NAMES = st.sampled_from(
    ["a.py", "b.py", "pkg/a.py", "pkg/b.so", "pkg/sub/c.txt", "a,b.py", "caf\u00e9.py", "pkg/.hidden", "x y"]
)
_DATA = st.sampled_from(["purelib/p.py", "platlib/q.so", "scripts/run", "scripts/tool", "data/share/d.txt", "headers/h.h"])
_CONTENT = st.sampled_from([b"", b"x = 1\n", b"#!python\nprint()\n", b"#!python3\r\n", b"\x7fELF", bytes(range(256))])
_POINTS = st.sampled_from(
    [
        "tool = a:main",
        "tool=a:main",
        " tool = a : main ",
        "run = pkg.a:X.y [extra]",
        "# no",
        "",
        "[gui_scripts]",
        "gui = a:f",
        "t2 = a",
    ]
)


@st.composite
def wheels(draw: st.DrawFn) -> RawWheel:
    """Wheels with a random choice of files, entry points and a ``RECORD`` that may be wrong in one or two places."""
    files = dict(draw(st.dictionaries(_NAMES, _CONTENT, min_size=1, max_size=4)))
    files |= {f"odd-1.0.data/{name}": data for name, data in draw(st.dictionaries(_DATA, _CONTENT, max_size=3)).items()}
    if draw(st.booleans()):
        lines = ["[console_scripts]", *draw(st.lists(_POINTS, max_size=4, unique=True))]
        files["odd-1.0.dist-info/entry_points.txt"] = "\n".join(lines).encode()
    made = RawWheel(files=list(files.items()))
    rows = [_quoted(name, data) for name, data in made.with_metadata()] + [f"{made.info}/RECORD,,"]
    for _ in range(draw(st.integers(0, 2))):
        rows = draw(st.sampled_from(_DAMAGES))(rows, draw(st.integers(0, len(rows) - 1)))
    made.record = (
        draw(st.sampled_from(["\n", "\r\n"])).join(rows).encode(draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig"])))
    )
    return made


def _quoted(name: str, data: bytes) -> str:
    row = record_row(name, data)
    return f'"{name}"{row.removeprefix(name)}' if "," in name else row


_DAMAGES = (
    lambda rows, at: [*rows[:at], *rows[at + 1 :]] or [""],
    lambda rows, at: [*rows[:at], "", *rows[at:]],
    lambda rows, at: [*rows[:at], rows[at], *rows[at:]],
    lambda rows, at: [*rows[:at], rows[at].replace('"', ""), *rows[at + 1 :]],
    lambda rows, at: [*rows[:at], rows[at].replace("sha256=", "sha256=%"), *rows[at + 1 :]],
    lambda rows, at: [*rows[:at], rows[at].split(",", maxsplit=1)[0], *rows[at + 1 :]],
    lambda rows, at: [*rows[:at], "../../etc/passwd,,", *rows[at:]],
)


@pytest.mark.slow
@settings(max_examples=examples(400), deadline=None, suppress_health_check=list(HealthCheck))
@given(wheel=wheels())
def test_generated_wheels_are_installed_as_the_installer_library_does(wheel: RawWheel, tmp_path: Path) -> None:
    path = wheel.write(tmp_path / "w")
    answer = ours(path)
    theirs = _by_library(path, tmp_path / "e")
    if theirs.taken:
        assert answer.taken, answer.words
        assert _comparable(answer.files).keys() == _comparable(theirs.files).keys()


def _by_library(path: Path, root: Path) -> Answer:
    from installer import install
    from installer.destinations import SchemeDictionaryDestination
    from installer.sources import WheelFile

    shutil.rmtree(root, ignore_errors=True)
    schemes = {name: str(root.parent / folder) for name, folder in ENVIRONMENT.schemes("odd").items()}
    target = SchemeDictionaryDestination(schemes, interpreter="/e/bin/python", script_kind="posix")
    try:
        with WheelFile.open(path) as source:
            install(source, target, {})
    except Exception as error:  # noqa: BLE001 - whatever the library raises, it is the reference
        return Answer(taken=False, files={}, words=repr(error))
    return Answer(taken=True, files=_files(root), words="")


@pytest.mark.slow
@pytest.mark.needs_tool
@pytest.mark.skipif(not UV, reason="uv is not here")
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(wheel=wheels())
def test_generated_wheels_are_installed_as_uv_does(wheel: RawWheel, tmp_path: Path, reference: Reference) -> None:
    path = wheel.write(tmp_path)
    answer, theirs = ours(path), reference.ask("uv", path)
    if theirs.taken:
        assert answer.taken, answer.words
        assert _comparable(answer.files) == _comparable(theirs.files)


@pytest.mark.slow
@settings(max_examples=examples(600), deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_archive_is_never_a_fault_of_ours(data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(odd.TABLE["script: shipped and declared"].write(tmp_path).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "odd-1.0-py3-none-any.whl"
    path.write_bytes(bytes(content[: data.draw(st.integers(len(content) - 40, len(content)))]))
    ours(path)


@pytest.mark.slow
@settings(max_examples=examples(1000), deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_record_and_no_entry_points_are_a_fault_of_ours(content: bytes) -> None:
    words = _words(content)
    assert not words or "odd.whl" in words


def _words(content: bytes) -> str:
    try:
        text = record.decoded(content, wheel="odd.whl", member="RECORD")
        record.parse(text, wheel="odd.whl", member="RECORD", names={"a"})
        entry_points.parse("[console_scripts]\n" + text, "odd.whl: entry_points.txt")
    except BuildError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("label", "where"),
    [
        ("record: Latin-1", "RECORD:1"),
        ("record: unclosed quote", "RECORD:1"),
        ("record: four fields", "RECORD:1"),
        ("entry point: without a function", "entry_points.txt:2"),
        ("entry point: twice", "entry_points.txt:3"),
        ("entry point: Latin-1", "entry_points.txt:3"),
        ("entry point: called python", "/e/bin/python is claimed by odd-1.0-py3-none-any.whl"),
        ("data: replaces pyvenv.cfg", "/e/pyvenv.cfg is claimed by odd-1.0-py3-none-any.whl"),
        ("data: two files at one path", "purelib/a.py and odd-1.0.data/platlib/a.py"),
        ("zip: whiteout", "odd/.wh.other holds .wh.other"),
    ],
)
def test_a_refusal_names_wheel_and_line(label: str, where: str, tmp_path: Path) -> None:
    words = ours(odd.write(label, tmp_path)).words
    assert where in words
    assert "odd-1.0-py3-none-any.whl" in words


def test_the_record_of_an_installed_wheel_keeps_hashes_of_other_algorithms(tmp_path: Path) -> None:
    files = ours(odd.write("record: sha512", tmp_path)).files
    assert (
        record_row("odd.py", odd.CODE[0][1], "sha512").encode() in files[f"lib/python{PYTHON}/site-packages/{odd.INFO}/RECORD"]
    )


def test_rows_that_leave_the_environment_are_not_copied(tmp_path: Path) -> None:
    files = ours(odd.write("record: name that climbs", tmp_path)).files
    assert b"passwd" not in files[f"lib/python{PYTHON}/site-packages/{odd.INFO}/RECORD"]


def test_a_declared_script_takes_the_place_of_a_shipped_one(tmp_path: Path) -> None:
    assert b"import main" in ours(odd.write("script: shipped and declared", tmp_path)).files["bin/tool"]


@pytest.mark.slow
def test_an_installer_file_in_the_wheel_is_replaced(tmp_path: Path) -> None:
    files = ours(odd.write("dist-info: INSTALLER", tmp_path)).files
    assert files[f"lib/python{PYTHON}/site-packages/{odd.INFO}/INSTALLER"] == b"vllm-ci\n"
