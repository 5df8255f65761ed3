"""`vllm-ci report serve`: this machine only, files of the reports only, and an index that is made anew."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from unit.report.pages import report
from vllm_ci.report import folder

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder.write(tmp_path / "runs", report(3), {"server": "INFO fine"})
    (tmp_path / "secret").write_text("s3cret")
    (tmp_path / "runs" / "link").symlink_to(tmp_path)
    return tmp_path / "runs"


@pytest.fixture
def url(runs: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "vllm_ci", "report", "serve", str(runs)]
    with subprocess.Popen(command, cwd=ROOT / "pipeline", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        yield process.stdout.readline().strip()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert "Traceback" not in process.stderr.read()


def test_reports_are_served_to_this_machine_only(runs: Path, url: str) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
    with httpx.Client(base_url=url, trust_env=False) as client:
        index = client.get("/")
        (page,) = re.findall(r'href="([^"]+/report\.html)"', index.text)
        shown = client.get(page)
        assert "2 of" in shown.text or "1 of 4 cases failed" in shown.text
        assert shown.headers["content-type"] == "text/html; charset=utf-8"
        assert shown.headers["x-content-type-options"] == "nosniff"
        for answer in (index, shown):
            policy = answer.headers["content-security-policy"].split("; ")
            assert {"default-src 'none'", "form-action 'none'", "frame-ancestors 'none'"} <= set(policy), (
                "HTML of others is served, too"
            )
        log = client.get(page.replace("report.html", "logs/server.log"))
        assert (log.text, log.headers["content-type"]) == ("INFO fine", "text/plain; charset=utf-8")
        assert client.head("/").content == b""
        for path in ("/link/secret", "/nothing", "/..%2fsecret", "/%2e%2e/secret", "/%00", "/link", "//etc/passwd"):
            assert client.get(path).status_code == 404, path
        for host in ("evil.example.com", "127.0.0.1.evil.example.com:80", "evil.example.com:127.0.0.1"):
            assert client.get("/", headers={"Host": host}).status_code == 421
        folder.write(runs, report(4), {})
        assert len(re.findall(r'href="[^"]+/report\.html"', client.get("/").text)) == 2, "a new report is there at once"
        port = int(url.rstrip("/").rpartition(":")[2])
        taken = subprocess.run(
            [sys.executable, "-m", "vllm_ci", "report", "serve", str(runs), "--port", str(port)],
            cwd=ROOT / "pipeline",
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert taken.returncode == 2
        assert f"port {port} cannot be used" in taken.stderr
    addresses = {each[4][0] for each in socket.getaddrinfo(socket.gethostname(), port, proto=socket.IPPROTO_TCP)}
    for address in addresses - {"127.0.0.1", "::1"}:
        with pytest.raises(OSError, match=r"refused|unreachable"):
            socket.create_connection((str(address), port), timeout=5)
