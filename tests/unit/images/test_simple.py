"""Pages of package indexes: the file that is looked for among thousands, and pages that are none."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from vllm_ci.images.simple import packages


class Index:
    """An index with one page."""

    def __init__(self) -> None:
        self.page: Any = {}
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(index.page).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/vnd.pypi.simple.v1+json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/simple"


@pytest.fixture
def index() -> Iterator[Index]:
    found = Index()
    thread = threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()


def file(number: int) -> dict[str, Any]:
    name = f"p-{number}.0-py3-none-any.whl"
    return {"filename": name, "url": f"/files/{name}", "hashes": {"sha256": f"{number:064x}"}}


def page(*files: Any) -> dict[str, Any]:
    return {"meta": {"api-version": "1.0"}, "name": "p", "files": list(files)}


def names(index: Index, only: tuple[str, str] | None = None) -> list[str]:
    with httpx.Client() as http:
        return [package.filename for package in packages(index.url, "p", http, only)]


@pytest.mark.slow
def test_of_thousands_of_files_the_one_with_the_name_or_the_hash_is_returned(index: Index) -> None:
    index.page = page(*map(file, range(3000)))
    assert names(index, ("p-7.0-py3-none-any.whl", "0" * 64 + "x")) == ["p-7.0-py3-none-any.whl"]
    assert names(index, ("renamed.whl", f"{2999:064x}")) == ["p-2999.0-py3-none-any.whl"]
    assert names(index, ("another.whl", "f" * 64)) == []
    assert len(names(index)) == 3000


def test_a_file_without_hashes_is_found_by_its_name(index: Index) -> None:
    index.page = page({**file(1), "hashes": {}}, {**file(2), "hashes": {}})
    assert names(index, ("p-2.0-py3-none-any.whl", "0" * 64)) == ["p-2.0-py3-none-any.whl"]


@pytest.mark.parametrize(
    "odd", [[], "text", {"files": 1}, page(None), page({"filename": "x.whl"}), page({"hashes": 3, "filename": "x.whl"})]
)
def test_a_page_that_is_none_has_nothing(odd: Any, index: Index) -> None:
    index.page = odd
    assert names(index, ("x.whl", "0" * 64)) == []
