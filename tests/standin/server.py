"""A program in the place of vLLM: listens and answers one kind of question, or ends as a real one did.

Usage: ``server.py MODE PORT LOG``. Modes: ``good``; ``dies``: writes what stands in the file LOG and ends with exit code 1;
``deaf``: as good, and does not mind SIGTERM; ``silent``: runs, and never answers.
"""

from __future__ import annotations

import http.server
import json
import os
import signal
import sys
import time
from pathlib import Path


class Answers(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        body = json.dumps({"choices": [{"text": "yes"}]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(mode: str, port: str, log: str) -> int:
    say(f"INFO the server's key is {os.environ.get('VLLM_API_KEY', 'none')}")
    if mode == "dies":
        say(Path(log).read_text(encoding="utf-8"))
        return 1
    if mode == "silent":
        time.sleep(600)
    if mode == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Answers).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
