from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vllm_ci.domain.errors import BuildError
from vllm_ci.domain.events import ignore
from vllm_ci.images import fetch
from vllm_ci.images.fetch import Download

CONTENT = bytes(range(256)) * 2000


class Place:
    """A server of one file, that can break off and can lie."""

    def __init__(self) -> None:
        self.ranges: list[str] = []
        self.break_after: list[int] = []
        self.content = CONTENT
        place = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers.get("Range", "")
                place.ranges.append(wanted)
                start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
                body = place.content[start:]
                self.send_response(206 if wanted else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: place.break_after.pop(0)] if place.break_after else body)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/file"


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(fetch, "PAUSE_S", 0.0)
    found = Place()
    thread = threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()


def wanted(folder: Path) -> Download:
    return Download(
        name="file", sha256=hashlib.sha256(CONTENT).hexdigest(), size_bytes=len(CONTENT), target=folder / "hash" / "file"
    )


def have(folder: Path, *places: str) -> Path:
    item = wanted(folder)
    fetch.have([item], lambda *_: places, emit=ignore)
    return item.target


def test_a_download_goes_on_where_it_broke_off(place: Place, tmp_path: Path) -> None:
    place.break_after = [100_000, 50_000]
    assert have(tmp_path, place.url).read_bytes() == CONTENT
    assert place.ranges == ["", "bytes=100000-", "bytes=150000-"]


def test_a_later_build_goes_on_where_a_killed_one_stopped(place: Place, tmp_path: Path) -> None:
    part = tmp_path / "hash" / ".file.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT[:1234])
    assert have(tmp_path, place.url).read_bytes() == CONTENT
    assert place.ranges == ["bytes=1234-"]


def test_what_has_another_hash_is_not_kept_and_the_next_place_is_asked(place: Place, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(CONTENT[:-1] + b"x")
    assert have(tmp_path, str(bad), place.url).read_bytes() == CONTENT


def test_only_lies_are_an_error_and_leave_nothing_behind(place: Place, tmp_path: Path) -> None:
    place.content = CONTENT[:-1] + b"x"
    with pytest.raises(BuildError, match="is not available anywhere") as caught:
        have(tmp_path, place.url)
    assert "has another file under this name" in caught.value.why
    assert not list((tmp_path / "hash").glob("*file*"))


def test_what_is_there_is_not_fetched(place: Place, tmp_path: Path) -> None:
    have(tmp_path, place.url)
    have(tmp_path, place.url)
    assert len(place.ranges) == 1


def test_a_place_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="is not available anywhere") as caught:
        have(tmp_path, "http://user:secret@127.0.0.1:9/file")
    assert "127.0.0.1:9 cannot be reached" in caught.value.why
    assert "secret" not in str(caught.value)
