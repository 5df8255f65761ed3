"""The real registry: Debian's docker-registry, on a free port, with its log at hand."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

USERNAME, PASSWORD = "release-manager", "correct horse"
# Of the password above, by bcrypt with cost 5.
_HTPASSWD = f"{USERNAME}:$2y$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2\n"
PROGRAM = "docker-registry"


@dataclass(frozen=True, kw_only=True)
class DockerRegistry:
    """A registry that runs."""

    host: str
    root: Path
    log: list[str]
    config: Path

    def collect_garbage(self) -> str:
        """What `registry garbage-collect --delete-untagged` prints."""
        command = [PROGRAM, "garbage-collect", "--delete-untagged=true", str(self.config)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def tail(self) -> str:
        return "".join(self.log[-20:])


@contextlib.contextmanager
def docker_registry(
    folder: Path, *, password: bool = False, certificate: tuple[Path, Path] | None = None, delete: bool = True
) -> Iterator[DockerRegistry]:
    """Start one in `folder`; stop it at the end."""
    config: dict[str, object] = {
        "version": 0.1,
        "log": {"level": "info"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": delete}},
        "http": {"addr": "127.0.0.1:0", "secret": "not a secret"},
    }
    if certificate:
        config["http"] = {**dict(config["http"]), "tls": {"certificate": str(certificate[0]), "key": str(certificate[1])}}  # type: ignore[call-overload]
    if password:
        (folder / "htpasswd").write_text(_HTPASSWD)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    file = folder / "config.json"
    file.write_text(json.dumps(config))  # YAML, too
    environment = {**os.environ, "OTEL_TRACES_EXPORTER": "none"}
    process = subprocess.Popen(
        [PROGRAM, "serve", str(file)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment, text=True
    )
    log: list[str] = []
    ready = threading.Event()
    port = ""

    def read() -> None:
        nonlocal port
        assert process.stderr
        for line in process.stderr:
            log.append(line)
            if match := re.search(r"listening on 127\.0\.0\.1:(\d+)", line):
                port = match[1]
                ready.set()
        ready.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        assert ready.wait(30), "docker-registry did not start"
        assert port, "".join(log)
        yield DockerRegistry(host=f"127.0.0.1:{port}", root=folder / "data", log=log, config=file)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        reader.join(20)
        assert process.stderr
        process.stderr.close()


def is_installed() -> bool:
    return shutil.which(PROGRAM) is not None
